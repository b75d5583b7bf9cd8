//! The one table of drop reasons: return code of the programs, index of the counters, label of the metrics, name
//! and help text for people.
//!
//! Numbers are part of the ABI and have no other meaning: a new reason takes the lowest number that was never used, and a
//! number stays reserved when its reason is removed. All facts about a reason are in its line.

use crate::keystream::Direction;

/// Whether a refused frame may go to the kernel instead: a column of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Monitor {
    /// It may: as far as was checked, it comes from a stranger, and it is unchanged.
    MayPass,
    /// It never does: a packet that matches a session's addresses, ports and sequence number belongs to mtd alone, and may
    /// have been decrypted in place. Nor does a solicitation over the rate limit, which would be answered behind this check.
    Never,
}

macro_rules! drop_reasons {
    ($($variant:ident = $number:literal, $name:literal, $direction:ident, $monitor:ident, $closeness:literal,
        $help:literal, $way_out:literal;)+) => {
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

            /// Its meaning for an operator, one sentence.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)+
                }
            }

            /// What an operator can do about it, one sentence.
            pub const fn way_out(self) -> &'static str {
                match self {
                    $(Self::$variant => $way_out,)+
                }
            }

            /// Whether the receive program or the send program drops for this reason.
            pub const fn direction(self) -> Direction {
                match self {
                    $(Self::$variant => Direction::$direction,)+
                }
            }

            /// Whether a frame refused for this reason may go to the kernel instead, if nothing is enforced or the frame is
            /// allowed.
            #[inline(always)]
            pub const fn may_pass(self) -> bool {
                // Decided at compile time: the programs test a bit of a constant.
                const SET: Set = Set::of(&[$(($number, matches!(Monitor::$monitor, Monitor::MayPass)),)+]);
                SET.has(self as u8)
            }

            /// How closely the packet matched a session, by the reason why it was refused: if several sessions have its
            /// address, the closest one determines the reason. 0: not about a session.
            #[inline(always)]
            pub const fn closeness(self) -> u8 {
                match self {
                    $(Self::$variant => $closeness,)+
                }
            }
        }
    };
}

/// A set of reasons, a bit for each number.
struct Set([u64; 4]);

impl Set {
    const fn of(reasons: &[(u8, bool)]) -> Self {
        let mut words = [0; 4];
        let mut i = 0;
        while i < reasons.len() {
            let (number, is_in) = reasons[i];
            words[number as usize / 64] |= (is_in as u64) << (number % 64);
            i += 1;
        }
        Self(words)
    }

    #[inline(always)]
    const fn has(&self, number: u8) -> bool {
        let word = match number / 64 {
            0 => self.0[0],
            1 => self.0[1],
            2 => self.0[2],
            _ => self.0[3],
        };
        word >> (number % 64) & 1 != 0
    }
}

