//! The maps. Private to this module: the rest of the programs sees functions.
//!
//! The sizes given here are the smallest of use; the loader sets those that fit the configuration.

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, CpuMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use mtd_common::abi::{
    self, COUNTER_SLOTS, Counter, DROP_COUNTERS, DROP_SLOTS, Dataplane, IntroductionTag, Local, Route,
    RouteKey, Session, SessionState, Slot, Steering, SteeringCpus, TokenBucket,
};
use mtd_common::aead::{Pass, Sums};
use mtd_common::control_record::ControlRecord;
use mtd_common::event::DropEvent;
use mtd_common::keystream::{self, Direction, Element, Ready, Wanted};
use mtd_common::session_note::SessionNote;
use mtd_common::table::{BUCKET, Bucket, Mark};
use mtd_common::window::{WINDOW_WORDS, Word};
use mtd_common::{DropReason, opaque};

use crate::atomic::Shared;

/// Introduction packets that are remembered, so that none is taken twice.
const INTRODUCTIONS: u32 = 65_536;

/// `BPF_NOEXIST`: insert only.
const NO_EXIST: u64 = 1;

/// `BPF_F_NO_PREALLOC`: the trie knows no other way.
const NO_PREALLOC: u32 = 1;

/// `BPF_F_MMAPABLE`: the controller has the array in its own memory.
const MMAPABLE: u32 = 1 << 10;

#[map]
static DATAPLANE: Array<Dataplane> = Array::with_max_entries(1, 0);
#[map]
static FILTER: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ADDRESSES: Array<Bucket> = Array::with_max_entries(2, MMAPABLE);
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(8, MMAPABLE);
#[map]
static SESSIONS: Array<Session> = Array::with_max_entries(1, 0);
#[map]
static SESSION_STATE: Array<SessionState> = Array::with_max_entries(1, MMAPABLE);
/// For the controllers only: see [`mtd_common::session_note`].
#[map]
static SESSION_NOTES: Array<SessionNote> = Array::with_max_entries(1, 0);
#[map]
static ROUTES: LpmTrie<RouteKey, Route> = LpmTrie::with_max_entries(64, NO_PREALLOC);
#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_COUNTERS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
#[map]
static CONTROL: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);
#[map]
static INTRODUCED: LruHashMap<IntroductionTag, u64> = LruHashMap::with_max_entries(INTRODUCTIONS, 0);
#[map]
static INTRODUCTION_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static CONTROL_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LOCAL: PerCpuArray<Local> = PerCpuArray::with_max_entries(1, 0);
#[map]
static NEIGHBOUR_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TOO_BIG_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);

/// Queues of the CPUs that packets are handed to. Not pinned, as the table below: they belong to one load of the
/// programs, and live as long as those.
#[map]
static CPUS: CpuMap = CpuMap::with_max_entries(1, 0);
#[map]
static STEERING_CPUS: Array<SteeringCpus> = Array::with_max_entries(1, 0);

/// Key stream made ahead, and what the thread that makes it is told. Not pinned either: what is in them is as secret as keys.
#[map]
static KEYSTREAM: Array<Element> = Array::with_max_entries(1, MMAPABLE);
#[map]
static WANTED: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

#[map]
static JOBS: PerCpuArray<Job> = PerCpuArray::with_max_entries(2, 0);

/// One packet's work for the cipher: what goes in and out, and working memory. In a map, since a BPF stack has no
/// room for it.
pub(crate) struct Job {
    /// Nonce of the packet.
    pub(crate) nonce: [u32; 3],
    /// Length of the inner packet in bytes.
    pub(crate) length: usize,
    /// Index of the session.
    pub(crate) session: u32,
    /// Generation of the session.
    pub(crate) generation: u32,
    /// Where the slot's addresses are in `SLOTS`.
    pub(crate) place: u32,
    /// To be sent: ECN codepoint of the inner packet.
    pub(crate) ecn: u8,
    /// To be sent: IP version of the inner packet.
    pub(crate) version: u8,
    /// Received: whether the inner packet is a control message.
    pub(crate) control: bool,
    /// Boot time in ns at which the packet came.
    pub(crate) now: u64,
    /// Where key stream made ahead is in `KEYSTREAM`.
    pub(crate) element: u32,
    /// Stamp of that element when it was found.
    pub(crate) stamp: u64,
    /// What came out.
    pub(crate) sums: Sums,
    /// Working memory.
    pub(crate) pass: Pass,
}

