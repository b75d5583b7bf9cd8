//! `[metrics]` in the configuration.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::model::Fault;
use crate::schema::{self, Facts, Key, Kind, Located, Part, Problems, Schema, Section};

/// Default address of the metrics. Many other exporters use ports around 9100; this one is well away from them.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 24_633);

/// `[metrics]`.
pub const METRICS: Schema = Schema {
    header: "[metrics]",
    path: "metrics.",
    help: "Metrics for Prometheus, over HTTP at /metrics. Without this section they are only at the control socket.",
    groups: &[&[Key::preset(
        "listen",
        Kind::Text("an address of this host with a port, not in a protected prefix"),
        r#""[::1]:24633""#,
        "Where metrics are served. Whoever reaches it can read them: there are no keys, names or addresses of clients in them, \
         but counts of everything.",
    )]],
};

/// The settings of `[metrics]`.
#[derive(Debug)]
pub struct Metrics {
    listen: Option<Located<SocketAddr>>,
}

impl Metrics {
    /// Reads `[metrics]`.
    pub fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self { listen: table.optional("listen", problems, address) }
    }

    /// The address where metrics are served.
    pub fn address(&self) -> SocketAddr {
        self.listen.as_ref().map_or(DEFAULT_METRICS, |listen| listen.value)
    }
}

impl Part for Metrics {
    /// Refuses an address in a protected prefix: nobody could read the metrics there, or strangers could, if the prefix is
    /// shared.
    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(Located { value: listen, at }) = &self.listen else { return };
        if let Some(prefix) = facts.prefix_around(listen.ip()) {
            let what = format!("{} lies in the protected prefix {prefix}", listen.ip());
            let remedy = "write an address that strangers do not reach, such as [::1]:24633";
            problems.add(*at, "metrics.listen", Fault::new(what, remedy));
        }
    }
}

/// A single address, so that nobody serves metrics to strangers unintentionally.
fn address(text: &str) -> Result<SocketAddr, Fault> {
    const EXAMPLE: &str = "[::1]:24633 or 127.0.0.1:24633";
    let address = schema::listen_address(text, EXAMPLE)?;
    if address.ip().is_unspecified() {
        let what = format!("{address} stands for every address of this host, those on the Internet included");
        return Err(Fault::new(what, format!("write one address, such as {EXAMPLE}")));
    }
    if !address.ip().is_loopback() {
        schema::check_unicast(address.ip(), EXAMPLE)?;
    }
    Ok(address)
}
