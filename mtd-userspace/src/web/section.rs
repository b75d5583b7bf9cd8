//! `[web]` in the configuration.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::model::Fault;
use crate::schema::{self, Key, Kind, Problems, Schema, Section, value};

/// Default address of the web view.
pub const DEFAULT_WEB: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 8674);

/// `[web]`.
pub const WEB: Schema = Schema {
    header: "[web]",
    path: "web.",
    help: "A page that shows what `mtd status` does, live (docs/web.md). Without this section there is none. `mtd web` prints the \
           link to it.",
    groups: &[&[Key::preset(
        "listen",
        Kind::Text("a loopback address with a port"),
        r#""[::1]:8674""#,
        "Where the page is served. From elsewhere: ssh -L 8674:[::1]:8674 HOST.",
    )
    .from_requirement("MT-48")]],
};

/// Reads `[web]`: where the web view is served.
pub fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> SocketAddr {
    value(table.optional("listen", problems, address)).unwrap_or(DEFAULT_WEB)
}

/// Accepts only a loopback address, since the web view shows the moving addresses.
fn address(text: &str) -> Result<SocketAddr, Fault> {
    const EXAMPLE: &str = "[::1]:8674";
    let address = schema::listen_address(text, EXAMPLE)?;
    if !address.ip().is_loopback() {
        let what =
            format!("{} is no loopback address, and the web view shows moving addresses", address.ip());
        let remedy = format!(
            "write {EXAMPLE}, and from elsewhere come with ssh -L {port}:[::1]:{port} HOST",
            port = address.port()
        );
        return Err(Fault::new(what, remedy));
    }
    Ok(address)
}
