//! Counters, and the kernel's data on programs and maps. The documents of the control socket contain these types as they
//! are.

use std::collections::BTreeMap;

use mtd_common::DropReason;
use mtd_common::abi::Counter;
use serde::{Deserialize, Serialize};

/// The counters of the programs, since they were attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dropped packets, by reason; only reasons that occurred.
    pub drops: BTreeMap<DropReason, u64>,
    /// Packets that enforcement would have dropped, by reason; only reasons that occurred.
    pub would_drop: BTreeMap<DropReason, u64>,
    /// All other counters.
    pub frames: Frames,
}

/// The traffic of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionTraffic {
    /// Inner packets received.
    pub received: Traffic,
    /// Inner packets sent.
    pub sent: Traffic,
    /// `CLOCK_BOOTTIME` in ns of the last valid packet; 0: none yet.
    pub last_valid: u64,
}

macro_rules! frames {
    ($($variant:ident = $number:literal, $key:ident, $metric:literal, $help:literal, $row:expr;)+) => {
        /// The counters other than drops, one field for each line of the table in `mtd_common`. A counter that another
        /// version lacks is 0 in its document.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Frames {
            $(#[doc = $help] pub $key: u64,)+
        }

        impl Frames {
            /// The counters with the values that `read` returns.
            ///
            /// # Errors
            /// The first error of `read`.
            pub fn read<E>(mut read: impl FnMut(Counter) -> Result<u64, E>) -> Result<Self, E> {
                Ok(Self { $($key: read(Counter::$variant)?,)+ })
            }

            /// The value of a counter.
            pub const fn get(&self, counter: Counter) -> u64 {
                match counter {
                    $(Counter::$variant => self.$key,)+
                }
            }
        }
    };
}
mtd_common::counters!(frames);

/// Inner packets.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, inner headers included.
    pub bytes: u64,
}

/// Inner packets of all sessions together since the controller started, those of ended sessions included.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// A program in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its number, as `bpftool prog` shows it.
    pub id: u32,
    /// A hash of its instructions, 16 hexadecimal digits.
    pub tag: String,
    /// When it was loaded, in unix seconds.
    pub loaded: Option<f64>,
    /// How often it ran; 0 unless the kernel counts that (`sysctl kernel.bpf_stats_enabled=1`).
    pub runs: u64,
    /// Its total running time in seconds; 0 as for `runs`.
    pub run_seconds: f64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// `addresses`, `sessions` or `routes`.
    pub name: String,
    /// Entries that are taken.
    pub used: u64,
    /// Capacity in entries.
    pub capacity: u64,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn the_document_has_each_counter_under_its_key() {
        let Ok(frames) = Frames::read(|counter| Ok::<_, Infallible>(100 + counter as u64));
        let document = serde_json::to_value(frames).unwrap();
        assert_eq!(document.as_object().unwrap().len(), Counter::ALL.len());
        for &counter in Counter::ALL {
            assert_eq!(frames.get(counter), 100 + counter as u64);
            assert_eq!(document[counter.key()], 100 + counter as u64, "{counter:?}");
        }
        assert_eq!(serde_json::from_value::<Frames>(document).unwrap(), frames);
        assert_eq!(serde_json::from_str::<Frames>("{}").unwrap(), Frames::default());
    }
}
