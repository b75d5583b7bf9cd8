//! Introductions that were taken.

/// Key of the LRU hash map `INTRODUCED`: the tag of an introduction packet that was taken. The value is the boot time
/// in ns at which that was.
pub type IntroductionTag = [u8; 16];
