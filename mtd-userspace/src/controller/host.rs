//! The controller's changes to the host (lock, tunnel device, pins), and how they are undone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use mtd_common::abi::MODE_INTRODUCTION;
use mtd_common::keystream::LANES;
use mtd_common::packet::OVERHEAD;
use mtd_common::session_note::ROLE_CLIENT;
use tracing::{info, warn};

use super::bypass::{choose_mark, remove_left_bypasses};
use super::lock::Lock;
use crate::config::Config;
use crate::control::own_interfaces;
use crate::dataplane::{
    self, Capacity, Plane, Settings, View, XdpMode, boot_time, remove_pins, steering_cpus,
};
use crate::device::{self, Bypass, Lack, TunnelDevice, TunnelInfo, Underlay, bpffs};
use crate::enforcement::{self, Note, unlink_note};
use crate::health;
use crate::instance::Instance;
use crate::model::{Enforcement, Guard, KeyStreamChoice, LinkMode, Policy, SteeringChoice};
use crate::proto::messages::Tunnel;
use crate::proto::session::nanoseconds;
use crate::proto::slots::most_loaded;
use crate::sessions::{Ground, first_prefixes, possible_mtu};
use crate::status::{self, SCHEMA, Status};

/// Folder beside the pins that marks a data plane of `mtd attach`, which outlives the controller.
const STAY_MARKER: &str = "stay";

/// Whether the data plane outlives the controller's clean stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// It is removed with the controller.
    No,
    /// `mtd attach` attached it, and it stays: the prefixes remain dark.
    Yes,
}

/// The host as the controller has prepared it.
pub struct Host {
    /// Names of this instance.
    pub instance: Instance,
    /// The underlay.
    pub underlay: Underlay,
    /// MTU of the tunnel device, in bytes.
    pub mtu: u32,
    /// Where state is stored.
    pub state: PathBuf,
    /// The mark of mtd's own packets; 0: they have none.
    pub mark: u32,
    /// The networks that it reaches by other ways than the tunnel; empty where there is no server to claim them.
    pub elsewhere: Arc<[IpNet]>,
    interface: String,
    device: String,
    pins: PathBuf,
    /// Whether the data plane was there before this controller.
    inherited: bool,
    /// How packets that are not valid are handled.
    guard: Guard,
    /// The note that it is not confirmed.
    pub(super) note: Note,
    _lock: Lock,
}

impl Host {
    /// Prepares the host and loads the data plane, from `object` if it is not the one that is built in; attaches nothing
    /// yet.
    ///
    /// # Errors
    /// When the underlay does not fit, the caller's own SSH connection would be cut, or the kernel
    /// refuses. Nothing is left behind then, except what an earlier controller had left.
    pub(super) async fn up(
        config: &Config,
        asked: &Enforcement,
        object: Option<&Path>,
        (instance, lock): (Instance, Lock),
    ) -> anyhow::Result<(Self, Plane, TunnelInfo)> {
        require_own_device(config)?;
        let underlay = Underlay::inspect(&config.interface).await?;
        device::require_no_port(&config.interface).await?;
        if !underlay.up {
            warn!("{} is down: nothing will come through until it is up", config.interface);
        }
        if device::ipv6_is_off(&config.interface) {
            warn!("{}", Lack::Disabled.of(&config.interface));
        }
        let elsewhere = if config.servers.is_empty() {
            Vec::new()
        } else {
            device::networks_elsewhere(&config.device).await?
        };
        let pins = instance.pins();
        let earlier = dataplane::view(&pins);
        let note = Note::of(&instance, &config.state_dir);
        let guard = asked.begin(
            config.policy,
            config.allow.clone(),
            earlier.as_ref().map(|view| &view.guard),
            note.is_there(),
            boot_time(),
        );
        let mut host = Self {
            mark: choose_mark(config, &underlay, earlier.as_ref()).await?,
            mtu: inner_mtu(config, underlay.mtu)?,
            inherited: pins.exists(),
            pins,
            state: instance.state(&config.state_dir),
            elsewhere: elsewhere.into(),
            interface: config.interface.clone(),
            device: config.device.clone(),
            underlay,
            instance,
            guard,
            note,
            _lock: lock,
        };
        if !earlier.is_some_and(|view| view.guard.enforces(boot_time()) && view.guard.confirm_until == 0) {
            let prefixes = first_prefixes(config, &host.underlay);
            asked.require_way_back(&host.guard, config.link, &prefixes)?;
        }
        match host.prepare(config, asked, object).await {
            Ok((plane, tunnel)) => Ok((host, plane, tunnel)),
            Err(error) => Err(host.give_up(error).await),
        }
    }

