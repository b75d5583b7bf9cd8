//! XDP programs of a few instructions, above all those of two instructions that give every frame the same verdict.
//!
//! They need no compiler and no object file. Uses: an interface that has a program already, and the bare `XDP_DROP` that
//! benchmarks compare with.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};

use crate::inject::Interface;
use crate::netns::Netns;

/// The program's verdict on every frame (`enum xdp_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `XDP_DROP`.
    Drop = 1,
    /// `XDP_PASS`: to the stack, as without a program. On a veth end it makes the driver run its NAPI for frames that an
    /// XDP program at the other end sends back: `XDP_TX` puts them into this end's ring but wakes it only when it has a
    /// program (`veth_xdp_flush`); GRO, which is enough for `XDP_REDIRECT`, is not enough there.
    Pass = 2,
    /// `XDP_TX`: back out of the same interface, unchanged.
    Transmit = 3,
}

/// An attached program; dropping it detaches.
#[derive(Debug)]
pub struct ConstantXdp {
    _link: OwnedFd,
    _program: OwnedFd,
}

impl ConstantXdp {
    /// Loads the program and attaches it in native mode to an interface of a namespace.
    ///
    /// # Errors
    /// When there is no such interface, it has an XDP program already, its driver has no native XDP, or without root.
    pub fn attach(netns: &Netns, ifname: &str, verdict: Verdict) -> Result<Self> {
        let interface = Interface::resolve(netns, ifname)?;
        let instructions = [[MOV64_IMM_R0, 0, 0, 0, verdict as u8, 0, 0, 0], [EXIT, 0, 0, 0, 0, 0, 0, 0]];
        // Without the flag the kernel limits the MTU of the other end.
        let program =
            load(&instructions, BPF_F_XDP_HAS_FRAGS).context("the kernel refuses a trivial XDP program")?;
        // The kernel looks the index up in the namespace of the calling thread.
        let link = netns
            .enter(|| attach(&program, interface.index, XDP_FLAGS_DRV_MODE))?
            .with_context(|| format!("cannot attach XDP to {ifname} in {}", netns.name()))?;
        Ok(Self { _link: link, _program: program })
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// [`attach`]: generic XDP, which every interface has.
pub const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;

/// `r0 = imm` (64 bit) and `exit`.
const MOV64_IMM_R0: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs, up to `expected_attach_type`.
#[repr(C)]
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
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` needs.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads an XDP program of these instructions (`struct bpf_insn`) with these flags (`prog_flags`).
///
/// # Errors
/// When the kernel refuses.
pub fn load(instructions: &[[u8; 8]], flags: u32) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: flags,
        prog_name: *b"mtdt_xdp\0\0\0\0\0\0\0\0",
        prog_ifindex: 0,
        expected_attach_type: BPF_XDP,
    };
    // SAFETY: the addresses inside point to `instructions` and `license`, which outlive the call.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // SAFETY: the command returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches an XDP program to the interface with this index in the calling thread's namespace, in the mode that `flags`
/// say. It is detached when the result is dropped.
///
/// # Errors
/// When the kernel refuses.
pub fn attach(program: &OwnedFd, index: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd().unsigned_abs(),
        target_ifindex: index,
        attach_type: BPF_XDP,
        flags,
    };
    // SAFETY: the attributes hold no addresses.
    let descriptor = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }?;
    // SAFETY: the command returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Runs a `bpf(2)` command, which may write its results into `attributes`. Returns the result of the system call.
///
/// # Errors
/// When the kernel refuses.
///
/// # Safety
/// `T` must be a prefix of the member of `union bpf_attr` for `command`, and addresses in it must stay valid during the
/// call.
pub unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes within `size_of::<T>()` bytes of a live exclusive reference; the rest is the
    // caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
