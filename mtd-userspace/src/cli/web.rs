//! `mtd web`: the link to the web view.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::output;
use crate::control;
use crate::instance::{Instance, RUN_DIR};
use crate::web::link;

/// Prints the links of this network namespace, one a line.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn run() -> anyhow::Result<()> {
    output::print(&links(Path::new(RUN_DIR))?)
}

fn links(run_dir: &Path) -> anyhow::Result<String> {
    let mut links = String::new();
    for interface in control::own_interfaces(run_dir, link::SUFFIX)? {
        let name = Instance::of(&interface)?.name().to_owned() + link::SUFFIX;
        let path = run_dir.join(name);
        let link = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}; run as root (sudo)", path.display()))?;
        links += &link;
    }
    if links.is_empty() {
        bail!("no web view is served; put [web] into the configuration and restart the controller");
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_links_are_printed_and_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(links(folder.path()).unwrap_err().to_string().contains("[web]"));
        for (interface, port) in [("eth1", 2), ("eth0", 1)] {
            let name = Instance::of(interface).unwrap().name().to_owned();
            fs::write(folder.path().join(name + link::SUFFIX), format!("http://[::1]:{port}/#00\n")).unwrap();
        }
        assert_eq!(links(folder.path()).unwrap(), "http://[::1]:1/#00\nhttp://[::1]:2/#00\n");
    }
}