    /// Undoes a failed start. A data plane that was there before stays as it is, since it may carry traffic for as long as
    /// its slots last, and keeps the prefixes dark after that.
    pub async fn give_up(self, error: anyhow::Error) -> anyhow::Error {
        if self.inherited {
            if let Err(second) = dataplane::abandon(&self.pins) {
                warn!("cleaning up after a failed start: {second}");
            }
            return error.context(format!(
                "the start failed; what was attached to {0} before stays (`mtd detach {0}` takes it away)",
                self.interface
            ));
        }
        if let Err(second) = self.remove().await {
            warn!("cleaning up after a failed start: {second:#}");
        }
        error
    }

    async fn prepare(
        &mut self,
        config: &Config,
        asked: &Enforcement,
        object: Option<&Path>,
    ) -> anyhow::Result<(Plane, TunnelInfo)> {
        if bpffs::ensure_mounted(bpffs::DEFAULT_PATH)? {
            info!("mounted the BPF file system at {}", bpffs::DEFAULT_PATH);
        }
        let (mut plane, misfit) = match object {
            None => Plane::load_pinned(capacity(config), &self.pins)?,
            Some(path) => {
                let object = fs::read(path).with_context(|| path.display().to_string())?;
                Plane::load_pinned_object(&object, capacity(config), &self.pins)?
            }
        };
        let mut device = self.tunnel_device(config);
        for (local, remote) in left_tunnels(&plane)? {
            device.addresses.extend(local.iter().map(IpNet::from));
            device.routes.extend(remote.iter().map(IpNet::from));
        }
        let tunnel = device.create().await?;
        if let Some(why) = misfit {
            warn!("the attached data plane does not fit and is replaced; sessions start anew ({why})");
        } else if plane.adopted() {
            info!("taking over the data plane that is attached to {}", config.interface);
        }
        let is_pending = self.guard.confirm_until != 0;
        self.note.link()?;
        if is_pending && self.guard.policy == Policy::Dark {
            self.note.write()?;
        }
        // The time to confirm begins only here, since loading takes a while.
        if let Some(within) = asked.confirm_within.filter(|_| is_pending) {
            self.guard.confirm_until = boot_time().saturating_add(within.as_nanos() as u64);
        }
        plane.configure(&self.settings(config, &self.underlay, &tunnel))?;
        remove_left_bypasses(&self.instance).await?;
        if self.guard.policy == Policy::Dark && !is_pending {
            // It is confirmed, or decided.
            self.note.clear()?;
        }
        if config.steering == SteeringChoice::Auto {
            plane.steer(&steering_cpus())?;
        }
        Ok((plane, tunnel))
    }

    /// The tunnel device as configured; sessions with servers add to it.
    pub fn tunnel_device(&self, config: &Config) -> TunnelDevice {
        let networks = config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        let behind = config.servers.iter().flat_map(|server| server.allowed_ips.iter().copied());
        let pool = config.listen.iter().flat_map(|listen| listen.pool.networks());
        let connected: Vec<_> = config.addresses.iter().map(IpNet::trunc).collect();
        TunnelDevice {
            name: config.device.clone(),
            mtu: self.mtu,
            addresses: config.addresses.clone(),
            routes: networks.chain(behind).chain(pool.filter(|net| !connected.contains(net))).collect(),
            narrow: Vec::new(),
            bypass: (self.mark != 0).then(|| Bypass {
                number: self.mark,
                outer: config.outer_networks(&first_prefixes(config, &self.underlay)),
                kill_switch: config.kill_switch,
            }),
        }
    }

    /// What the sessions are built on.
    pub(super) fn ground<'a>(&'a self, tunnel: &'a TunnelInfo) -> Ground<'a> {
        let elsewhere = Arc::clone(&self.elsewhere);
        let (mtu, mark) = (self.mtu, self.mark);
        Ground { underlay: &self.underlay, tunnel, mtu, mark, state: &self.state, elsewhere }
    }

