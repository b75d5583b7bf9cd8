//! The one table of drop reasons: return code of the programs, index of the counters, label of the metrics, name
//! and help text for people.
//!
//! Numbers are part of the ABI. A retired number stays reserved; new reasons take new numbers: 32 to 47 are those of
//! the send program, all others those of the receive program.

macro_rules! drop_reasons {
    ($($variant:ident = $number:literal, $name:literal, $help:literal;)+) => {
        /// Why a packet was dropped.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $help] $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Stable name: metric label, JSON key.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means to an operator, one sentence.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)+
                }
            }

            /// Whether it is the send program that drops for this reason, and not the receive program.
            pub const fn is_sending(self) -> bool {
                matches!(self as u8, 32..=47)
            }

            /// Whether a frame refused for this reason may go to the kernel instead, where nothing is enforced or the
            /// frame is allowed: it is a stranger's, as far as was looked, and as it arrived. What a session's own
            /// addresses, ports and sequence number have let in is mtd's alone, and may have been decrypted in place.
            #[inline(always)]
            pub const fn may_pass(self) -> bool {
                matches!(self as u8, 2..=17 | 25..=27)
            }
        }
    };
}

drop_reasons! {
    Truncated = 2, "truncated",
        "The frame ends before its headers do.";
    Vlan = 3, "vlan",
        "VLAN-tagged frame towards the protected prefix.";
    ExtensionHeader = 4, "extension_header",
        "IPv6 extension header towards the protected prefix; mtd never sends one.";
    Fragment = 5, "fragment",
        "IPv6 fragment towards the protected prefix; mtd never sends one.";
    Tcp = 6, "tcp",
        "TCP towards the protected prefix: a scan, or a service that is reachable only through the tunnel.";
    Icmpv6 = 7, "icmpv6",
        "ICMPv6 towards the protected prefix.";
    OtherProtocol = 8, "other_protocol",
        "Neither UDP nor TCP nor ICMPv6 towards the protected prefix.";
    LengthMismatch = 9, "length_mismatch",
        "The lengths in the IPv6 and UDP headers do not agree with the frame.";
    TooShort = 10, "too_short",
        "UDP datagram too short to carry an mtd header and an inner packet.";
    Oversized = 11, "oversized",
        "UDP datagram longer than any that a peer sends.";
    FlowLabel = 12, "flow_label",
        "Flow label not zero; mtd always sends zero.";
    UnknownAddress = 13, "unknown_address",
        "No session has this address: a scan, a peer with another key, period or prefix, or a clock far off.";
    StaleSlot = 14, "stale_slot",
        "The address belongs to a slot that is over or has not begun: the clocks of the two ends disagree.";
    WrongPort = 15, "wrong_port",
        "Live address, but not the UDP port of this slot.";
    WrongPeer = 16, "wrong_peer",
        "Live address and port, but not the peer's address and port of this slot.";
    SessionEnded = 17, "session_ended",
        "The session of this address has ended.";
    InvalidSequence = 18, "invalid_sequence",
        "Sequence number too old or impossible: a forged packet, or one delayed for very long.";
    Replayed = 19, "replayed",
        "Sequence number already used: a replay, or a duplicate made by the network.";
    BadTag = 20, "bad_tag",
        "Authentication failed: the packet was changed or forged.";
    BadChecksum = 21, "bad_checksum",
        "UDP checksum wrong: the packet was damaged on its way.";
    MalformedInner = 22, "malformed_inner",
        "Authentic, but not an IP packet of the right length inside.";
    InnerSource = 23, "inner_source",
        "Authentic, but the inner source is not among the peer's allowed addresses.";
    Ecn = 24, "ecn",
        "Congestion was marked on the way, and the inner packet cannot carry the mark (RFC 6040).";
    NeighbourDead = 25, "neighbour_dead",
        "Neighbour solicitation for an address that is not live (or in routed mode, where none is answered).";
    NeighbourMalformed = 26, "neighbour_malformed",
        "Neighbour solicitation that breaks the rules of RFC 4861.";
    NeighbourLimited = 27, "neighbour_limited",
        "Neighbour solicitation for a live address over the rate limit.";
    ReceiveFailed = 28, "receive_failed",
        "The kernel refused to reshape or redirect an accepted packet.";
    IntroductionLimited = 29, "introduction_limited",
        "Authentic introduction over the rate limit: very many clients at once, or a registered one that floods.";
    ControlLimited = 30, "control_limited",
        "Authentic control message in a session over the rate limit.";
    ControlTooLong = 31, "control_too_long",
        "Authentic control message longer than any that a peer sends.";
    SendNoPeer = 32, "send_no_peer",
        "Packet into the tunnel device for an address that is no peer's.";
    SendNoSlot = 33, "send_no_slot",
        "No addresses loaded for the current slot: the controller has been away for longer than its horizon.";
    SendTooBig = 34, "send_too_big",
        "Packet into the tunnel device that is larger than its MTU.";
    SendMalformed = 35, "send_malformed",
        "Packet into the tunnel device that is not IPv4 or IPv6.";
    SendOffload = 36, "send_offload",
        "Segmentation or checksum offload is on at the tunnel device; it must be off.";
    SendFailed = 37, "send_failed",
        "The kernel refused to reshape a packet to be sent.";
    SendControl = 38, "send_control",
        "Packet of next header 254 into the tunnel device that is not the controller's.";
    SendStreamChanged = 39, "send_stream_changed",
        "Key stream made ahead was replaced while a packet was sealed with it: this CPU was held up for long.";
    ControlFull = 48, "control_full",
        "Authentic control message, but the controller has not read those before it: it is overloaded or away.";
    SteeringFull = 49, "steering_full",
        "More packets of a session than the CPU that opens them can keep up with.";
    StreamChanged = 50, "stream_changed",
        "Key stream made ahead was replaced while a packet was opened with it: this CPU was held up for long.";
    TooBigInvalid = 51, "too_big_invalid",
        "Packet Too Big for a live address that quotes no packet of its session, or is malformed.";
    TooBigLimited = 52, "too_big_limited",
        "Packet Too Big over the rate limit, or the controller has not read those before it.";
}

const _: () = {
    let mut i = 0;
    while i < DropReason::ALL.len() {
        assert!((DropReason::ALL[i] as u32) < crate::abi::DROP_SLOTS);
        assert!(i == 0 || (DropReason::ALL[i - 1] as u8) < (DropReason::ALL[i] as u8));
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        let mut names = std::collections::HashSet::new();
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(reason as u8), Some(reason));
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(reason.help().ends_with('.'));
        }
        assert_eq!(DropReason::from_number(0), None);
        assert_eq!(DropReason::from_number(63), None);
        assert!(DropReason::ALL.iter().all(|r| r.is_sending() == r.name().starts_with("send_")));
    }

    #[test]
    fn what_a_session_may_have_touched_never_passes() {
        use DropReason::{BadTag, InvalidSequence, NeighbourDead, NeighbourLimited, SessionEnded, Truncated};
        for reason in DropReason::ALL {
            let strangers = (Truncated..=SessionEnded).contains(reason)
                || (NeighbourDead..=NeighbourLimited).contains(reason);
            assert_eq!(reason.may_pass(), strangers, "{}", reason.name());
        }
        assert!(!InvalidSequence.may_pass() && !BadTag.may_pass());
    }
}
