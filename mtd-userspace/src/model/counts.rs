//! What is counted, and what the kernel tells of programs and maps. The documents of the control socket show these as they are.

use std::collections::BTreeMap;

use mtd_common::DropReason;
use mtd_common::abi::Counter;
use serde::{Deserialize, Serialize};

/// What the programs counted since they were attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Drops, the reasons that occurred only.
    pub drops: BTreeMap<DropReason, u64>,
    /// What would have been dropped where nothing was enforced, the reasons that occurred only.
    pub would_drop: BTreeMap<DropReason, u64>,
    /// Everything else.
    pub frames: Frames,
}

/// What went through a session.
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
        /// What was counted beside drops, a field for each line of the table in `mtd_common`. What another version does not
        /// count is 0 in its document.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Frames {
            $(#[doc = $help] pub $key: u64,)+
        }

        impl Frames {
            /// What `read` says of each counter.
            ///
            /// # Errors
            /// The first one of `read`.
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
    /// How long it ran altogether, in seconds; as `runs`.
    pub run_seconds: f64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// `addresses`, `sessions` or `routes`.
    pub name: String,
    /// Entries that are taken.
    pub used: u64,
    /// Entries that there is room for.
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
