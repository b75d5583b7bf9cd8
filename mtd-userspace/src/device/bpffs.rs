//! The BPF file system, in which maps, programs and links outlive the controller.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::{Error, Result};

/// Where the BPF file system is mounted by convention.
pub const DEFAULT_PATH: &str = "/sys/fs/bpf";

/// Mounts the BPF file system at `path` unless it is there already; `true` if this call mounted it. `path` may lie
/// inside a mounted one.
///
/// Under `ip netns exec` the mount is private to that command's mount namespace and goes with its last process.
///
/// # Errors
/// [`Error::Bpffs`] when `path` is missing or the mount is refused.
pub fn ensure_mounted(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    let failed = |action| {
        move |errno: Errno| Error::Bpffs { action, path: path.to_owned(), cause: io::Error::from(errno) }
    };
    if statfs(path).map_err(failed("find"))?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(failed("mount"))?;
    Ok(true)
}
