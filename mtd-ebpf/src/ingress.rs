//! Receipt: from the underlay's frame to the inner packet, cheapest checks first.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_redirect};
use mtd_common::DropReason;
use mtd_common::abi::{
    Counter, Dataplane, MODE_AUTHENTICATE, MODE_ENCRYPT, MODE_INTRODUCTION, Session, Slot,
};
use mtd_common::aead::{self, Operation};
use mtd_common::bytes::part;
use mtd_common::keystream::Direction;
use mtd_common::packet::inner::Inner;
use mtd_common::packet::{
    self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6, MTD, OVERHEAD, UDP, inner, ndp, outer,
};
use mtd_common::table::{self, BUCKET, Hash};
use mtd_common::{opaque, slot, window};

use crate::ahead::{self, Failure};
use crate::control;
use crate::frame::{Memory, Sealed, XdpFrame};
use crate::maps::{self, Job};
use crate::neighbour;
use crate::steer::{self, Stage, Turn};
use crate::too_big;

pub(crate) const IP: usize = ETHERNET;
pub(crate) const PAYLOAD: usize = ETHERNET + IPV6;
pub(crate) const MTD_HEADER: usize = PAYLOAD + UDP;
pub(crate) const INNER: usize = ETHERNET + OVERHEAD;

/// Source MAC address of opened packets: locally administered, the same for all.
const INSIDE_MAC: [u8; 6] = [0x02, b'm', b't', b'd', 0, 0];

/// Boot time in ns: the clock that session time is counted from.
#[inline(always)]
pub(crate) fn boot_time() -> u64 {
    // SAFETY: takes nothing, returns the time.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// What becomes of a frame that is not dropped for a reason.
///
/// A byte, as the reasons are: in a result of both, no part is ever undefined. LLVM keeps what is undefined in registers that
/// nobody wrote, and the verifier refuses to see them read.
#[repr(u8)]
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Taken: the frame itself is of no more use.
    Consume = xdp_action::XDP_DROP as u8,
    /// To the kernel.
    Pass = xdp_action::XDP_PASS as u8,
    /// Back where it came from.
    Transmit = xdp_action::XDP_TX as u8,
    /// To the tunnel device.
    Redirect = xdp_action::XDP_REDIRECT as u8,
}

/// Decides on a frame from the underlay.
#[inline(always)]
pub(crate) fn receive(frame: &mut XdpFrame<'_>) -> Result<Action, DropReason> {
    let Some(ethernet) = frame.get::<[u8; ETHERNET]>(0) else { return Ok(pass()) };
    let ethertype = packet::ethertype(ethernet);
    let Some(dataplane) = maps::dataplane() else { return Ok(pass()) };
    if ethertype != ETHERTYPE_IPV6 {
        if packet::is_vlan(ethertype) && !dataplane.is_shared() {
            require_no_tagged_ours(frame, dataplane)?;
        }
        return Ok(pass());
    }
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let destination = outer::destination(ip);
    if !packet::is_protected(dataplane, destination) {
        return neighbour::solicited(frame, dataplane).unwrap_or_else(|| Ok(pass()));
    }
    if let Err(reason) = outer::require_udp(ip) {
        // A router that checks whether its neighbour is still there asks the live address itself.
        return neighbour::solicited(frame, dataplane)
            .or_else(|| too_big::received(frame, dataplane))
            .unwrap_or_else(|| refuse(frame, dataplane, reason));
    }
    open(frame, Stage::Arrived, dataplane)
}

/// Decides on a frame that another CPU has handed over. All checks are made again: time has passed.
#[inline(always)]
pub(crate) fn take(frame: &mut XdpFrame<'_>) -> Result<Action, DropReason> {
    let Some(dataplane) = maps::dataplane() else { return Ok(pass()) };
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    if !packet::is_protected(dataplane, outer::destination(ip)) {
        return Ok(pass());
    }
    open(frame, Stage::Handed, dataplane)
}

