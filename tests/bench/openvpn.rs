//! `openvpn` between the two hosts of a cable: TLS, then AES-256-GCM, in user space.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::link::interface_name;
use mtd_tests::process::Running;
use mtd_tests::topology::Host;
use tempfile::TempDir;

use crate::ways::{Processes, Way, cable};

const PORT: &str = "1194";
const CIPHER: &str = "AES-256-GCM";
/// The MTU inside the tunnel, if that outside over IPv6 is 1500.
const MTU: &str = "1428";
const PATIENCE: Duration = Duration::from_secs(20);

/// The way through `openvpn`, from the package of that name in Debian.
///
/// # Errors
/// When the tunnel does not come up, for example because a program is not installed or cannot run here.
pub(crate) fn way() -> Result<Way> {
    let (left, right) = cable("ovpn")?;
    let folder = tempfile::Builder::new().prefix("mtdt-").tempdir()?;
    let [server, client] = [End::new(&folder, "server", 1)?, End::new(&folder, "client", 2)?];
    let processes = [
        start(&left, &right, &server, &client, "--tls-server")?,
        start(&right, &left, &client, &server, "--tls-client")?,
    ];
    left.netns.wait_reachable(IpAddr::V6(client.address), PATIENCE).with_context(|| processes[0].log())?;
    Ok(Way::through(client.address, (left, right), Processes { _running: processes, _folders: vec![folder] }))
}

/// One end: its key, a self-signed certificate, and its address inside the tunnel.
struct End {
    key: PathBuf,
    certificate: PathBuf,
    fingerprint: String,
    address: Ipv6Addr,
}

impl End {
    fn new(folder: &TempDir, name: &str, number: u16) -> Result<Self> {
        let [key, certificate] = ["key", "crt"].map(|kind| folder.path().join(format!("{name}.{kind}")));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let mut made = Command::new("openssl");
        made.args(["req", "-x509", "-subj", &format!("/CN={name}")]).args(curve);
        openssl(made.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        let mut shown = Command::new("openssl");
        let text =
            openssl(shown.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate))?;
        let fingerprint = text.trim().split_once('=').context("openssl prints no fingerprint")?.1.to_owned();
        let address = Ipv6Addr::new(0xfd00, 0x6f76, 0, 0, 0, 0, 0, number);
        Ok(Self { key, certificate, fingerprint, address })
    }
}

/// Runs a command of openssl. Returns its output.
fn openssl(command: &mut Command) -> Result<String> {
    let output =
        command.output().context("could not start openssl: `cargo xtask setup --bench` installs it")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn start(host: &Host, other: &Host, own: &End, peer: &End, role: &str) -> Result<Running> {
    let mut command = host.netns.command("openvpn")?;
    command.args(["--dev", &interface_name("ov")?, "--dev-type", "tun", "--tun-mtu", MTU, "--disable-dco"]);
    command.args(["--proto", "udp6", "--port", PORT, "--local", &host.address.to_string()]);
    command.args(["--remote", &other.address.to_string(), role, "--dh", "none"]);
    command.arg("--key").arg(&own.key).arg("--cert").arg(&own.certificate);
    command.args(["--peer-fingerprint", &peer.fingerprint, "--data-ciphers", CIPHER, "--cipher", CIPHER]);
    command.args(["--ifconfig-ipv6", &format!("{}/64", own.address), &peer.address.to_string()]);
    Running::spawn("openvpn", command).context("`cargo xtask setup --bench` installs openvpn")
}