// Variant = number, name, direction, in monitor mode, closeness, help, way out.
drop_reasons! {
Truncated = 2, "truncated", Receive, MayPass, 0,
    "The frame ends before its headers do.",
    "Nothing to do: no peer sends such a packet.";
Vlan = 3, "vlan", Receive, MayPass, 0,
    "VLAN-tagged frame towards the protected prefix.",
    "Give mtd the VLAN's own interface, if the prefix is used behind one.";
ExtensionHeader = 4, "extension_header", Receive, MayPass, 0,
    "IPv6 extension header towards the protected prefix; mtd never sends one.",
    "Nothing to do: no peer sends such a packet.";
Fragment = 5, "fragment", Receive, MayPass, 0,
    "IPv6 fragment towards the protected prefix; mtd never sends one.",
    "Nothing to do: no peer sends such a packet.";
Tcp = 6, "tcp", Receive, MayPass, 0,
    "TCP towards the protected prefix: a scan, or a service that is reachable only through the tunnel.",
    "Nothing to do against a scan; a service for everybody needs a line in `allow`, or an address of another prefix.";
Icmpv6 = 7, "icmpv6", Receive, MayPass, 0,
    "ICMPv6 towards the protected prefix.",
    "Nothing to do; ping the host at an address of another prefix, or name the sender in `allow`.";
OtherProtocol = 8, "other_protocol", Receive, MayPass, 0,
    "Neither UDP nor TCP nor ICMPv6 towards the protected prefix.",
    "Nothing to do: no peer sends such a packet.";
LengthMismatch = 9, "length_mismatch", Receive, MayPass, 0,
    "The lengths in the IPv6 and UDP headers do not agree with the frame.",
    "Nothing to do: no peer sends such a packet.";
TooShort = 10, "too_short", Receive, MayPass, 0,
    "UDP datagram too short to carry an mtd header and an inner packet.",
    "Nothing to do: no peer sends such a packet.";
Oversized = 11, "oversized", Receive, MayPass, 0,
    "UDP datagram longer than any that a peer sends.",
    "Nothing to do: no peer sends such a packet.";
FlowLabel = 12, "flow_label", Receive, MayPass, 0,
    "Flow label not zero; mtd always sends zero.",
    "Nothing to do: no peer sends such a packet.";
UnknownAddress = 13, "unknown_address", Receive, MayPass, 1,
    "No session has this address: a scan, a peer with another key, period or prefix, or a clock far off.",
    "If a peer sends it, compare key, seeds, period, mode and prefixes on both ends, then both clocks.";
StaleSlot = 14, "stale_slot", Receive, MayPass, 2,
    "The address belongs to a slot that is over or has not begun: the clocks of the two ends disagree.",
    "Let a time service keep the clocks of both ends.";
WrongPort = 15, "wrong_port", Receive, MayPass, 3,
    "Live address, but not the UDP port of this slot.",
    "If a peer sends it, look for a translator of ports (NAT66) on the path.";
WrongPeer = 16, "wrong_peer", Receive, MayPass, 4,
    "Live address and port, but not the peer's address and port of this slot.",
    "If a peer sends it, compare its prefix with the one configured here, and look for a translator on the path.";
SessionEnded = 17, "session_ended", Receive, MayPass, 1,
    "The session of this address has ended.",
    "Nothing to do: packets that were under way when the session ended.";
InvalidSequence = 18, "invalid_sequence", Receive, Never, 0,
    "Sequence number too old or impossible: a forged packet, or one delayed for very long.",
    "Nothing to do against forgeries; after a restart of the peer, wait for the next slot.";
Replayed = 19, "replayed", Receive, Never, 0,
    "Sequence number already used: a replay, or a duplicate made by the network.",
    "Nothing to do: no packet is taken twice.";
BadTag = 20, "bad_tag", Receive, Never, 0,
    "Authentication failed: the packet was changed or forged.",
    "If a peer sends it, compare keys and mode on both ends, and look for hosts on the path that change packets.";
BadChecksum = 21, "bad_checksum", Receive, Never, 0,
    "UDP checksum wrong: the packet was damaged on its way.",
    "Look for a faulty cable, card or driver on the path.";
MalformedInner = 22, "malformed_inner", Receive, Never, 0,
    "Authentic, but not an IP packet of the right length inside.",
    "Bring both ends to the same version of mtd.";
InnerSource = 23, "inner_source", Receive, Never, 0,
    "Authentic, but the inner source is not among the peer's allowed addresses.",
    "Add the inner network to the peer's allowed_ips, or stop that host from using the tunnel.";
Ecn = 24, "ecn", Receive, Never, 0,
    "Congestion was marked on the way, and the inner packet cannot carry the mark (RFC 6040).",
    "Nothing to do: the sender's transport repeats it more slowly.";
NeighbourDead = 25, "neighbour_dead", Receive, MayPass, 0,
    "Neighbour solicitation for an address that is not live (or in routed mode, where none is answered).",
    "With the prefix on the link itself, set link = \"on-link\"; otherwise nothing to do.";
NeighbourMalformed = 26, "neighbour_malformed", Receive, MayPass, 0,
    "Neighbour solicitation that breaks the rules of RFC 4861.",
    "Nothing to do: no peer sends such a packet.";
NeighbourLimited = 27, "neighbour_limited", Receive, Never, 0,
    "Neighbour solicitation for a live address over the rate limit.",
    "Nothing to do against a scan; a router asks again after a second.";
ReceiveFailed = 28, "receive_failed", Receive, Never, 0,
    "The kernel refused to reshape or redirect an accepted packet.",
    "Look at the tunnel device (`ip link show`): it must be up.";
IntroductionLimited = 29, "introduction_limited", Receive, Never, 0,
    "Authentic introduction over the rate limit: very many clients at once, or a registered one that floods.",
    "Take a client that floods out of the registry (`mtd peers remove`).";
ControlLimited = 30, "control_limited", Receive, Never, 0,
    "Authentic control message in a session over the rate limit.",
    "If one peer sends them all the time, bring both ends to the same version of mtd.";
ControlTooLong = 31, "control_too_long", Receive, Never, 0,
    "Authentic control message longer than any that a peer sends.",
    "Bring both ends to the same version of mtd.";
SendNoPeer = 32, "send_no_peer", Send, Never, 0,
    "Packet into the tunnel device for an address that is no peer's.",
    "Add the destination to the allowed_ips of a peer, or take away the route into the tunnel device.";
SendNoSlot = 33, "send_no_slot", Send, Never, 0,
    "No addresses loaded for the current slot: the controller has been away for longer than its horizon.",
    "Start the controller (`systemctl status mtd` says why it does not run), or raise horizon.";
SendTooBig = 34, "send_too_big", Send, Never, 0,
    "Packet into the tunnel device that is larger than its MTU, or too long for the path and cannot be cut.",
    "Set the tunnel device's MTU back to what `mtd status` shows.";
SendMalformed = 35, "send_malformed", Send, Never, 0,
    "Packet into the tunnel device that is not IPv4 or IPv6.",
    "Stop what sends other packets than IP into the tunnel device.";
SendOffload = 36, "send_offload", Send, Never, 0,
    "Segmentation or checksum offload is on at the tunnel device; it must be off.",
    "Start the controller again: it turns the offloads of the tunnel device off.";
SendFailed = 37, "send_failed", Send, Never, 0,
    "The kernel refused to reshape a packet to be sent.",
    "Look at the underlay's routes and neighbours (`ip -6 route get`).";
SendControl = 38, "send_control", Send, Never, 0,
    "Packet of next header 254 into the tunnel device that is not the controller's.",
    "Stop what sends such packets: next header 254 is mtd's own.";
SendStreamChanged = 39, "send_stream_changed", Send, Never, 0,
    "Key stream made ahead was replaced while a packet was sealed with it: this CPU was held up for long.",
    "If it goes on, set keystream = \"off\".";
SendUnheard = 40, "send_unheard", Send, Never, 0,
    "For a peer behind a router that translates addresses, of which nothing came lately: nobody knows where it is.",
    "Look at the peer's end and its router; only the peer can open the way again.";
SendLoop = 41, "send_loop", Send, Never, 0,
    "A sealed packet of mtd's own came back to the tunnel device: a route leads it in circles.",
    "Look at the rules and routes for the mark that `mtd status` shows: `ip -6 rule`, `ip -6 route show table all`.";
ControlFull = 48, "control_full", Receive, Never, 0,
    "Authentic control message, but the controller has not read those before it: it is overloaded or away.",
    "Start the controller, or give it more CPU time.";
SteeringFull = 49, "steering_full", Receive, Never, 0,
    "More packets of a session than the CPU that opens them can keep up with.",
    "Give mtd more CPUs, or divide the traffic among several sessions.";
StreamChanged = 50, "stream_changed", Receive, Never, 0,
    "Key stream made ahead was replaced while a packet was opened with it: this CPU was held up for long.",
    "If it goes on, set keystream = \"off\".";
TooBigInvalid = 51, "too_big_invalid", Receive, Never, 3,
    "Packet Too Big for a live address that quotes no packet of its session, or is malformed.",
    "Nothing to do against forgeries; routers quote the packet that was too big for them.";
TooBigLimited = 52, "too_big_limited", Receive, Never, 0,
    "Packet Too Big over the rate limit, or the controller has not read those before it.",
    "Nothing to do: a router repeats what it says.";}

