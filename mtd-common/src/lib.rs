//! What the kernel programs and the controller of mtd must agree on.
//!
//! `no_std`, no allocation, no clock, no I/O: every function runs in BPF and on the host alike, and is tested on
//! the host. `docs/wire-format.md` describes the packets, `ARCHITECTURE.md` how the pieces work together.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
#[cfg(any(test, feature = "user"))]
pub mod address;
pub mod aead;
pub mod allow;
pub mod bytes;
mod chacha20;
pub mod checksum;
pub mod drop_reason;
pub mod filter;
pub mod heard;
pub mod keystream;
pub mod meter;
pub mod opaque;
pub mod packet;
mod poly1305;
pub mod siphash;
pub mod slot;
pub mod steering;
pub mod table;
pub mod window;

pub use abi::{control_record, event, session_note};
pub use drop_reason::DropReason;