    /// The settings of the programs.
    pub fn settings(&self, config: &Config, underlay: &Underlay, tunnel: &TunnelInfo) -> Settings {
        Settings {
            tunnel_ifindex: tunnel.peer_ifindex,
            tunnel_mac: tunnel.mac,
            underlay_ifindex: underlay.ifindex,
            underlay_mac: underlay.mac,
            prefixes: first_prefixes(config, underlay),
            link: config.link,
            inner_mtu: self.mtu,
            fwmark: self.mark,
            guard: self.guard.clone(),
        }
    }

    /// Attaches the programs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&self, config: &Config, plane: &mut Plane) -> anyhow::Result<XdpMode> {
        let mode = plane.attach(&config.interface, &config.inside_device(), config.xdp, config.link);
        let mode = mode.map_err(|error| match self.underlay.xdp_program.filter(|_| !self.inherited) {
            Some(id) => anyhow::Error::new(error).context(format!(
                "{} runs {} already",
                config.interface,
                health::program_label(id)
            )),
            None => error.into(),
        })?;
        let prefixes: Vec<String> = config.prefixes.iter().map(ToString::to_string).collect();
        let what = if config.link == LinkMode::Shared {
            "its moving addresses are"
        } else {
            &format!("{} is", prefixes.join(", "))
        };
        info!("attached to {} ({} XDP)", config.interface, mode.name());
        enforcement::announce(&self.guard, &config.interface, what);
        Ok(mode)
    }

    /// Whether the data plane outlives this controller.
    pub fn stay(&self) -> Stay {
        if self.pins.join(STAY_MARKER).exists() { Stay::Yes } else { Stay::No }
    }

    /// Where programs and maps are pinned.
    pub const fn pins(&self) -> &PathBuf {
        &self.pins
    }

    /// Undoes [`Host::up`], unless the data plane is to stay.
    ///
    /// # Errors
    /// When something cannot be removed; the rest is removed all the same.
    pub async fn down(self) -> anyhow::Result<()> {
        if self.stay() == Stay::Yes {
            info!("{} stays attached; `mtd detach {0}` ends that", self.interface);
            return Ok(());
        }
        self.open().await
    }

    /// Undoes [`Host::up`], even if the data plane was to stay.
    ///
    /// # Errors
    /// As [`Host::down`].
    pub async fn open(self) -> anyhow::Result<()> {
        self.remove().await?;
        info!("detached from {}", self.interface);
        Ok(())
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let pins = remove_pins(&self.pins).context("removing the data plane");
        // Before the device, so that nothing is looked up in a table that is empty.
        let bypass = match self.mark {
            0 => Ok(false),
            mark => device::remove_bypass(mark).await.context("removing the routing rules"),
        };
        let device = device::remove(&self.device).await.context("removing the tunnel device");
        let note = unlink_note(&self.instance);
        pins.and(bypass).and(device).and(note)?;
        Ok(())
    }
}

/// `mtd attach`: makes the prefixes dark, without a controller. Returns whether somebody has to confirm it.
///
/// # Errors
/// As [`Host::up`].
pub async fn attach(config: &Config, asked: &Enforcement) -> anyhow::Result<bool> {
    let instance = Instance::of(&config.interface)?;
    let lock = Lock::take(&instance)?;
    let (host, mut plane, _) = Host::up(config, asked, None, (instance, lock)).await?;
    match host.attach(config, &mut plane) {
        Ok(_) => {
            let marker = host.pins.join(STAY_MARKER);
            fs::create_dir_all(&marker).with_context(|| marker.display().to_string())?;
            Ok(host.guard.confirm_until != 0)
        }
        Err(error) => Err(host.give_up(error).await),
    }
}

/// The state of an attached data plane while no controller runs. `None`: nothing is attached.
pub fn offline_status(instance: &Instance) -> Option<Status> {
    let pins = instance.pins();
    let (view, counts) = (dataplane::view(&pins)?, dataplane::counts(&pins)?);
    let guard = noted(instance, &view);
    Some(Status {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: None,
        uptime_seconds: 0.0,
        interface: view.underlay,
        device: view.device,
        xdp: dataplane::pinned_mode(&pins).map_or("none", XdpMode::name).to_owned(),
        link: view.link.to_string(),
        prefixes: view.prefixes.into_iter().map(Into::into).collect(),
        mtu: view.inner_mtu,
        pins,
        frames: counts.frames,
        drops: status::by_name(&counts.drops),
        would_drop: status::by_name(&counts.would_drop),
        guard: status::Guard::of(&guard, boot_time()),
        ..Status::default()
    })
}

