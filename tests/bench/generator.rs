//! A generator of millions of frames a second, by the kernel's test runs with live frames, out of one end of a veth cable.
//!
//! `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES` makes real frames, runs a program on each, and obeys the program's
//! verdict. Here that is `XDP_TX`, which sends the frame out of the interface on which it is claimed to have arrived. The
//! other end of the cable therefore receives it, in a softirq on the same CPU.
//!
//! Each test run adds its program to the kernel's XDP dispatcher, removes it again, and waits for RCU both times, which
//! takes tens of milliseconds, as long as the run itself. A program that is attached somewhere is in the dispatcher already.
//! Therefore the generator attaches its program to the loopback interface, where no frames come, while it runs.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtd_common::packet::{ETHERNET, IPV6, UDP};
use mtd_tests::inject::Interface;
use mtd_tests::netns::Netns;
use mtd_tests::xdp::{self, XDP_FLAGS_SKB_MODE, bpf};

use crate::measure::pin;

/// Frames of one system call.
const CHUNK: u32 = 20_000;

const REFUSED: &str = "cannot send live frames (Linux 5.18 or later can)";

/// The part of every frame that is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Random {
    /// Nothing: all frames are the same.
    Nothing,
    /// Eight bytes from this offset on.
    At(u8),
}

impl Random {
    /// The low 64 bits of the IPv6 destination.
    pub(crate) const DESTINATION: Self = Self::At((ETHERNET + IPV6) as u8 - 8);
    /// The masked sequence number.
    pub(crate) const SEQUENCE: Self = Self::At((ETHERNET + IPV6 + UDP) as u8);
}

/// Sends frames from one interface.
#[derive(Debug)]
pub(crate) struct Generator<'a> {
    netns: &'a Netns,
    ifindex: u32,
    program: OwnedFd,
    frame: Vec<u8>,
}

impl<'a> Generator<'a> {
    /// Loads the program that sends `frame` out of an interface. The frame must contain the random bytes.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub(crate) fn new(netns: &'a Netns, ifname: &str, frame: &[u8], random: Random) -> Result<Self> {
        let ifindex = Interface::resolve(netns, ifname)?.index;
        let program = load(random).context("the kernel refuses the frame generator")?;
        Ok(Self { netns, ifindex, program, frame: frame.to_vec() })
    }

    /// Sends as fast as possible for at least `time`. Returns the number of frames and the time that they took. By then all
    /// of them have been received or lost.
    ///
    /// # Errors
    /// When the kernel refuses (live frames need Linux 5.18), or a signal came.
    pub(crate) fn send(&self, time: Duration) -> Result<(u64, Duration)> {
        let send = || -> io::Result<(u64, Duration)> {
            let _attached = self.attach()?;
            let (mut sent, start) = (0, Instant::now());
            while start.elapsed() < time {
                self.test_run(CHUNK)?;
                sent += u64::from(CHUNK);
            }
            Ok((sent, start.elapsed()))
        };
        // The kernel looks the interface up in the namespace of the calling thread.
        self.netns.enter(send)?.context(REFUSED)
    }

    /// Sends until `stop` is set, on this CPU: as fast as possible or, with `rate`, that many frames a second, in one burst
    /// each millisecond.
    ///
    /// # Errors
    /// As [`Generator::send`].
    pub(crate) fn flood(&self, rate: Option<u32>, stop: &AtomicBool, cpu: usize) -> Result<()> {
        const INTERVAL: Duration = Duration::from_millis(1);
        let burst = rate.map_or(CHUNK, |rate| rate / 1000);
        let flood = || -> Result<()> {
            pin(cpu)?;
            let _attached = self.attach()?;
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                self.test_run(burst)?;
                if rate.is_some() {
                    // If an interval was too long, the rate is lower: no larger burst makes up for it.
                    next = (next + INTERVAL).max(Instant::now());
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
            Ok(())
        };
        self.netns.enter(flood)?.context(REFUSED)
    }

    /// Attaches the program to the loopback interface of the calling thread's namespace, until the result is dropped.
    fn attach(&self) -> io::Result<OwnedFd> {
        xdp::attach(&self.program, LOOPBACK, XDP_FLAGS_SKB_MODE)
    }

    fn test_run(&self, count: u32) -> io::Result<()> {
        let size = self.frame.len() as u32;
        let context = XdpMd {
            data: 0,
            data_end: size,
            data_meta: 0,
            ingress_ifindex: self.ifindex,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let mut attributes = TestRun {
            prog_fd: self.program.as_raw_fd().unsigned_abs(),
            data_size_in: size,
            data_in: self.frame.as_ptr() as u64,
            repeat: count,
            ctx_size_in: size_of::<XdpMd>() as u32,
            ctx_in: std::ptr::from_ref(&context) as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            ..TestRun::default()
        };
        // SAFETY: the addresses inside point to `self.frame` and `context`, which outlive the call.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
    }
}

const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const XDP_TX: i32 = 3;
/// Index of the loopback interface in every namespace.
const LOOPBACK: u32 = 1;
const BPF_FUNC_GET_PRANDOM_U32: i32 = 7;

/// `struct bpf_insn`; the registers are destination and source.
const fn instruction(code: u8, registers: (u8, u8), offset: i16, immediate: i32) -> [u8; 8] {
    let (offset, immediate) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    let registers = registers.0 | registers.1 << 4;
    [code, registers, offset[0], offset[1], immediate[0], immediate[1], immediate[2], immediate[3]]
}

const MOV: u8 = 0xbf;
const MOV_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const JUMP_IF_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Writes two random words at an offset of the frame.
const fn randomise(at: i16) -> [[u8; 8]; 11] {
    [
        instruction(MOV, (6, 1), 0, 0),
        instruction(CALL, (0, 0), 0, BPF_FUNC_GET_PRANDOM_U32),
        instruction(MOV, (7, 0), 0, 0),
        instruction(CALL, (0, 0), 0, BPF_FUNC_GET_PRANDOM_U32),
        // r2 = data, r3 = data_end, r4 = end of the words
        instruction(LOAD_WORD, (2, 6), 0, 0),
        instruction(LOAD_WORD, (3, 6), 4, 0),
        instruction(MOV, (4, 2), 0, 0),
        instruction(ADD_IMMEDIATE, (4, 0), 0, at as i32 + 8),
        instruction(JUMP_IF_GREATER, (4, 3), 2, 0),
        instruction(STORE_WORD, (2, 7), at, 0),
        instruction(STORE_WORD, (2, 0), at + 4, 0),
    ]
}

const TRANSMIT: [[u8; 8]; 2] =
    [instruction(MOV_IMMEDIATE, (0, 0), 0, XDP_TX), instruction(EXIT, (0, 0), 0, 0)];

fn load(random: Random) -> io::Result<OwnedFd> {
    let mut instructions = Vec::new();
    if let Random::At(offset) = random {
        instructions.extend(randomise(offset.into()));
    }
    instructions.extend(TRANSMIT);
    xdp::load(&instructions, 0)
}

/// `struct xdp_md`.
#[repr(C)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` needs.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    /// 0: the kernel's default, 64.
    batch_size: u32,
    padding: u32,
}
