//! The BPF object that this binary carries.

/// The ELF object with programs, maps and BTF; aligned as the parser needs it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MTD_EBPF_OBJECT"));

/// The receive program (XDP).
pub(super) const RECEIVE: &str = "mtd_receive";
/// The program of the CPUs to which received packets are handed (XDP).
pub(super) const TAKE: &str = "mtd_take";
/// The program that answers neighbour solicitations (TC).
pub(super) const ADVERTISE: &str = "mtd_advertise";
/// The send program (TC).
pub(super) const SEND: &str = "mtd_send";

/// The filter of sessions behind the receive program (XDP).
pub(super) const FILTER_RECEIVE: &str = "mtd_filter";
/// The filter of sessions behind [`TAKE`] (XDP).
pub(super) const FILTER_TAKE: &str = "mtd_filter_take";
/// The filter of sessions in front of sealing (TC).
pub(super) const FILTER_SEND: &str = "mtd_filter_send";

/// All programs, in the order in which reports name them.
pub(super) const ALL: [&str; 7] = [RECEIVE, TAKE, ADVERTISE, SEND, FILTER_RECEIVE, FILTER_TAKE, FILTER_SEND];
