//! `mtd web`: the link to the web view.

use std::fs;
use std::path::Path;

use anyhow::bail;
use clap::Args;

use super::output;
use crate::control;
use crate::instance::{Instance, RUN_DIR, WEB_SUFFIX};
use crate::remedy::{Doing, clause};

/// Arguments of `mtd web`.
#[derive(Args, Debug)]
#[command(after_help = "From another machine: ssh -L 8674:[::1]:8674 HOST, and on HOST: sudo mtd web

Whoever has the token in the link can see the moving addresses. Each start after a clean stop makes a new one.")]
pub(super) struct WebArgs {
    /// Underlay interface [default: all in this network namespace]
    #[arg(short, long, value_name = "IFACE")]
    interface: Option<String>,
}

/// Prints the links to the web views of this network namespace, one a line.
///
/// # Errors
/// There is no link, or one cannot be read.
pub(super) fn run(args: &WebArgs) -> anyhow::Result<()> {
    output::print(&links(Path::new(RUN_DIR), args.interface.as_deref())?)
}

fn links(run_dir: &Path, wanted: Option<&str>) -> anyhow::Result<String> {
    let mut interfaces = control::own_interfaces(run_dir, WEB_SUFFIX)?;
    interfaces.retain(|interface| wanted.is_none_or(|wanted| wanted == interface));
    let mut links = String::new();
    for interface in interfaces {
        let name = Instance::of(&interface)?.name().to_owned() + WEB_SUFFIX;
        let path = run_dir.join(name);
        let link = fs::read_to_string(&path).map_err(|error| {
            let way = clause(Doing::File(""), &error);
            anyhow::anyhow!("cannot read {}: {error}{way}", path.display())
        })?;
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
        assert!(links(folder.path(), None).unwrap_err().to_string().contains("[web]"));
        for (interface, port) in [("eth1", 2), ("eth0", 1)] {
            let name = Instance::of(interface).unwrap().name().to_owned();
            fs::write(folder.path().join(name + WEB_SUFFIX), format!("http://[::1]:{port}/#00\n")).unwrap();
        }
        assert_eq!(links(folder.path(), Some("eth1")).unwrap(), "http://[::1]:2/#00\n");
        assert!(links(folder.path(), Some("eth2")).is_err());
        assert_eq!(links(folder.path(), None).unwrap(), "http://[::1]:1/#00\nhttp://[::1]:2/#00\n");
    }
}
