//! An operator at the scanner's place, connected to an ordinary service in the protected prefix.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv6Net};
use mtd::status::Status;
use mtd_tests::controller::answered;
use mtd_tests::netns::Netns;

use crate::lifecycle::bench::Bench;

/// Port of the service.
pub(crate) const SSH: u16 = 22;

/// If nothing comes for this long, everything is dropped. TCP retransmits after 0.2, 0.4, 0.8 … seconds.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a connection that must succeed may take. TCP retransmits a lost SYN after a second, and then after two more.
const LOGIN: Duration = Duration::from_secs(5);

/// A host with a service on an address of its protected prefix.
pub(crate) struct Site {
    pub(crate) bench: Bench,
    pub(crate) host: Ipv6Addr,
}

impl Site {
    /// A network with a service on [`SSH`] and the port after it.
    pub(crate) fn new() -> Result<Self> {
        let bench = Bench::new()?;
        let host = Ipv6Addr::from(u128::from(bench.topology.server.prefix.network()) | 1);
        bench.netns().add_address("lo", IpNet::V6(Ipv6Net::new_assert(host, 128)))?;
        for port in [SSH, SSH + 1] {
            let listener =
                bench.netns().enter(|| TcpListener::bind(SocketAddr::new(host.into(), port)))??;
            thread::spawn(move || serve(&listener));
        }
        Ok(Self { bench, host })
    }

    pub(crate) fn operator(&self) -> &Netns {
        &self.bench.topology.scanner.netns
    }

    /// The operator's address.
    pub(crate) fn desk(&self) -> Ipv6Addr {
        self.bench.topology.scanner.address
    }

    /// Connects to the service, if that can be done in a second.
    pub(crate) fn connect(&self, from: &Netns, port: u16) -> Result<Option<Login>> {
        self.connect_within(from, port, SILENCE)
    }

    fn connect_within(&self, from: &Netns, port: u16, time: Duration) -> Result<Option<Login>> {
        let to = SocketAddr::new(IpAddr::V6(self.host), port);
        match from.enter(|| TcpStream::connect_timeout(&to, time))? {
            Ok(stream) => Ok(Some(Login { stream, sent: 0 })),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(error) => Err(error).context("an answer, and not the one of the service"),
        }
    }

    /// A connection of the operator.
    pub(crate) fn login(&self) -> Result<Login> {
        let login = self.connect_within(self.operator(), SSH, LOGIN)?;
        login.context("the operator does not get in")
    }

    /// Whether the operator gets in.
    pub(crate) fn is_open(&self) -> Result<bool> {
        Ok(self.connect(self.operator(), SSH)?.is_some())
    }

    /// The status of the only interface, as `mtd status --json` prints it.
    pub(crate) fn status(&self) -> Result<Status> {
        let output = self.bench.mtd(&["status", "--json"])?;
        assert!(answered(&output), "{output:?}");
        let mut document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(serde_json::from_value(document["instances"].get_mut(0).context("no instance")?.take())?)
    }

    /// The output of an `mtd` command.
    pub(crate) fn says(&self, arguments: &[&str]) -> Result<String> {
        let output = self.bench.mtd(arguments)?;
        assert!(answered(&output), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The process that detaches the interface if nobody confirms.
    pub(crate) fn guard_process(&self) -> Result<Option<i32>> {
        let wanted = ["mtd", "guard", self.bench.ifname(), ""].join("\0");
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may have ended meanwhile.
            if fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// A TCP connection to the service, which echoes everything.
pub(crate) struct Login {
    stream: TcpStream,
    /// The bytes that were sent and have not come back yet.
    sent: u8,
}

impl Login {
    /// Types something. Returns whether everything typed so far has come back in time.
    pub(crate) fn types(&mut self, patience: Duration) -> Result<bool> {
        self.stream.write_all(b"x")?;
        self.sent += 1;
        self.stream.set_read_timeout(Some(patience))?;
        while self.sent > 0 {
            match self.stream.read(&mut [0]) {
                Ok(1) => self.sent -= 1,
                Ok(_) => anyhow::bail!("the service hung up"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Types something, and returns whether nothing comes back, as on a connection that is cut.
    pub(crate) fn is_stuck(&mut self) -> Result<bool> {
        Ok(!self.types(SILENCE)?)
    }
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
        });
    }
}