/// The job of this CPU and of the program for a direction: programs may interrupt each other.
#[inline(always)]
pub(crate) fn job(direction: Direction) -> Option<&'static mut Job> {
    // SAFETY: this CPU's and this program's own element; a program is not interrupted by itself, and asks once.
    JOBS.get_ptr_mut(direction as u32).map(|job| unsafe { &mut *job })
}

/// The settings; `None` never happens, an array's elements always exist.
#[inline(always)]
pub(crate) fn dataplane() -> Option<&'static Dataplane> {
    DATAPLANE.get(0)
}

/// Whether somebody may have the address of this mark.
#[inline(always)]
pub(crate) fn may_be_ours(mark: Mark) -> bool {
    let Some(word) = FILTER.get_ptr(mark.word) else { return false };
    // SAFETY: an element of the map, aligned; volatile, since the controller writes it meanwhile.
    let word = unsafe { word.read_volatile() };
    word & mark.mask == mark.mask
}

/// A bucket of the table of addresses.
#[derive(Clone, Copy)]
pub(crate) struct Entries(*const u64);

/// The bucket of this index; `None` never happens, since hashes are made for the number of buckets.
#[inline(always)]
pub(crate) fn bucket(index: u32) -> Option<Entries> {
    ADDRESSES.get_ptr(index).map(|bucket| Entries(bucket.cast()))
}

impl Entries {
    /// An entry; `index` must be below [`BUCKET`].
    #[inline(always)]
    pub(crate) fn entry(self, index: usize) -> u64 {
        // SAFETY: inside the element (masked), aligned; volatile, since the controller writes it meanwhile.
        unsafe { self.0.add(index & (BUCKET - 1)).read_volatile() }
    }
}

/// An element of `SLOTS`.
#[inline(always)]
pub(crate) fn slot(place: u32) -> Option<&'static Slot> {
    SLOTS.get(place)
}

/// A session, if the index has one of this generation.
#[inline(always)]
pub(crate) fn session(index: u32, generation: u32) -> Option<&'static Session> {
    SESSIONS.get(index).filter(|session| session.generation == generation && generation != 0)
}

/// What the programs themselves keep of a session.
#[derive(Clone, Copy)]
pub(crate) struct State(*mut SessionState);

/// The state of a session.
#[inline(always)]
pub(crate) fn session_state(index: u32) -> Option<State> {
    SESSION_STATE.get_ptr_mut(index).map(State)
}

