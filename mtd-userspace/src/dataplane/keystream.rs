//! Key stream that is made ahead of its packets ([`mtd_common::keystream`]): the thread that makes it.
//!
//! It sleeps until a program asks, makes what that session needs next, and gives back lanes that were not used for a second.
//! The key stream is as secret as the keys: it is wiped from the map when its lane is given back, and when the thread ends.

use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, RingBuf};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use mtd_common::abi::{MODE_ENCRYPT, Session, SessionState};
use mtd_common::aead::BLOCK;
use mtd_common::keystream::{AHEAD, Direction, Element, RING, WORDS, Wanted, index};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tracing::warn;
use zeroize::Zeroizing;

use super::clock::boot_time;
use super::error::Error;
use super::shared::Shared;

/// The map of key stream.
pub(super) const ELEMENTS: &str = "KEYSTREAM";

/// The ring buffer of [`Wanted`] records.
const RECORDS: &str = "WANTED";

/// Elements that are made for one lane before the other lanes and new records have their turn.
const BATCH: u64 = 64;

/// Interval in ms at which lanes are checked for idleness, while any are in use.
const LOOK: u16 = 200;

/// Time without a record after which a lane is given back.
const IDLE: Duration = Duration::from_secs(1);

/// Nice value of the thread: it does little at a time, and key stream that comes late is useless.
const NICE: i32 = -5;

/// Words of a session's state.
const STATE_WORDS: usize = size_of::<SessionState>() / 8;

/// A lane in use.
struct Lane {
    /// The last record of the session and direction that the lane belongs to.
    wanted: Wanted,
    /// The first sequence number for which no element was made yet.
    next: u64,
    /// The sequence number at which to stop for now.
    end: u64,
    used: Instant,
}

/// Makes key stream.
pub struct Maker {
    elements: Shared<Element>,
    states: Shared<SessionState>,
    sessions: Array<MapData, Session>,
    records: RingBuf<MapData>,
    lanes: Vec<Option<Lane>>,
    /// Stamp of the last element. It begins with the time, so that no controller uses a stamp again.
    stamp: u64,
    /// The cipher's output for the next element.
    made: Zeroizing<Vec<u8>>,
}

impl Maker {
    /// For the maps of an object.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let sessions = Map::Array(another(ebpf, "SESSIONS")?);
        let elements = Shared::new(ELEMENTS, another(ebpf, ELEMENTS)?)?;
        let records = ebpf.take_map(RECORDS).ok_or(Error::Missing(RECORDS))?;
        Ok(Self {
            lanes: (0..elements.len() as u64 / RING).map(|_| None).collect(),
            elements,
            states: Shared::new("SESSION_STATE", another(ebpf, "SESSION_STATE")?)?,
            sessions: Array::try_from(sessions).map_err(Error::map("SESSIONS"))?,
            records: RingBuf::try_from(records).map_err(Error::map(RECORDS))?,
            stamp: boot_time(),
            made: Zeroizing::new(vec![0; size_of::<Element>()]),
        })
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn spawn(self) -> Result<Worker, Error> {
        let stop = Arc::new(EventFd::new().map_err(|errno| Error::KeyStream(errno.into()))?);
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("mtd-keystream".to_owned())
            .spawn(move || {
                if let Err(error) = self.run(stopped.as_fd()) {
                    warn!("no key stream is made ahead any more: {error}");
                }
            })
            .map_err(Error::KeyStream)?;
        Ok(Worker { stop, thread: Some(thread) })
    }

    fn run(mut self, stop: BorrowedFd<'_>) -> std::io::Result<()> {
        // SAFETY: changes this thread's priority only. Where that is not permitted, it stays as it is.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        let mut looked = Instant::now();
        loop {
            // SAFETY: the descriptor belongs to the ring buffer, which stays open.
            let records = unsafe { BorrowedFd::borrow_raw(self.records.as_raw_fd()) };
            let in_use = self.lanes.iter().any(Option::is_some);
            let timeout = if in_use { PollTimeout::from(LOOK) } else { PollTimeout::NONE };
            let mut ready = [records, stop].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut ready, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if ready[1].any() == Some(true) {
                return Ok(());
            }
            self.work();
            if looked.elapsed() >= Duration::from_millis(LOOK.into()) {
                self.give_back();
                looked = Instant::now();
            }
        }
    }

    /// Makes the key stream behind a packet, as if a program had requested it.
    pub fn ask(&mut self, wanted: Wanted) {
        self.note(wanted);
        self.work();
    }

    /// Makes all key stream that the programs have requested.
    pub fn work(&mut self) {
        loop {
            self.take_records();
            let mut more = false;
            for lane in 0..self.lanes.len() {
                more |= self.make_some(lane);
            }
            if !more {
                return;
            }
        }
    }

    /// Reads the requests of the programs.
    fn take_records(&mut self) {
        loop {
            let Some(record) = self.records.next().map(|record| Wanted::decode(&record)) else { return };
            if let Some(wanted) = record {
                self.note(wanted);
            } else {
                warn!("unreadable record of a packet that wants key stream");
            }
        }
    }

