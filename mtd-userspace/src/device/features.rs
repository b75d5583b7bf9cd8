//! The offload features of a device, by the names that `ethtool -k` also knows, over the `SIOCETHTOOL` ioctl.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::{Error, Result};
use super::netlink::NAME_MAX;

// linux/ethtool.h
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// Generic receive offload. On the receiving end of a veth pair it also turns NAPI on, without which veth refuses
/// the frames that XDP redirects to its other end.
const GRO: &str = "rx-gro";

/// The end of the veth pair that a set of features is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The host's end: received frames come from XDP, sent ones must be whole.
    Outer,
    /// The sealing program's end: it must see every segment by itself, so nothing may be merged on the way in.
    Inner,
}

impl End {
    /// The state in which the tunnel needs a feature, if it matters.
    ///
    /// No packet with a partial checksum and no GSO super-packet may reach the sealing program. Therefore all checksum,
    /// scatter-gather and segmentation offloads are off, including those that later kernels may add.
    fn wants(self, feature: &str) -> Option<bool> {
        match feature {
            GRO => Some(self == Self::Outer),
            _ if feature.starts_with("tx-checksum-")
                || feature.starts_with("tx-scatter-gather")
                || feature.starts_with("tx-gso-")
                || (feature.starts_with("tx-") && feature.ends_with("-segmentation")) =>
            {
                Some(false)
            }
            _ => None,
        }
    }
}

/// Brings the features of the device `name` into the state that its end of the pair needs, and reads them back. Returns
/// whether any were in another state.
///
/// # Errors
/// [`Error::Ethtool`]; [`Error::Features`] for those that stayed as they were.
pub(super) fn configure(name: &str, end: End) -> Result<bool> {
    let failed = |action| move |cause| Error::Ethtool { name: name.to_owned(), action, cause };
    let device = Ethtool::open(name).map_err(failed("open a socket for its features"))?;
    let features = device.feature_names().map_err(failed("list its features"))?;
    let active = device.active(features.len()).map_err(failed("read its features"))?;
    if wrong(end, &features, &active).next().is_none() {
        return Ok(false);
    }
    device.set(&request(end, &features)).map_err(failed("set its features"))?;
    let active = device.active(features.len()).map_err(failed("read its features"))?;
    let stuck: Vec<String> = wrong(end, &features, &active)
        .map(|(feature, on)| format!("{feature} {}", if on { "on" } else { "off" }))
        .collect();
    if stuck.is_empty() { Ok(true) } else { Err(Error::Features { name: name.to_owned(), features: stuck }) }
}

/// The features of the device `name` that are not as its end of the pair needs them, with the state that they are in.
///
/// # Errors
/// [`io::Error`] of the kernel, also for a device that does not exist.
pub(super) fn misfits(name: &str, end: End) -> io::Result<Vec<(String, bool)>> {
    let device = Ethtool::open(name)?;
    let features = device.feature_names()?;
    let active = device.active(features.len())?;
    Ok(wrong(end, &features, &active).map(|(feature, on)| (feature.to_owned(), on)).collect())
}

/// Which of the features `sought` are on at the device `name`; features that it does not have count as off.
///
/// # Errors
/// As [`misfits`].
pub(super) fn active(name: &str, sought: &[&'static str]) -> io::Result<Vec<&'static str>> {
    let device = Ethtool::open(name)?;
    let features = device.feature_names()?;
    let active = device.active(features.len())?;
    let on = |bit: usize| active.get(bit / 32).is_some_and(|block| block >> (bit % 32) & 1 == 1);
    let is_on = |wanted: &&&str| features.iter().position(|feature| feature == **wanted).is_some_and(on);
    Ok(sought.iter().filter(is_on).copied().collect())
}

/// The features that are not in the wanted state, with their present state. `active` has one bit for each feature.
fn wrong<'a>(end: End, features: &'a [String], active: &'a [u32]) -> impl Iterator<Item = (&'a str, bool)> {
    features.iter().enumerate().filter_map(move |(bit, feature)| {
        let on = active.get(bit / 32)? >> (bit % 32) & 1 == 1;
        (end.wants(feature)? != on).then_some((feature.as_str(), on))
    })
}

/// The blocks of a set request: `valid` and `requested`, alternating.
fn request(end: End, features: &[String]) -> Vec<u32> {
    let mut blocks = vec![0; 2 * features.len().div_ceil(32)];
    for (bit, feature) in features.iter().enumerate() {
        if let Some(on) = end.wants(feature) {
            let block = 2 * (bit / 32);
            blocks[block] |= 1 << (bit % 32);
            blocks[block + 1] |= u32::from(on) << (bit % 32);
        }
    }
    blocks
}

/// `struct ifreq` with the member that `SIOCETHTOOL` uses.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_MAX + 1],
    data: *mut u32,
    unused: [u8; size_of::<libc::ifreq>() - (NAME_MAX + 1) - size_of::<*mut u32>()],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());