impl State {
    /// Takes the next sequence number.
    #[inline(always)]
    pub(crate) fn next_sequence(self) -> u64 {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).tx_sequence) }.fetch_add(1)
    }

    /// Counts an inner packet sent at `now` (boot time in ns). Whether it is time to ask for key stream.
    #[inline(always)]
    pub(crate) fn count_sent(self, bytes: usize, now: u64) -> bool {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let before = Shared::new(&raw mut (*self.0).tx_packets).fetch_add(1);
            Shared::new(&raw mut (*self.0).tx_bytes).fetch_add(bytes as u64);
            is_busy(before, Shared::new(&raw mut (*self.0).tx_turn), now)
        }
    }

    /// Counts an inner packet received at `now` (boot time in ns). Whether it is time to ask for key stream.
    #[inline(always)]
    pub(crate) fn count_received(self, bytes: usize, now: u64) -> bool {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let before = Shared::new(&raw mut (*self.0).rx_packets).fetch_add(1);
            Shared::new(&raw mut (*self.0).rx_bytes).fetch_add(bytes as u64);
            Shared::new(&raw mut (*self.0).rx_last_valid).store(now);
            is_busy(before, Shared::new(&raw mut (*self.0).rx_turn), now)
        }
    }

    /// The lane with the key stream for this direction, plus 1; 0: none.
    #[inline(always)]
    pub(crate) fn lane(self, direction: Direction) -> u64 {
        // SAFETY: fields of a map value, aligned by its type; volatile, since the controller writes them meanwhile.
        unsafe {
            match direction {
                Direction::Receive => (&raw const (*self.0).rx_lane).read_volatile(),
                Direction::Send => (&raw const (*self.0).tx_lane).read_volatile(),
            }
        }
    }

    /// Whether one more control message of this session may go to the controller.
    #[inline(always)]
    pub(crate) fn may_control(self, now: u64) -> bool {
        // SAFETY: the field of a map value, aligned by its type.
        let word = unsafe { Shared::new(&raw mut (*self.0).rx_control) };
        abi::CONTROL_METER.take(&word, now)
    }

    /// What decides where packets are opened. CPUs that receive for one session at a time may mix each other's values:
    /// they are estimates, and no decision on them is wrong.
    #[inline(always)]
    pub(crate) fn steering(self) -> Steering {
        // SAFETY: a field of a map value, aligned by its type, of which all bytes are valid.
        unsafe { (&raw const (*self.0).steering).read_volatile() }
    }

    /// Writes what [`Steering::measure`] and [`Steering::decide`] have changed.
    #[inline(always)]
    pub(crate) fn set_steering(self, value: &Steering) {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let steering = &raw mut (*self.0).steering;
            Shared::new(&raw mut (*steering).began).store(value.began);
            Shared::new(&raw mut (*steering).work).store(value.work);
            Shared::new(&raw mut (*steering).rate).store(value.rate);
            Shared::new(&raw mut (*steering).target).store(value.target);
        }
    }

    /// Counts a packet handed to another CPU at `now` (boot time in ns).
    #[inline(always)]
    pub(crate) fn count_handed(self, now: u64) {
        // SAFETY: fields of a map value, aligned by its type.
        unsafe {
            let steering = &raw mut (*self.0).steering;
            Shared::new(&raw mut (*steering).handed).fetch_add(1);
            Shared::new(&raw mut (*steering).handed_at).store(now);
        }
    }

    /// Forgets packets that were handed over and will never be taken.
    #[inline(always)]
    pub(crate) fn forget_handed(self, taken: u64) {
        // SAFETY: a field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).steering.handed) }.store(taken);
    }

    /// Packets that another CPU has taken over.
    #[inline(always)]
    pub(crate) fn taken(self) -> u64 {
        // SAFETY: a field of a map value, aligned by its type.
        Word::load(&unsafe { Shared::new(&raw mut (*self.0).rx_taken) })
    }

    /// Counts a packet taken over from another CPU.
    #[inline(always)]
    pub(crate) fn count_taken(self) {
        // SAFETY: a field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).rx_taken) }.fetch_add(1);
    }

    /// The highest sequence number received.
    #[inline(always)]
    pub(crate) fn highest(self) -> Shared {
        // SAFETY: a field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).rx_highest) }
    }

    /// A word of the sequence window.
    #[inline(always)]
    pub(crate) fn window_word(self, index: usize) -> Option<Shared> {
        let index = opaque::value(index);
        if index >= WINDOW_WORDS {
            return None;
        }
        // SAFETY: inside the window (checked), aligned by its type.
        Some(unsafe { Shared::new((&raw mut (*self.0).window).cast::<u64>().add(index)) })
    }
}

/// Whether the packets since the last turn came fast, if it is the turn of this one.
#[inline(always)]
fn is_busy(before: u64, turn: Shared, now: u64) -> bool {
    if !keystream::is_turn(before) {
        return false;
    }
    let last = Word::load(&turn);
    turn.store(now);
    keystream::is_busy(last, now)
}

/// An element of `KEYSTREAM`.
#[derive(Clone, Copy)]
pub(crate) struct Stream(*mut Element);

/// The element at an index, if there is one.
#[inline(always)]
pub(crate) fn element(index: u32) -> Option<Stream> {
    KEYSTREAM.get_ptr_mut(index).map(Stream)
}