/// What becomes of a packet towards a protected prefix that is none of ours for this reason: in a shared prefix it may
/// be an ordinary host's, if its address is not live.
#[inline(always)]
fn refuse(frame: &XdpFrame<'_>, dataplane: &Dataplane, reason: DropReason) -> Result<Action, DropReason> {
    if !dataplane.is_shared() {
        return Err(reason);
    }
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(reason)?;
    if is_live(dataplane, outer::destination(ip)) { Err(reason) } else { Ok(pass()) }
}

#[inline(always)]
pub(crate) fn pass() -> Action {
    maps::count(Counter::Passed);
    Action::Pass
}

/// A VLAN-tagged frame towards a protected prefix is never ours; more than two tags are not looked through.
#[inline(always)]
fn require_no_tagged_ours(frame: &XdpFrame<'_>, dataplane: &Dataplane) -> Result<(), DropReason> {
    let mut at = ETHERNET;
    let mut tags = 0;
    while tags < 2 {
        let Some(tag) = frame.get::<[u8; 4]>(at) else { return Ok(()) };
        let ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        at += 4;
        if ethertype == ETHERTYPE_IPV6 {
            let ip = frame.get::<[u8; IPV6]>(at).ok_or(DropReason::Truncated)?;
            let ours = packet::is_protected(dataplane, outer::destination(ip));
            return if ours { Err(DropReason::Vlan) } else { Ok(()) };
        }
        if !packet::is_vlan(ethertype) {
            return Ok(());
        }
        tags += 1;
    }
    Err(DropReason::Vlan)
}

/// The hash of an address in a protected prefix.
#[inline(always)]
pub(crate) fn hash(dataplane: &Dataplane, address: &[u8; 16]) -> Hash {
    dataplane.table.hash(part::<8, 8, 16>(address))
}

/// Looks for the place in `SLOTS` of a session that has the address of this hash, and `suits`. Where several sessions have it
/// and none suits, the reason is that of the one that came closest.
#[inline(always)]
pub(crate) fn find(
    hash: Hash,
    mut suits: impl FnMut(u32) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let mut closest = DropReason::UnknownAddress;
    let mut nth = 0;
    while nth < 2 {
        let Some(bucket) = maps::bucket(if nth == 0 { hash.first() } else { hash.second() }) else { break };
        nth += 1;
        let mut index = 0;
        while index < BUCKET {
            let entry = bucket.entry(index);
            index += 1;
            let Some(place) = table::place(entry, hash.fingerprint()) else { continue };
            match suits(place) {
                Ok(()) => return Ok(()),
                // The fingerprint was another address's.
                Err(DropReason::UnknownAddress) => {}
                Err(reason) if closeness(reason) >= closeness(closest) => closest = reason,
                Err(_) => {}
            }
        }
    }
    Err(closest)
}

/// The session and slot at a place, if the address is theirs now, as [`maps::tick`] has it.
#[inline(always)]
pub(crate) fn at(
    dataplane: &Dataplane,
    place: u32,
    address: &[u8; 16],
) -> Result<(&'static Session, &'static Slot), DropReason> {
    let slot = maps::slot(place).ok_or(DropReason::UnknownAddress)?;
    if slot.local_low != *part::<8, 8, 16>(address) {
        return Err(DropReason::UnknownAddress);
    }
    let session = slot::session(place, dataplane.ring_bits);
    let session = maps::session(session, slot.generation).ok_or(DropReason::SessionEnded)?;
    if session.local_high != *part::<0, 8, 16>(address) {
        return Err(DropReason::UnknownAddress);
    }
    if is_within(session, slot, maps::tick()) { Ok((session, slot)) } else { Err(DropReason::StaleSlot) }
}

/// Whether a slot of a session is live at this boot time in ns.
#[inline(always)]
fn is_within(session: &Session, slot: &Slot, now: u64) -> bool {
    let time = now.wrapping_add(session.clock_offset);
    slot::is_live(slot.slot, time, session.phase, session.period, session.until)
}