const _: () = assert!(std::mem::offset_of!(IfReq, data) == std::mem::offset_of!(libc::ifreq, ifr_ifru));

/// A socket for ethtool commands to one device.
struct Ethtool {
    socket: OwnedFd,
    name: [u8; NAME_MAX + 1],
}

impl Ethtool {
    fn open(name: &str) -> io::Result<Self> {
        let mut padded = [0; NAME_MAX + 1];
        padded
            .get_mut(..name.len())
            .filter(|_| name.len() <= NAME_MAX)
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(name.as_bytes());
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket, name: padded })
    }

    /// The names of all features the kernel knows, by bit number.
    fn feature_names(&self) -> io::Result<Vec<String>> {
        // cmd, reserved, mask of string sets (u64), one count for each set in the mask.
        let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
        let word = |at: usize| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]);
        let mut info = [ETHTOOL_GSSET_INFO, 0, word(0), word(4), 0];
        self.command(&mut info)?;
        let count = info[4];

        // cmd, string set, count, strings.
        let mut strings = vec![ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count];
        strings.resize(3 + count as usize * ETH_GSTRING_LEN / 4, 0);
        self.command(&mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |raw: &[u8]| {
            let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
            String::from_utf8_lossy(&raw[..end]).into_owned()
        };
        Ok(bytes.chunks_exact(ETH_GSTRING_LEN).map(name).collect())
    }

    /// The features that are on, one bit for each feature.
    fn active(&self, count: usize) -> io::Result<Vec<u32>> {
        // cmd, number of blocks, blocks of: available, requested, active, never changed.
        let blocks = count.div_ceil(32);
        let mut message = vec![ETHTOOL_GFEATURES, blocks as u32];
        message.resize(2 + 4 * blocks, 0);
        self.command(&mut message)?;
        Ok(message[2..].iter().skip(2).step_by(4).copied().collect())
    }

    /// Sets features from blocks of: valid, requested.
    fn set(&self, blocks: &[u32]) -> io::Result<()> {
        let mut message = vec![ETHTOOL_SFEATURES, blocks.len() as u32 / 2];
        message.extend_from_slice(blocks);
        self.command(&mut message)
    }

    /// Runs one command. The buffer is the command's whole structure, with room for what the kernel writes: the
    /// sizes in it tell the kernel how much.
    fn command(&self, buffer: &mut [u32]) -> io::Result<()> {
        let mut ifreq = IfReq { name: self.name, data: buffer.as_mut_ptr(), unused: [0; _] };
        // SAFETY: SIOCETHTOOL reads a `struct ifreq`, whose size and layout `IfReq` has (asserted above); `data`
        // points to a live, exclusively borrowed buffer that every caller sizes for the command in its first word.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_features_are_off_at_both_ends() {
        for feature in [
            "tx-checksum-ip-generic",
            "tx-checksum-sctp",
            "tx-scatter-gather",
            "tx-scatter-gather-fraglist",
            "tx-generic-segmentation",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "tx-udp-segmentation",
            "tx-udp_tnl-csum-segmentation",
            "tx-gso-partial",
            "tx-gso-list",
        ] {
            assert_eq!(End::Outer.wants(feature), Some(false), "{feature}");
            assert_eq!(End::Inner.wants(feature), Some(false), "{feature}");
        }
    }

    #[test]
    fn only_the_outer_end_merges_what_it_receives() {
        assert_eq!(End::Outer.wants(GRO), Some(true));
        assert_eq!(End::Inner.wants(GRO), Some(false));
        for feature in ["rx-checksum", "tx-vlan-hw-insert", "highdma", "rx-gro-list", "loopback"] {
            assert_eq!(End::Outer.wants(feature), None, "{feature}");
        }
    }

    #[test]
    fn request_sets_only_the_bits_that_matter() {
        let mut features = vec!["highdma".to_owned(); 40];
        features[1] = "tx-generic-segmentation".to_owned();
        features[35] = GRO.to_owned();
        assert_eq!(request(End::Outer, &features), [1 << 1, 0, 1 << 3, 1 << 3]);
        assert_eq!(request(End::Inner, &features), [1 << 1, 0, 1 << 3, 0]);
        let active = [1 << 1, 0];
        assert_eq!(
            wrong(End::Outer, &features, &active).collect::<Vec<_>>(),
            [("tx-generic-segmentation", true), (GRO, false)]
        );
        assert_eq!(
            wrong(End::Inner, &features, &active).collect::<Vec<_>>(),
            [("tx-generic-segmentation", true)]
        );
    }
}