    /// Notes the progress of a session.
    fn note(&mut self, wanted: Wanted) {
        let same = |lane: &Lane| {
            (lane.wanted.session, lane.wanted.generation, lane.wanted.direction)
                == (wanted.session, wanted.generation, wanted.direction)
        };
        let found = self.lanes.iter().position(|lane| lane.as_ref().is_some_and(same));
        let free = || self.key(&wanted).and_then(|_| self.lanes.iter().position(Option::is_none));
        let Some(place) = found.or_else(free) else { return };
        let first = wanted.sequence.saturating_add(1);
        let end = first.saturating_add(AHEAD);
        let next = match &self.lanes[place] {
            Some(lane) if lane.wanted.slot == wanted.slot && (first..=end).contains(&lane.next) => lane.next,
            // The slot has changed, and with it all nonces; or the sequence number has jumped.
            _ => first,
        };
        self.lanes[place] = Some(Lane { wanted, next, end, used: Instant::now() });
        if let Some(word) = self.state(&wanted) {
            word.store(place as u64 + 1, Ordering::Relaxed);
        }
    }

    /// Makes the next elements of a lane. Returns whether more are to be made.
    fn make_some(&mut self, place: usize) -> bool {
        let Some(Lane { wanted, next, end, .. }) = self.lanes[place] else { return false };
        if next >= end {
            return false;
        }
        let Some(key) = self.key(&wanted) else {
            self.clear(place);
            return false;
        };
        let until = end.min(next + BATCH);
        for sequence in next..until {
            self.make(place as u32, &key, &Wanted { sequence, ..wanted });
        }
        if let Some(lane) = &mut self.lanes[place] {
            lane.next = until;
        }
        until < end
    }

    /// Makes one element. The programs may be reading the previous one in its place.
    fn make(&mut self, lane: u32, key: &[u8; 32], packet: &Wanted) {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&packet.slot.to_le_bytes());
        nonce[4..].copy_from_slice(&packet.sequence.to_le_bytes());
        ChaCha20::new(&(*key).into(), &nonce.into()).write_keystream(&mut self.made);
        let from = index(lane, packet.sequence) as usize * WORDS;
        let Some(([stamp, about @ ..], stream)) =
            self.elements.words().get(from..from + WORDS).and_then(|words| words.split_first_chunk::<4>())
        else {
            return;
        };
        invalidate(stamp);
        for (word, value) in about.iter().zip(packet.packet()) {
            word.store(value, Ordering::Relaxed);
        }
        // Of block 0, the first half is the key of Poly1305, and the second half is not used.
        let made = self.made[..BLOCK / 2].chunks_exact(8).chain(self.made[BLOCK..].chunks_exact(8));
        for (word, bytes) in stream.iter().zip(made) {
            word.store(bytes.try_into().map_or(0, u64::from_le_bytes), Ordering::Relaxed);
        }
        self.stamp += 1;
        stamp.store(self.stamp, Ordering::Release);
    }

    /// Gives back the lanes of sessions that have ended or are idle.
    fn give_back(&mut self) {
        for place in 0..self.lanes.len() {
            let needed = |lane: &Lane| lane.used.elapsed() < IDLE && self.key(&lane.wanted).is_some();
            if self.lanes[place].as_ref().is_some_and(|lane| !needed(lane)) {
                self.clear(place);
            }
        }
    }

    /// Gives a lane back, and zeroes it.
    fn clear(&mut self, place: usize) {
        let Some(lane) = self.lanes[place].take() else { return };
        if let Some(word) = self.state(&lane.wanted) {
            // Unless the next session at this index has another lane by now.
            let _ = word.compare_exchange(place as u64 + 1, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        let from = index(place as u32, 0) as usize * WORDS;
        let words = self.elements.words().get(from..from + RING as usize * WORDS).unwrap_or_default();
        for element in words.chunks_exact(WORDS) {
            // The stamp first, as always: a program that is using the element must notice.
            invalidate(&element[0]);
            for word in element {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The word that holds the lane of a session.
    fn state(&self, wanted: &Wanted) -> Option<&AtomicU64> {
        let word = if wanted.direction == Direction::Send as u32 {
            offset_of!(SessionState, tx_lane)
        } else {
            offset_of!(SessionState, rx_lane)
        };
        self.states.words().get(wanted.session as usize * STATE_WORDS + word / 8)
    }

    /// The key of the key stream; `None`: the session has ended, or needs no key stream.
    ///
    /// It is read between two checks of the generation, which the program has sent along: an index never has the same
    /// generation twice, so the key is complete, and belongs to this session.
    fn key(&self, wanted: &Wanted) -> Option<Zeroizing<[u8; 32]>> {
        let read = || self.sessions.get(&wanted.session, 0).ok();
        let lives =
            |session: &Session| (session.generation, session.mode) == (wanted.generation, MODE_ENCRYPT);
        let session = read().filter(lives)?;
        read().filter(lives)?;
        let keys = if wanted.direction == Direction::Send as u32 { session.tx } else { session.rx };
        Some(Zeroizing::new(keys.seal))
    }
}

/// Marks an element as invalid, before any other part of it changes.
fn invalidate(stamp: &AtomicU64) {
    stamp.store(0, Ordering::Relaxed);
    fence(Ordering::Release);
}

/// A second descriptor of a map; another part of the controller has the first.
fn another(ebpf: &Ebpf, name: &'static str) -> Result<MapData, Error> {
    let Some(Map::Array(map)) = ebpf.map(name) else { return Err(Error::Missing(name)) };
    let descriptor = map.fd().as_fd().try_clone_to_owned().map_err(Error::KeyStream)?;
    MapData::from_fd(descriptor).map_err(Error::map(name))
}

impl Drop for Maker {
    fn drop(&mut self) {
        (0..self.lanes.len()).for_each(|place| self.clear(place));
    }
}

/// The thread that makes key stream; it ends when this is dropped.
pub struct Worker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Whether the thread has ended without having been told to.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let told = self.stop.write(1).is_ok();
        // A panic of the thread was reported when it happened.
        let _ = self.thread.take().filter(|_| told).map(JoinHandle::join);
    }
}
