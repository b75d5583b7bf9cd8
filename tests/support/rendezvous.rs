//! Hosts that know only each other's public keys: their identities, and the configurations of a server with registered
//! clients and of the clients.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mtd::keys::{PublicKey, SecretKey};
use tempfile::TempDir;

use crate::controller::Controller;
use crate::dht::PrivateDht;
use crate::link::{Via, default_route_v4};
use crate::names::Resolver;
use crate::netns::Netns;
use crate::topology::{Delivery, Host, Topology};

/// The server's address in the tunnel.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x6d74, 0, 0, 0, 0, 0, 1);

/// The server's IPv4 address in the tunnel.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

/// First address of the nodes of the DHT.
const NODES: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 1);

/// Gives the hosts of a network IPv4 addresses, and a DHT of `nodes` nodes on the router.
///
/// # Errors
/// When an address cannot be set, or the DHT does not start.
pub fn dht(topology: &Topology, nodes: u32) -> Result<PrivateDht> {
    for (link, host) in (1..).zip(topology.hosts()) {
        let net = |last| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(198, 18, link, last), 24));
        topology.router.add_address(&host.gateway_ifname, net(1))?;
        host.netns.add_address(&host.ifname, net(2))?;
        host.netns.add_route(default_route_v4(), Via::Gateway(net(1).addr()))?;
    }
    PrivateDht::in_namespace(&topology.router, NODES, nodes)
}

/// The role of a host.
#[derive(Clone, Debug)]
pub enum Part {
    /// A server with registered clients.
    Server,
    /// A client of the server with this public key.
    Client(PublicKey),
}

/// The configuration of one host, and the folder that contains it. Change the fields, then call [`Member::start`].
#[derive(Debug)]
pub struct Member {
    /// The host's own key.
    pub identity: SecretKey,
    /// Server or client.
    pub part: Part,
    /// Length of a window.
    pub window: String,
    /// Nodes of the DHT.
    pub bootstrap: Vec<String>,
    /// Whether the protected prefix is that of the link, which contains the host's ordinary address and may change, instead
    /// of a prefix that is routed to the host.
    pub shared_prefix: bool,
    /// Top-level keys, with their values in TOML.
    pub top: BTreeMap<&'static str, String>,
    /// Clients that the configuration of a server registers.
    pub clients: Vec<(String, PublicKey)>,
    /// Keys of each `[[client]]`, with their values in TOML.
    pub client_keys: BTreeMap<&'static str, String>,
    /// Keys of `[listen]` or `[[server]]`, with their values in TOML.
    pub keys: BTreeMap<&'static str, String>,
    /// The name server that the controller asks; `None`: that of the machine.
    pub resolver: Option<Resolver>,
    /// The program and arguments by which the controller is started, as [`Controller::spawn_through`] has it.
    pub through: Vec<OsString>,
    interface: String,
    prefix: Ipv6Net,
    delivery: Delivery,
    folder: TempDir,
}

impl Member {
    /// A host with a new key.
    ///
    /// # Errors
    /// When no folder can be made, or the kernel has no random numbers.
    pub fn new(host: &Host, delivery: Delivery, part: Part, bootstrap: Vec<String>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mtdt-").tempdir()?;
        // Without the folder, the controller would report it as missing.
        fs::create_dir(folder.path().join("clients"))?;
        fs::write(folder.path().join("clock"), "0")?;
        Ok(Self {
            identity: SecretKey::generate()?,
            part,
            window: "15m".to_owned(),
            bootstrap,
            shared_prefix: false,
            top: BTreeMap::new(),
            clients: Vec::new(),
            client_keys: BTreeMap::new(),
            keys: BTreeMap::new(),
            resolver: None,
            through: Vec::new(),
            interface: host.ifname.clone(),
            prefix: host.prefix,
            delivery,
            folder,
        })
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.identity.public()
    }

    /// The folder with configuration, keys and state.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file that registers a client of this server.
    pub fn client_file(&self, name: &str) -> PathBuf {
        self.folder().join("clients").join(format!("{name}.pub"))
    }

    /// Registers a client by a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn register(&self, name: &str, client: &PublicKey) -> Result<()> {
        Ok(fs::write(self.client_file(name), format!("{client}\n"))?)
    }

    /// Shifts the wall clock that the controller reads, from now on, by `offset` ns; may be called while it runs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_clock(&self, offset: i64) -> Result<()> {
        self.set_clocks(offset, 0)
    }

    /// The same, and lets the host count as having slept for `slept` ns in all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_clocks(&self, offset: i64, slept: i64) -> Result<()> {
        // Replaced as a whole, since the controller may read the file at any time.
        let draft = self.folder().join("clock.new");
        fs::write(&draft, format!("{offset} {slept}"))?;
        Ok(fs::rename(draft, self.folder().join("clock"))?)
    }

    /// Tells the controller that its machine is another copy from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn copy_machine(&self, generation: u32) -> Result<()> {
        Ok(fs::write(self.generation_file(), generation.to_string())?)
    }

    fn generation_file(&self) -> PathBuf {
        self.folder().join("generation")
    }

    /// Writes configuration and key, and returns the path of the former.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let key = self.folder().join("private.key");
        fs::write(&key, format!("{}\n", self.identity.to_base64().as_str()))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let (prefix, link) = match self.delivery {
            _ if self.shared_prefix => ("interface".to_owned(), "shared"),
            Delivery::Routed => (self.prefix.to_string(), "routed"),
            Delivery::OnLink => (self.prefix.to_string(), "on-link"),
        };
        let mut text = format!(
            "interface = {:?}\nprefix = \"{prefix}\"\nlink = \"{link}\"\nstate_dir = \"{}\"\n\
             private_key_file = \"private.key\"\n",
            self.interface,
            self.folder().join("state").display(),
        );
        if matches!(self.part, Part::Server) {
            writeln!(text, "address = [\"{SERVER_V6}/64\", \"{SERVER_V4}/16\"]")?;
        }
        let lines = |keys: &BTreeMap<&str, String>| {
            keys.iter().fold(String::new(), |text, (key, value)| text + key + " = " + value + "\n")
        };
        text.push_str(&lines(&self.top));
        writeln!(text, "[rendezvous]\nwindow = {:?}\nbootstrap = {:?}", self.window, self.bootstrap)?;
        match &self.part {
            Part::Server => text.push_str("[listen]\nclients_dir = \"clients\"\n"),
            Part::Client(server) => writeln!(text, "[[server]]\nname = \"home\"\npublic_key = \"{server}\"")?,
        }
        text.push_str(&lines(&self.keys));
        for (name, key) in &self.clients {
            writeln!(text, "[[client]]\nname = \"{name}\"\npublic_key = \"{key}\"")?;
            text.push_str(&lines(&self.client_keys));
        }
        let path = self.folder().join("mtd.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts a controller and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; carries the end of its log.
    pub fn start(&self, netns: &Netns) -> Result<Controller> {
        let clock = self.folder().join("clock");
        let generation = self.generation_file();
        let arguments = [
            "--wall-clock-offset-file".as_ref(),
            clock.as_os_str(),
            "--vm-generation-file".as_ref(),
            generation.as_os_str(),
        ];
        let mut controller = Controller::spawn_through(
            netns,
            &self.through,
            self.resolver.as_ref(),
            &self.interface,
            &self.write()?,
            &arguments,
        )?;
        controller.wait_ready()?;
        Ok(controller)
    }
}
