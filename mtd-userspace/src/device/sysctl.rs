//! Per-device IPv6 settings under `/proc/sys/net/ipv6/conf`, which follow the calling thread's network namespace.

use std::fs;
use std::path::Path;

use super::error::{Error, Result};

const IPV4: &str = "/proc/sys/net/ipv4";

const IPV6: &str = "/proc/sys/net/ipv6";

/// Fails when the kernel has no IPv6, or the settings cannot be seen.
pub(super) fn require_ipv6() -> Result<()> {
    if Path::new(IPV6).is_dir() {
        Ok(())
    } else if Path::new(IPV6).parent().is_some_and(Path::is_dir) {
        Err(Error::NoIpv6)
    } else {
        Err(Error::NoSettings)
    }
}

/// Whether IPv4 packets that come in by an interface are dropped if the way back to their senders is another one (strict
/// `rp_filter`, RFC 3704). The larger one of the interface's setting and that of all counts.
pub fn filters_strictly(interface: &str) -> bool {
    const STRICT: u32 = 1;
    let read = |name| {
        let path = Path::new(IPV4).join("conf").join(name).join("rp_filter");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    read("all").max(read(interface)) == STRICT
}

/// The outer end: IPv6 on (whatever the host's default), but no link-local address, router solicitation or
/// autoconfiguration. mtd gives the device its addresses; nothing else may speak on it.
pub(super) fn configure_outer(name: &str) -> Result<()> {
    // The mode is set before IPv6 is switched on, because the kernel makes the link-local address at that moment.
    set(name, "addr_gen_mode", "1")?;
    set(name, "accept_ra", "0")?;
    set(name, "router_solicitations", "0")?;
    set(name, "disable_ipv6", "0")
}

/// The inner end: no IPv6 at all.
pub(super) fn configure_inner(name: &str) -> Result<()> {
    set(name, "disable_ipv6", "1")
}

/// Writes only what differs, so that an adopted device needs no writable `/proc/sys`.
fn set(name: &str, key: &str, value: &'static str) -> Result<()> {
    let path = Path::new(IPV6).join("conf").join(name).join(key);
    let result = fs::read_to_string(&path).and_then(|present| {
        if present.trim_end() == value {
            return Ok(());
        }
        fs::write(&path, value)
    });
    result.map_err(|cause| Error::Sysctl { path, value, cause })
}
