//! Introductions that were accepted.

/// Key of the LRU hash map `INTRODUCED`: what is remembered of an introduction packet that was accepted. The value is the
/// boot time of that in ns.
/// Two words, so that it is aligned on the stack of the programs.
pub type IntroductionTag = [u64; 2];

/// What is remembered of a packet with this tag whose source a router had translated, or which somebody copied. It is not
/// the tag itself, so that a copy sent from elsewhere does not take the place of the packet as its sender sent it.
#[inline(always)]
pub const fn translated([low, high]: IntroductionTag) -> IntroductionTag {
    [!low, !high]
}
