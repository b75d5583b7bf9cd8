//! The counters of the programs. This is the only table of them, as [`crate::drop_reason`] is for drops: the programs, the
//! status document, the metrics and `mtd status` follow from it.

/// Version of the layouts in this module. A new reason or counter does not change it while there is room.
pub const VERSION: u32 = 6;

/// Number of drop reasons that there is room for.
pub const DROP_SLOTS: u32 = 256;

/// Number of elements of the per-CPU array `DROPS`: dropped packets by [`crate::DropReason`], and from [`DROP_SLOTS`] on
/// packets that would have been dropped if anything were enforced.
pub const DROP_COUNTERS: u32 = 2 * DROP_SLOTS;

/// Number of elements of the per-CPU array `COUNTERS`.
pub const COUNTER_SLOTS: u32 = 64;

/// Calls the macro `$with` with the table of counters: variant = number, key in the status document, name of the metric,
/// meaning, row of `mtd status`. Numbers are part of the ABI: a new counter takes the next one.
#[macro_export]
macro_rules! counters {
    ($with:ident) => {
        $with! {
            Passed = 0, passed, "mtd_passed_packets_total",
                "Frames that are none of mtd's, handed to the kernel untouched.",
                Some(Row::always(1, "passed untouched"));
            Accepted = 1, accepted, "mtd_accepted_packets_total",
                "Valid packets, opened and delivered.",
                Some(Row::always(2, "accepted"));
            Sent = 2, sent, "mtd_sent_packets_total",
                "Inner packets sealed and sent.",
                Some(Row::always(5, "sent"));
            NeighbourAnswered = 3, neighbour_answered, "mtd_neighbour_answers_total",
                "Neighbour solicitations answered.",
                Some(Row::always(8, "solicitations answered"));
            EventsSuppressed = 4, events_suppressed, "mtd_drop_events_suppressed_total",
                "Drops counted but not reported as events.",
                Some(Row::always(9, "drops not reported"));
            Control = 5, control, "mtd_control_messages_total",
                "Control messages handed to the controller.",
                Some(Row::always(7, "control messages"));
            Steered = 6, steered, "mtd_steered_packets_total",
                "Packets handed to another CPU, to be opened there.",
                Some(Row::always(3, "opened on other CPUs"));
            SteeringLost = 7, steering_lost, "mtd_steered_packets_lost_total",
                "Of those, packets lost on the way.",
                Some(Row::unless_zero(4, "lost on the way there"));
            SealedAhead = 8, sealed_ahead, "mtd_sealed_ahead_packets_total",
                "Packets sealed with key stream made ahead.",
                Some(Row::unless_zero(6, "sealed, opened with key stream made ahead"));
            OpenedAhead = 9, opened_ahead, "mtd_opened_ahead_packets_total",
                "Packets opened with key stream made ahead.",
                Some(Row::unless_zero(6, "sealed, opened with key stream made ahead"));
            Allowed = 10, allowed, "mtd_allowed_packets_total",
                "Refused packets passed to the kernel because `allow` names them.",
                Some(Row::unless_zero(10, "allowed"));
            TooBig = 11, too_big, "mtd_packet_too_big_messages_total",
                "Packet Too Big messages that were believed.",
                None;
            Cut = 12, cut, "mtd_cut_packets_total",
                "Inner IPv6 packets cut in two because the path carries less than 1,352 bytes.",
                Some(Row::unless_zero(11, "cut in two for a narrow path"));
            NeighbourReplies = 13, neighbour_replies, "mtd_neighbour_replies_total",
                "Answers of neighbours to solicitations of ours, which announce own addresses to them.",
                Some(Row::unless_zero(12, "announcements answered"));
        }
    };
}

/// Where `mtd status` shows a counter. Counters of one place share a row, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Place among the rows, from 1 on.
    pub place: u8,
    /// The text before the number.
    pub text: &'static str,
    /// Whether the row is left out while nothing was counted.
    pub unless_zero: bool,
}

impl Row {
    const fn always(place: u8, text: &'static str) -> Self {
        Self { place, text, unless_zero: false }
    }

    const fn unless_zero(place: u8, text: &'static str) -> Self {
        Self { place, text, unless_zero: true }
    }
}

macro_rules! counter {
    ($($variant:ident = $number:literal, $key:ident, $metric:literal, $help:literal, $row:expr;)+) => {
        /// Index into the per-CPU array `COUNTERS`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $help] $variant = $number,)+
        }

        impl Counter {
            /// Every counter, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Stable name: key in the status document.
            pub const fn key(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($key),)+
                }
            }

            /// Name of the metric.
            pub const fn metric(self) -> &'static str {
                match self {
                    $(Self::$variant => $metric,)+
                }
            }

            /// Its meaning, one sentence.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)+
                }
            }

            /// Its place in `mtd status`. `None`: not shown.
            pub const fn row(self) -> Option<Row> {
                match self {
                    $(Self::$variant => $row,)+
                }
            }
        }
    };
}
counters!(counter);

const _: () = {
    let mut i = 0;
    while i < Counter::ALL.len() {
        assert!(Counter::ALL[i] as u32 == i as u32 && (i as u32) < COUNTER_SLOTS);
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn keys_and_metrics_are_unique_and_rows_are_whole() {
        let mut names = HashSet::new();
        let mut rows = BTreeMap::new();
        for counter in Counter::ALL {
            assert!(names.insert(counter.key()) && names.insert(counter.metric()), "{counter:?} twice");
            assert!(
                counter.metric().starts_with("mtd_") && counter.metric().ends_with("_total"),
                "{counter:?}"
            );
            assert!(counter.help().ends_with('.'), "{counter:?}");
            if let Some(row) = counter.row() {
                assert_eq!(
                    *rows.entry(row.place).or_insert(row),
                    row,
                    "{counter:?} shares a row of another text"
                );
            }
        }
        assert!(rows.keys().copied().eq(1..=rows.len() as u8), "no place is left out: {rows:?}");
    }
}
