//! The DNS servers that are reached through the tunnel, in the configuration.

use std::net::IpAddr;

use crate::model::{Fault, shown};
use crate::schema::{self, Facts, Key, Kind, Located, Part, Problems, Section, each_once, unlocated};

/// An example in messages.
const EXAMPLE: &str = "fd00:6d74::1 or 10.66.0.1";

/// The top-level keys about name resolution.
pub const KEYS: &[Key] = &[Key::preset(
    "dns",
    Kind::List("an IP address"),
    r#"["fd00:6d74::1", "10.66.0.1"]"#,
    "DNS servers to ask for all names while the tunnel to them stands. Told to systemd-resolved (`resolvectl`), for the tunnel \
     device, and taken back at the end. Without systemd-resolved, `mtd status` warns, and names are resolved as before.",
)
.otherwise("none")];

/// The settings in the file.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<Located<IpAddr>>,
}

impl Resolver {
    /// Reads the root.
    pub fn read(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self { servers: root.optional_list("dns", problems, server) }
    }

    /// The DNS servers.
    pub fn servers(&self) -> Vec<IpAddr> {
        self.servers.iter().cloned().map(unlocated).collect()
    }
}

impl Part for Resolver {
    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        each_once(self.servers.iter().map(|server| ("dns", server)), problems, |address, line| {
            Fault::new(format!("{address} is in line {line} already"), "keep one of them")
        });
        for Located { value, at } in &self.servers {
            if let Some(prefix) = facts.prefix_around(*value) {
                let what = format!("{value} lies in the protected prefix {prefix}");
                problems.add(
                    *at,
                    "dns",
                    Fault::new(what, "write an address behind the other end of the tunnel"),
                );
            }
        }
    }
}

fn server(text: &str) -> Result<IpAddr, Fault> {
    let fault = || {
        let what = format!("\"{}\" is no IP address", shown(text));
        Fault::new(what, format!("write {EXAMPLE}, without a port"))
    };
    let address: IpAddr = text.parse().map_err(|_| fault())?;
    schema::check_unicast(address, EXAMPLE)?;
    Ok(address)
}