impl Stream {
    /// Its stamp, in the order in which the program says.
    #[inline(always)]
    pub(crate) fn stamp(self) -> u64 {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).stamp) }.load_in_order()
    }

    /// What is in it.
    #[inline(always)]
    pub(crate) fn ready(self) -> Ready {
        // SAFETY: a map value, which is aligned and lives as long as the program runs.
        unsafe { Ready::new(self.0) }
    }
}

/// Tells the thread that makes key stream of a packet. Where it is away, or has much to do, that is lost.
#[inline(always)]
pub(crate) fn want(wanted: &Wanted) {
    // Nothing comes of an error but that the cipher works.
    let _ = WANTED.output::<Wanted>(wanted, 0);
}

/// The session that an inner address belongs to.
#[inline(always)]
pub(crate) fn route(version: u8, address: &[u8; 16]) -> Option<Route> {
    ROUTES.get(Key::new(8 * size_of::<RouteKey>() as u32, abi::route_key(version, address))).copied()
}

/// The CPUs that packets may be handed to.
#[inline(always)]
pub(crate) fn steering_cpus() -> Option<&'static SteeringCpus> {
    STEERING_CPUS.get(0)
}

/// Lets the kernel hand the frame to a CPU when the program ends with `XDP_REDIRECT`. False: that CPU has no queue.
#[inline(always)]
pub(crate) fn redirect_to_cpu(cpu: u32) -> bool {
    CPUS.redirect(cpu, XDP_ABORTED.into()).is_ok()
}

#[inline(always)]
fn add(array: &PerCpuArray<u64>, index: u32, amount: u64) {
    if let Some(counter) = array.get_ptr_mut(index) {
        // SAFETY: this CPU's own element; a program is not interrupted by itself.
        unsafe { *counter += amount }
    }
}

/// Counts a packet that is dropped, or that was `passed` since nothing is enforced.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason, passed: bool) {
    add(&DROPS, reason as u32 + if passed { DROP_SLOTS } else { 0 }, 1);
}

/// Counts anything else.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_by(counter, 1);
}

/// Counts several at once.
#[inline(always)]
pub(crate) fn count_by(counter: Counter, amount: u64) {
    add(&COUNTERS, counter as u32, amount);
}

#[inline(always)]
fn take(limit: &PerCpuArray<TokenBucket>, now: u64, interval: u64, burst: u64) -> bool {
    let Some(bucket) = limit.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own element; a program is not interrupted by itself.
    unsafe { &mut *bucket }.take(now, interval, burst)
}

/// What this CPU keeps for itself.
#[inline(always)]
fn local() -> Option<&'static mut Local> {
    // SAFETY: this CPU's own element. A program is not interrupted by itself; where one interrupts another, both may take the
    // same token, and see below for the time.
    LOCAL.get_ptr_mut(0).map(|local| unsafe { &mut *local })
}

/// Boot time in ns of the first packet after the clock's last tick: late by a tick at most (1 to 10 ms, as the kernel was
/// built). The exact clock costs as much as dropping a stranger's packet altogether.
#[inline(always)]
fn now(local: &mut Local) -> u64 {
    // SAFETY: takes nothing, returns a number; the kernel makes one read of memory of it.
    let tick = unsafe { bpf_jiffies64() };
    if local.tick != tick {
        // SAFETY: takes nothing, returns the time. Fields of a map value, aligned by its type; volatile for their order: a
        // program that comes between the two reads the clock itself.
        unsafe {
            (&raw mut local.time).write_volatile(bpf_ktime_get_boot_ns());
            (&raw mut local.tick).write_volatile(tick);
        }
    }
    local.time
}

/// Boot time in ns for decisions to which a tick does not matter: see [`now`].
#[inline(always)]
pub(crate) fn tick() -> u64 {
    local().map_or(0, now)
}