/// Whether a place has this address. A function of its own in the program too, as the ones below: see [`decrypt`].
#[inline(never)]
fn suits(dataplane: &Dataplane, place: u32, address: &[u8; 16]) -> Result<(), DropReason> {
    at(dataplane, place, address).map(|_| ())
}

/// Whether a place has the destination of the packet in a frame, and the packet comes from the place's peer. Then it goes
/// into the job.
#[inline(never)]
fn suits_packet(
    dataplane: &Dataplane,
    place: u32,
    frame: &XdpFrame<'_>,
    job: &mut Job,
) -> Result<(), DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let (session, slot) = at(dataplane, place, outer::destination(ip))?;
    outer::require_peer(session, slot, ip, udp)?;
    job.place = place;
    Ok(())
}

/// How close a packet came to a session, by the reason why it does not belong to it: reasons are numbered in that
/// order, but for sessions that have ended, which say less than any other that has the address.
#[inline(always)]
const fn closeness(reason: DropReason) -> u8 {
    match reason {
        DropReason::SessionEnded => DropReason::UnknownAddress as u8,
        other => other as u8,
    }
}

/// Whether some session has this address now.
#[inline(never)]
pub(crate) fn is_live(dataplane: &Dataplane, address: &[u8; 16]) -> bool {
    let hash = hash(dataplane, address);
    maps::may_be_ours(hash.mark()) && find(hash, |place| suits(dataplane, place, address)).is_ok()
}

/// [`find`] for the packet in a frame.
#[inline(never)]
fn find_peer(
    frame: &XdpFrame<'_>,
    dataplane: &Dataplane,
    hash: &Hash,
    job: &mut Job,
) -> Result<(), DropReason> {
    find(*hash, |place| suits_packet(dataplane, place, frame, job))
}

/// Whether [`find`] gives this reason where no session has the address now.
#[inline(always)]
pub(crate) const fn is_dead(reason: DropReason) -> bool {
    matches!(reason, DropReason::UnknownAddress | DropReason::StaleSlot | DropReason::SessionEnded)
}

