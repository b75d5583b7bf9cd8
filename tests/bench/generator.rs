//! Frames at millions a second: the kernel's live-frame test runs, out of one end of a veth cable.
//!
//! `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES` makes real frames, runs a program over each, and does what it
//! says. The program here says `XDP_TX`, which sends the frame out of the interface that it is said to have come from;
//! so the other end of the cable receives it, in a softirq of the same CPU.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};
use mtd_tests::inject::Interface;
use mtd_tests::netns::Netns;

/// Which destinations the frames have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destinations {
    /// That of the frame as given.
    Fixed,
    /// The low 64 bits of the IPv6 destination are random in every frame.
    Random,
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
    /// Loads the generating program for `frame` (Ethernet and IPv6 headers at least) out of an interface.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub(crate) fn new(
        netns: &'a Netns,
        ifname: &str,
        frame: &[u8],
        destinations: Destinations,
    ) -> Result<Self> {
        let ifindex = Interface::resolve(netns, ifname)?.index;
        let program = load(destinations).context("the kernel refuses the frame generator")?;
        Ok(Self { netns, ifindex, program, frame: frame.to_vec() })
    }

    /// Sends `count` frames; returns when the last one was received or lost.
    ///
    /// # Errors
    /// When the kernel refuses (live frames need Linux 5.18), or a signal came.
    pub(crate) fn send(&self, count: u32) -> Result<()> {
        // The kernel looks the interface up in the namespace of the calling thread.
        self.netns
            .enter(|| self.test_run(count))?
            .context("cannot send live frames (Linux 5.18 or later can)")
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

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const XDP_TX: i32 = 3;
const BPF_FUNC_GET_PRANDOM_U32: i32 = 7;

/// The end of the Ethernet and IPv6 headers, and the low half of the destination address before it.
const HEADERS: i32 = 14 + 40;
const LOW: i16 = HEADERS as i16 - 8;

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

/// Writes two random words to the low half of the destination.
const RANDOM: [[u8; 8]; 11] = [
    instruction(MOV, (6, 1), 0, 0),
    instruction(CALL, (0, 0), 0, BPF_FUNC_GET_PRANDOM_U32),
    instruction(MOV, (7, 0), 0, 0),
    instruction(CALL, (0, 0), 0, BPF_FUNC_GET_PRANDOM_U32),
    // r2 = data, r3 = data_end, r4 = end of the headers
    instruction(LOAD_WORD, (2, 6), 0, 0),
    instruction(LOAD_WORD, (3, 6), 4, 0),
    instruction(MOV, (4, 2), 0, 0),
    instruction(ADD_IMMEDIATE, (4, 0), 0, HEADERS),
    instruction(JUMP_IF_GREATER, (4, 3), 2, 0),
    instruction(STORE_WORD, (2, 7), LOW, 0),
    instruction(STORE_WORD, (2, 0), LOW + 4, 0),
];
const TRANSMIT: [[u8; 8]; 2] =
    [instruction(MOV_IMMEDIATE, (0, 0), 0, XDP_TX), instruction(EXIT, (0, 0), 0, 0)];

fn load(destinations: Destinations) -> io::Result<OwnedFd> {
    let mut instructions = Vec::new();
    if destinations == Destinations::Random {
        instructions.extend(RANDOM);
    }
    instructions.extend(TRANSMIT);
    let license = c"GPL";
    let mut attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgLoad::default()
    };
    // SAFETY: the addresses inside point to `instructions` and `license`, which outlive the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // SAFETY: the command returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
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

/// A `bpf(2)` command, which may write its results into `attributes`; returns what it returned.
///
/// # Safety
/// `T` must be a prefix of the member of `union bpf_attr` for `command`, and addresses in it must stay valid meanwhile.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes within `size_of::<T>()` bytes of a live exclusive reference; the rest is the
    // caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        RawFd::try_from(result).map_err(io::Error::other)
    }
}