/// The same reason, of which the verifier knows nothing any more: it walks what follows once, and not once for each reason.
#[inline(always)]
pub(crate) fn forgotten(reason: DropReason) -> DropReason {
    let Some(local) = local() else { return DropReason::ReceiveFailed };
    // SAFETY: a field of a map value, aligned by its type; volatile, so that the compiler does not keep the value itself.
    let number = unsafe {
        (&raw mut local.forgotten).write_volatile(reason as u64);
        (&raw const local.forgotten).read_volatile()
    };
    DropReason::from_number(number as u8).unwrap_or(DropReason::ReceiveFailed)
}

/// Lets `fill` write a drop event into the ring buffer, at most 100 times a second and CPU (bursts of 200). The
/// event is all zero before.
#[inline(always)]
pub(crate) fn event(fill: impl FnOnce(&mut DropEvent)) {
    const INTERVAL: u64 = 10_000_000;
    const BURST: u64 = 200;
    let Some(local) = local() else { return };
    // Most drops get no further.
    let now = now(local);
    if !local.events.take(now, INTERVAL, BURST) {
        return count(Counter::EventsSuppressed);
    }
    match EVENTS.reserve::<DropEvent>(0) {
        Some(mut entry) => {
            fill(entry.write(DropEvent::default()));
            entry.submit(0);
        }
        None => count(Counter::EventsSuppressed),
    }
}

/// Lets `fill` write a record into the ring buffer of the controller. The record is all zero before. `None`: there is no
/// room, or `fill` gave up.
#[inline(always)]
pub(crate) fn control(fill: impl FnOnce(&mut ControlRecord) -> Option<()>) -> Option<()> {
    let mut entry = CONTROL.reserve::<ControlRecord>(0)?;
    let record = entry.as_mut_ptr();
    // SAFETY: the entry has room for one record, of which all zeros are a valid value, and nobody else has it yet.
    let record = unsafe {
        record.write_bytes(0, 1);
        &mut *record
    };
    let filled = fill(record);
    match filled {
        Some(()) => entry.submit(0),
        None => entry.discard(0),
    }
    filled
}

/// Whether an introduction packet with this tag was taken before.
#[inline(always)]
pub(crate) fn introduced(tag: &IntroductionTag) -> bool {
    INTRODUCED.get_ptr(tag).is_some()
}

/// Remembers the tag of an introduction packet taken at `now` (boot time in ns). False: it was taken before, or cannot
/// be remembered.
#[inline(always)]
pub(crate) fn remember(tag: &IntroductionTag, now: u64) -> bool {
    INTRODUCED.insert(tag, now, NO_EXIST).is_ok()
}

/// Whether one more introduction may go to the controller: at most 5,000 a second and CPU (bursts of as many).
#[inline(always)]
pub(crate) fn may_introduce(now: u64) -> bool {
    const INTERVAL: u64 = 200_000;
    const BURST: u64 = 5_000;
    take(&INTRODUCTION_LIMIT, now, INTERVAL, BURST)
}

/// Whether one more control message of any session may go to the controller: at most 2,000 a second and CPU (bursts of
/// 4,000). Each session has a limit of its own before that.
#[inline(always)]
pub(crate) fn may_control(now: u64) -> bool {
    const INTERVAL: u64 = 500_000;
    const BURST: u64 = 4_000;
    take(&CONTROL_LIMIT, now, INTERVAL, BURST)
}

/// Whether one more Packet Too Big may go to the controller: at most 100 a second and CPU (bursts of 200). Whoever sees packets of a
/// session can make up such messages; no session needs more than one in a while.
#[inline(always)]
pub(crate) fn may_be_too_big(now: u64) -> bool {
    const INTERVAL: u64 = 10_000_000;
    const BURST: u64 = 200;
    take(&TOO_BIG_LIMIT, now, INTERVAL, BURST)
}

/// Whether one more neighbour advertisement may be sent: at most 1,000 a second and CPU (bursts of 500).
#[inline(always)]
pub(crate) fn may_advertise(now: u64) -> bool {
    const INTERVAL: u64 = 1_000_000;
    const BURST: u64 = 500;
    take(&NEIGHBOUR_LIMIT, now, INTERVAL, BURST)
}