/// Opens a UDP packet towards a protected prefix and hands it to the tunnel device.
#[inline(always)]
fn open(frame: &mut XdpFrame<'_>, stage: Stage, dataplane: &Dataplane) -> Result<Action, DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    if frame.get::<[u8; UDP]>(PAYLOAD).is_none() {
        return refuse(frame, dataplane, DropReason::Truncated);
    }
    let hash = hash(dataplane, outer::destination(ip));
    // For strangers somebody nearly never may have the address, and this is all that they cost.
    if !maps::may_be_ours(hash.mark()) {
        return if dataplane.is_shared() { Ok(pass()) } else { Err(DropReason::UnknownAddress) };
    }
    let job = maps::job(Direction::Receive).ok_or(DropReason::ReceiveFailed)?;
    match find_peer(frame, dataplane, &hash, job) {
        Ok(()) => {}
        Err(reason) if is_dead(reason) && dataplane.is_shared() => return Ok(pass()),
        Err(reason) => return Err(reason),
    }
    let slot = maps::slot(job.place).ok_or(DropReason::UnknownAddress)?;
    let index = slot::session(job.place, dataplane.ring_bits);
    let session = maps::session(index, slot.generation).ok_or(DropReason::SessionEnded)?;
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let state = maps::session_state(index).ok_or(DropReason::SessionEnded)?;
    steer::arrived(stage, state);
    let inner_length = outer::inner_length(ip, udp, frame.len() - ETHERNET, dataplane.inner_mtu)?;

    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    let sequence = outer::sequence(header, &session.rx.mask);
    let introduction = session.mode == MODE_INTRODUCTION;
    // Those of introductions are random.
    if !introduction && !slot::sequence_possible(sequence, maps::tick().wrapping_add(session.clock_offset)) {
        return Err(DropReason::InvalidSequence);
    }
    let now = boot_time();
    // What has come this far is worth the exact clock: nothing is accepted after its time.
    if !is_within(session, slot, now) {
        return Err(DropReason::StaleSlot);
    }
    let place = window::place(sequence);
    let word = state.window_word(place.index).ok_or(DropReason::InvalidSequence)?;
    if introduction {
        control::require_new(frame)?;
    } else {
        place.check(window::Word::load(&word), window::Word::load(&state.highest()))?;
        match steer::turn(stage, state, index, inner_length, now) {
            Turn::Here => {}
            Turn::Handed => return Ok(Action::Redirect),
            Turn::Full => return Err(DropReason::SteeringFull),
        }
    }

    let tag = outer::tag(header);
    job.nonce = aead::nonce(slot.slot as u32, sequence);
    job.length = inner_length;
    job.session = index;
    job.generation = session.generation;
    match session.mode {
        MODE_ENCRYPT if ahead::find(state.lane(Direction::Receive), Direction::Receive, job) => {
            decrypt_ahead(frame, job)?;
        }
        MODE_ENCRYPT | MODE_INTRODUCTION => decrypt(frame, &session.rx.seal, job)?,
        MODE_AUTHENTICATE => authenticate(frame, &session.rx.seal, job)?,
        _ => return Err(DropReason::SessionEnded),
    }
    if !aead::verify(job.sums.tag, tag) {
        return Err(DropReason::BadTag);
    }
    inspect(frame, session, job)?;
    // Its mode is read again: the verifier would walk the cipher once for each value that it remembers.
    let session = opaque::reference(session);
    // Last: a copy whose checksum or ECN bits were changed, and that comes first, must not burn the number.
    if session.mode == MODE_INTRODUCTION {
        control::remember(frame, now)?;
    } else {
        place.mark(&word, &state.highest())?;
    }
    if job.control {
        state.count_received(inner_length, now);
        control::divert(frame, session, state, job, now)?;
        maps::count(Counter::Control);
        return Ok(Action::Consume);
    }
    deliver(frame)?;
    // Only now: what could not be opened must not say where the session is.
    if state.count_received(inner_length, now) && session.mode == MODE_ENCRYPT {
        ahead::want(job, Direction::Receive);
    }
    maps::count(Counter::Accepted);
    Ok(Action::Redirect)
}

/// Decrypts and authenticates the inner packet in place. A function of its own in the program too, as the ones
/// below: all variables together do not fit on one stack of 512 bytes, nor into what the compiler allots.
#[inline(never)]
fn decrypt(frame: &mut XdpFrame<'_>, key: &[u8; 32], job: &mut Job) -> Result<(), DropReason> {
    let (nonce, length) = (job.nonce, job.length);
    let sums = aead::pass(Operation::Open, key, nonce, &mut Sealed(frame), length, &mut job.pass);
    job.sums = sums.ok_or(DropReason::Oversized)?;
    Ok(())
}

/// The same with key stream that was made ahead.
#[inline(never)]
fn decrypt_ahead(frame: &mut XdpFrame<'_>, job: &mut Job) -> Result<(), DropReason> {
    ahead::pass(Operation::Open, &mut Sealed(frame), job).map_err(|failure| match failure {
        Failure::Text => DropReason::Oversized,
        Failure::Changed => DropReason::StreamChanged,
    })
}

/// Authenticates the inner packet.
#[inline(never)]
fn authenticate(frame: &mut XdpFrame<'_>, key: &[u8; 32], job: &mut Job) -> Result<(), DropReason> {
    let (nonce, length) = (job.nonce, job.length);
    let sums = aead::pass(Operation::Authenticate, key, nonce, &mut Sealed(frame), length, &mut job.pass);
    job.sums = sums.ok_or(DropReason::Oversized)?;
    Ok(())
}

/// The checks that come after authentication: checksum and inner packet.
#[inline(never)]
fn inspect(frame: &mut XdpFrame<'_>, session: &Session, job: &mut Job) -> Result<(), DropReason> {
    require_checksum(frame, job.sums.checksum)?;
    require_inner(frame, session, job)
}

