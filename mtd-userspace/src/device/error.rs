//! Errors of devices, and their remedies.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::remedy::{Doing, clause};

/// The result of an operation on a device.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a device; the text names the device and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot be given to a tunnel device.
    #[error(
        "\"{name}\" cannot name the tunnel device: {problem}; choose 1 to 14 characters out of letters, digits, '-', \
         '_' and '.', such as \"mtd0\""
    )]
    InvalidName {
        /// The name as configured.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// The MTU is out of range.
    #[error(
        "{name}: an MTU of {mtu} bytes is out of range; choose {min} (the least that IPv6 works with) to {max}, at \
         most the underlay's MTU less the tunnel's overhead"
    )]
    InvalidMtu {
        /// The device.
        name: String,
        /// The MTU asked for, in bytes.
        mtu: u32,
        /// The smallest MTU accepted, in bytes.
        min: u32,
        /// The largest MTU accepted, in bytes.
        max: u32,
    },

    /// The address cannot be given to a device.
    #[error("{name}: {address} cannot be an address of the tunnel device; give it a unicast address")]
    InvalidAddress {
        /// The device.
        name: String,
        /// The address as configured.
        address: IpNet,
    },

    /// The kernel has no IPv6.
    #[error(
        "this host has no IPv6 (/proc/sys/net/ipv6 is missing), and mtd's tunnels are IPv6; boot without \
         ipv6.disable=1, or load the ipv6 module"
    )]
    NoIpv6,

    /// The settings of the network cannot be seen.
    #[error("/proc/sys/net is not there; mount proc at /proc, and let this process see it")]
    NoSettings,

    /// A device of that name exists and carries no marker of mtd's.
    #[error(
        "interface {name} exists and is not mtd's; choose another name for the tunnel device, or, if nothing needs \
         it, remove it with `ip link delete {name}`"
    )]
    Foreign {
        /// The device.
        name: String,
    },

    /// A device carries mtd's marker but is no longer one end of a pair in this namespace.
    #[error(
        "interface {name} carries mtd's marker, but its other end {peer} is not in this network namespace under that \
         name; remove it with `ip link delete {name}` and start again"
    )]
    BrokenPair {
        /// The device.
        name: String,
        /// The name of the other end that was looked for.
        peer: String,
    },

    /// There is no interface of that name.
    #[error(
        "there is no interface {name}; this network namespace has: {}. To use one of another network namespace, start mtd \
         there (`ip netns exec NAMESPACE mtd run`)",
        available.join(", ")
    )]
    NotFound {
        /// The name looked for.
        name: String,
        /// The names of the interfaces that exist.
        available: Vec<String>,
    },

    /// The interface carries no Ethernet frames.
    #[error(
        "interface {name} has no Ethernet header (link type: {link_type}), which the receive program needs; choose an \
         Ethernet interface as underlay"
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// Its link type, as `ip link` prints it after `link/`.
        link_type: String,
    },

    /// The interface is only a part of another one.
    #[error(
        "interface {name} is a port of {whole} ({kind}), and this host's addresses and routes are those of {whole}: set \
         interface = \"{whole}\", or take {name} out of it (`ip link set {name} nomaster`)"
    )]
    Port {
        /// The interface.
        name: String,
        /// What it is a port of, as `ip -d link` prints it.
        kind: String,
        /// The device that it is a part of.
        whole: String,
    },

    /// No number is free for a mark.
    #[error(
        "no number from 28020 to 28275 is free for the mark of mtd's own packets and their routing table; choose one that \
         nobody uses with fwmark = NUMBER"
    )]
    NoMark,

    /// The routing table holds routes of others.
    #[error(
        "routing table {number} holds routes that are not mtd's; write another number for fwmark, or \"auto\""
    )]
    TableTaken {
        /// The number of the table.
        number: u32,
    },

    /// Another device already has the route.
    #[error(
        "the route to {destination} cannot go through {name}: {holder} already has it, with a metric that wins; remove \
         one of the two, or route a more specific prefix through {name}"
    )]
    RouteConflict {
        /// The tunnel device.
        name: String,
        /// The destination of both routes.
        destination: IpNet,
        /// The device that holds the route, or the kind of route if it has no device.
        holder: String,
    },

    /// Features of a device did not take the state that the tunnel needs.
    #[error(
        "{name}: the kernel kept {}; the tunnel cannot work like that: check with `ethtool -k {name}` what holds them, \
         and report the kernel version if nothing does",
        features.join(", ")
    )]
    Features {
        /// The device.
        name: String,
        /// Features in the wrong state, each as `NAME on` or `NAME off`.
        features: Vec<String>,
    },

    /// A request to the kernel's link, address or route tables failed.
    #[error("cannot {action}: {cause}{}", clause(Doing::Network, cause))]
    Netlink {
        /// The attempted operation, as the continuation of "cannot".
        action: String,
        /// The kernel's answer.
        cause: io::Error,
    },

    /// A request to the device's driver failed.
    #[error("{name}: cannot {action}: {cause}{}", clause(Doing::Network, cause))]
    Ethtool {
        /// The device.
        name: String,
        /// The attempted operation, as the continuation of "cannot".
        action: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },

    /// A kernel setting could not be read or written.
    #[error("cannot set {} to {value}: {cause}{}", path.display(), clause(Doing::Setting, cause))]
    Sysctl {
        /// The setting's file.
        path: PathBuf,
        /// The value wanted.
        value: &'static str,
        /// The cause.
        cause: io::Error,
    },

    /// The BPF file system is missing and could not be mounted.
    #[error("cannot {action} the BPF file system at {}: {cause}{}", path.display(), clause(Doing::Mount, cause))]
    Bpffs {
        /// The attempted operation: `find` or `mount`.
        action: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },

    /// The system gave no random bytes for a MAC address.
    #[error("cannot draw a MAC address for {name}: {cause}")]
    Random {
        /// The device.
        name: String,
        /// The cause.
        cause: getrandom::Error,
    },
}