/// Refuses a tunnel device that a running controller of another interface has: its programs would deliver into a device that
/// this one changes.
fn require_own_device(config: &Config) -> anyhow::Result<()> {
    // Names in bpffs have colons for dots.
    let others = own_interfaces(&Path::new(bpffs::DEFAULT_PATH).join("mtd"), "")?;
    for other in
        others.into_iter().map(|name| name.replace(':', ".")).filter(|name| *name != config.interface)
    {
        let instance = Instance::of(&other)?;
        let same = dataplane::view(&instance.pins()).is_some_and(|view| view.device == config.device);
        if same && let Err(holder) = Lock::try_take(&instance)? {
            bail!(
                "{} is the tunnel device of the controller for {other} ({holder}); give this one another name with device = \
                 \"...\"",
                config.device
            );
        }
    }
    Ok(())
}

/// The enforcement of an attached data plane, with what only the note says.
pub(super) fn noted(instance: &Instance, view: &View) -> Guard {
    let unconfirmed =
        view.guard.policy == Policy::Monitor && Note::linked(instance).is_some_and(|note| note.is_there());
    Guard { unconfirmed, ..view.guard.clone() }
}

/// Tunnel addresses of the sessions with servers that an earlier controller left, own and the server's: they must not
/// go away while the sessions live.
fn left_tunnels(plane: &Plane) -> anyhow::Result<Vec<(Tunnel, Tunnel)>> {
    let mut tunnels = Vec::new();
    if !plane.adopted() {
        return Ok(tunnels);
    }
    for index in 0..plane.capacity().sessions {
        let (element, note) = (plane.session(index)?, plane.session_note(index)?);
        let client = note.role == ROLE_CLIENT && element.mode != MODE_INTRODUCTION;
        if client && element.generation != 0 && element.generation == note.generation {
            let tunnel = (Tunnel::from_map(note.local_tunnel), Tunnel::from_map(note.remote_tunnel));
            if !tunnels.contains(&tunnel) {
                tunnels.push(tunnel);
            }
        }
    }
    Ok(tunnels)
}

/// The capacity that the maps must have.
fn capacity(config: &Config) -> Capacity {
    let horizon = nanoseconds(config.horizon);
    let periods = config.peers.iter().map(|peer| peer.period);
    let periods = periods.chain(config.listen.iter().map(|listen| listen.period));
    // The slot length of a server is not known in advance: assume the shortest.
    let periods = periods.chain((!config.servers.is_empty()).then_some(crate::config::PERIOD_RANGE.0));
    let shortest = periods.min().unwrap_or(crate::config::DEFAULT_PERIOD);
    let negotiates = config.listen.is_some() || !config.servers.is_empty();
    // Introductions, and sessions whose keys are being replaced.
    let spare = if negotiates { config.max_sessions / 8 + 16 } else { 0 };
    let sessions = config.max_sessions.saturating_add(spare);
    let lanes = if config.keystream == KeyStreamChoice::Auto { LANES } else { 0 };
    Capacity { sessions, slots: most_loaded(horizon, nanoseconds(shortest)), lanes }
}

/// The MTU of the tunnel device for an underlay's MTU, at the start.
fn inner_mtu(config: &Config, underlay: u32) -> anyhow::Result<u32> {
    let possible = possible_mtu(underlay);
    let smallest = u32::from(crate::config::MIN_INNER_MTU);
    if possible < smallest {
        bail!(
            "the MTU of {} is {underlay}: too small, mtd adds {OVERHEAD} bytes to packets of at least {smallest}; \
             raise it to {} or more",
            config.interface,
            smallest + OVERHEAD as u32
        );
    }
    match config.mtu.map(u32::from) {
        Some(wanted) if wanted > possible => {
            bail!(
                "mtu = {wanted} does not fit through {} (MTU {underlay}); set at most {possible}",
                config.interface
            )
        }
        Some(wanted) => Ok(wanted),
        None => Ok(possible),
    }
}