#[inline(always)]
fn require_checksum(frame: &XdpFrame<'_>, sealed: u64) -> Result<(), DropReason> {
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    let udp = frame.get::<[u8; UDP]>(PAYLOAD).ok_or(DropReason::Truncated)?;
    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    if outer::checksum_valid(ip, udp, header, sealed) { Ok(()) } else { Err(DropReason::BadChecksum) }
}

/// Checks the opened packet and carries a congestion mark over to it; notes in the job what it is.
#[inline(always)]
fn require_inner(frame: &mut XdpFrame<'_>, session: &Session, job: &mut Job) -> Result<(), DropReason> {
    let length = frame.len() - INNER;
    let outer_ecn = outer::ecn(frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?);
    let first = frame.get::<[u8; 1]>(INNER).ok_or(DropReason::MalformedInner)?[0];
    let facts = if inner::version(first) == 4 {
        let header = frame.get_mut::<[u8; inner::IPV4]>(INNER).ok_or(DropReason::MalformedInner)?;
        let facts = inner::ipv4(header, length)?;
        let ecn = inner::decapsulated_ecn(facts.ecn, outer_ecn)?;
        if ecn != facts.ecn {
            inner::set_ipv4_ecn(header, ecn);
        }
        facts
    } else {
        let header = frame.get_mut::<[u8; IPV6]>(INNER).ok_or(DropReason::MalformedInner)?;
        let facts = inner::ipv6(header, length)?;
        let ecn = inner::decapsulated_ecn(facts.ecn, outer_ecn)?;
        if ecn != facts.ecn {
            inner::set_ipv6_ecn(header, ecn);
        }
        facts
    };
    job.control = facts.is_control();
    if job.control {
        control::require_fitting(length)?;
    }
    if session.mode == MODE_INTRODUCTION {
        return control::require_introduction(frame, &facts);
    }
    if allowed(&facts, session) { Ok(()) } else { Err(DropReason::InnerSource) }
}

/// Whether an inner source address is one of the session's peer.
#[inline(always)]
fn allowed(facts: &Inner, session: &Session) -> bool {
    let source = facts.source;
    if source == [0; 16] {
        return false;
    }
    if source == session.peer_tunnel[0] || source == session.peer_tunnel[1] {
        return true;
    }
    session.peer != 0 && maps::route(facts.version, &source).is_some_and(|route| route.peer == session.peer)
}

/// Replaces the outer headers by an Ethernet header and redirects the frame into the tunnel device.
#[inline(never)]
fn deliver(frame: &mut XdpFrame<'_>) -> Result<(), DropReason> {
    let dataplane = maps::dataplane().ok_or(DropReason::ReceiveFailed)?;
    let first = frame.get::<[u8; 1]>(INNER).ok_or(DropReason::ReceiveFailed)?[0];
    let ethertype = if inner::version(first) == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    frame.strip(OVERHEAD).ok_or(DropReason::ReceiveFailed)?;
    let ethernet = frame.get_mut::<[u8; ETHERNET]>(0).ok_or(DropReason::ReceiveFailed)?;
    // The kernel takes packets for its own MAC address only.
    *mtd_common::bytes::part_mut::<0, 6, ETHERNET>(ethernet) = dataplane.tunnel_mac;
    *mtd_common::bytes::part_mut::<6, 6, ETHERNET>(ethernet) = INSIDE_MAC;
    *mtd_common::bytes::part_mut::<12, 2, ETHERNET>(ethernet) = ethertype.to_be_bytes();
    // SAFETY: takes two numbers. What goes into one end of the pair comes out of the other.
    let action = unsafe { bpf_redirect(dataplane.tunnel_ifindex, 0) };
    if action == i64::from(xdp_action::XDP_REDIRECT) { Ok(()) } else { Err(DropReason::ReceiveFailed) }
}

/// The start of a neighbour solicitation in the payload.
pub(crate) const SOLICITATION: usize = PAYLOAD;
const _: () = assert!(SOLICITATION + ndp::WITH_OPTION == ndp::FRAME);
