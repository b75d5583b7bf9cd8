//! Introductions that were accepted.

/// Key of the LRU hash map `INTRODUCED`: the tag of an introduction packet that was accepted. The value is the boot time of
/// that in ns.
pub type IntroductionTag = [u8; 16];