impl DropReason {
    /// Whether the send program, not the receive program, drops for this reason.
    pub const fn is_sending(self) -> bool {
        matches!(self.direction(), Direction::Send)
    }
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
    use super::{DropReason, Set};

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        let mut names = std::collections::HashSet::new();
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(reason as u8), Some(reason));
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(reason.help().ends_with('.') && reason.way_out().ends_with('.'), "{}", reason.name());
        }
        assert_eq!(DropReason::from_number(0), None);
        assert_eq!(DropReason::from_number(63), None);
        assert!(DropReason::ALL.iter().all(|r| r.is_sending() == r.name().starts_with("send_")));
    }

    #[test]
    fn what_a_session_may_have_touched_never_passes() {
        use DropReason::{
            BadTag, InvalidSequence, NeighbourDead, NeighbourMalformed, SessionEnded, Truncated,
        };
        for reason in DropReason::ALL {
            let strangers = (Truncated..=SessionEnded).contains(reason)
                || (NeighbourDead..=NeighbourMalformed).contains(reason);
            assert_eq!(reason.may_pass(), strangers, "{}", reason.name());
        }
        assert!(!InvalidSequence.may_pass() && !BadTag.may_pass());
    }

    #[test]
    fn a_set_has_room_for_every_number() {
        let members = [0, 1, 63, 64, 127, 128, 191, 192, 255];
        let set = Set::of(&members.map(|number| (number, true)));
        assert!((0..=u8::MAX).all(|number| set.has(number) == members.contains(&number)));
        assert!((0..=u8::MAX).all(|number| !Set::of(&[(number, false)]).has(number)));
    }

    #[test]
    fn a_packet_is_the_closer_to_a_session_the_later_it_was_refused() {
        use DropReason::{
            SessionEnded, StaleSlot, TooBigInvalid, Truncated, UnknownAddress, WrongPeer, WrongPort,
        };
        let order = [UnknownAddress, StaleSlot, WrongPort, WrongPeer].map(DropReason::closeness);
        assert!(order.is_sorted_by(|a, b| a < b));
        assert_eq!(SessionEnded.closeness(), UnknownAddress.closeness(), "says less than any that lives");
        assert!(TooBigInvalid.closeness() > StaleSlot.closeness() && Truncated.closeness() == 0);
    }
}
