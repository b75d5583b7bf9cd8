//! All sessions, whatever their origin.
//!
//! [`Table`] holds the installed sessions: keys, ends, clocks, slots, routes. The origins (`origin.rs`) decide which
//! sessions there are: the peers of the configuration, this host's server, this host as a client. [`Sessions`] joins the
//! two: at each tick and for each event, it informs the origins, then carries out their requests on the table, on the wire,
//! in the state file or elsewhere. The holder of the lock neither waits nor touches a file: a session that must rest is
//! looked at again at a later tick, and the state file has a thread of its own.

mod act;
mod build;
mod clock;
mod configured;
mod effect;
mod hints;
mod installed;
mod maps;
mod numbers;
mod observe;
mod observer;
mod origin;
mod own_addresses;
mod path;
mod paths;
mod place;
mod probers;
mod reach;
mod report;
mod requests;
pub mod section;
mod sleep;
mod slots;
mod stop;
mod store;
mod summary;
mod surroundings;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tracing::warn;

pub(crate) use self::build::{Ground, build};
pub use self::clock::{Clock, SystemClock};
pub(crate) use self::effect::Effect;
pub use self::effect::{Consequences, RegisteredClient};
pub use self::installed::{Inner, Key, NewSession, Peer};
pub use self::maps::Maps;
use self::observer::Observer;
pub use self::origin::OriginId;
use self::origin::{Origin as _, Origins};
pub use self::own_addresses::OwnAddress;
use self::paths::Paths;
use self::place::Place;
use self::probers::Probers;
use self::sleep::Sleep;
pub(crate) use self::stop::stop;
use self::store::{Store, Unsaved};
pub(crate) use self::surroundings::{first_prefixes, possible_mtu};
pub use self::table::{Destination, Exported, Table};
use self::wire::Wire;
use crate::config::Config;
use crate::dataplane::{self, Plane, XdpMode};
use crate::device::Lack;
use crate::keys::PublicKey;
use crate::model::{BootNs, Reading, Totals};
use crate::proto::exchange::Random;
use crate::proto::session::nanoseconds;
use crate::state::{Marks, State, StateError};

/// Sessions, clocks and data plane of a running controller.
pub struct Sessions<M = Plane> {
    config: Config,
    /// The settings that the programs were given.
    told: dataplane::Settings,
    clock: Box<dyn Clock>,
    sleep: Sleep,
    table: Table<M>,
    origins: Origins,
    wire: Box<dyn Wire>,
    effects: mpsc::UnboundedSender<Effect>,
    /// `None`: this controller stops.
    store: Option<Store>,
    unsaved: Unsaved,
    started: BootNs,
    /// Which prefix of the interface is used, where they are followed.
    place: Place,
    /// Why the interface has none.
    lack: Option<Lack>,
    mode: Option<XdpMode>,
    pins: PathBuf,
    /// What is known of the outer paths.
    paths: Paths,
    probers: Probers,
    random: Random,
    observer: Observer,
    /// The MTU of the tunnel device, or routes into it, have to be set again.
    device_due: bool,
    /// The share of the sessions that are not watched closely which is checked in this tick.
    turn: u32,
    /// When slots were last loaded and unloaded.
    refreshed: Option<BootNs>,
    /// The traffic of the sessions that an earlier controller left, up to then.
    traffic_before: Totals,
}

/// The state machines of this host, and their connections to it.
pub(crate) struct Machines {
    origins: Origins,
    wire: Box<dyn Wire>,
    effects: mpsc::UnboundedSender<Effect>,
    /// Names of servers and clients.
    names: HashMap<PublicKey, String>,
}

/// Paths in the file system.
pub(crate) struct Files {
    /// The state file.
    pub(crate) state: PathBuf,
    /// The folder of the pinned maps.
    pub(crate) pins: PathBuf,
}

impl<M: Maps> Sessions<M> {
    /// Begins the sessions of all configured peers: those that an earlier controller left in the maps go on, the others
    /// start anew.
    ///
    /// # Errors
    /// When the state file or the maps fail.
    pub(crate) fn start(
        config: Config,
        clock: Box<dyn Clock>,
        files: Files,
        plane: (M, dataplane::Settings),
        machines: Machines,
    ) -> anyhow::Result<Self> {
        let Files { state: path, pins } = files;
        let state = State::read(&path)?.unwrap_or_else(|why| {
            warn!("{} cannot be used ({why}): sessions start with slots yet to come", path.display());
            all_lost(&machines.origins)
        });
        let write = move |state: &State| state.write(&path);
        Self::begin(config, clock, pins, plane, machines, (state, write))
    }

    /// The same with the content of the state file, and the function that writes it.
    fn begin(
        config: Config,
        clock: Box<dyn Clock>,
        pins: PathBuf,
        (maps, told): (M, dataplane::Settings),
        machines: Machines,
        (mut state, mut write): (State, impl FnMut(&State) -> Result<(), StateError> + Send + 'static),
    ) -> anyhow::Result<Self> {
        let Machines { mut origins, wire, effects, names } = machines;
        require_different(&origins)?;
        let now = clock.read();
        origins.configured.remember(|fingerprint| state.past(fingerprint), clock.boot_id());
        let mut table = Table::new(maps, nanoseconds(config.horizon));
        if adopt(&mut table, &mut origins, now)? {
            // Sessions without an origin are removed first, to make room. Waiting blocks nobody, since nobody else has this
            // table yet.
            std::thread::sleep(stop::REST);
            table.wipe(clock.read().boot)?;
        }
        origins.configured.begin(now);
        let wanted = origins.configured.wanted(now);
        for (fingerprint, marks) in &wanted {
            state.begin(fingerprint.clone(), marks.clone());
        }
        // Before the first slot is live, so that a crash from now on is recognised as one.
        let unsaved = match write(&state) {
            Ok(()) => {
                origins.configured.handle_reserved(&wanted, true);
                None
            }
            Err(error) if error.is_of_the_disk() => {
                hold(&mut origins);
                Some(error)
            }
            Err(error) => return Err(error.into()),
        };
        let mut sessions = Self {
            place: Place::at(told.prefixes.first().copied()),
            lack: None,
            told,
            table,
            origins,
            wire,
            effects,
            store: Some(Store::spawn(state, write)?),
            unsaved: Unsaved::new(unsaved, now.boot),
            started: now.boot,
            mode: None,
            pins,
            paths: Paths::new(nanoseconds(config.mtu_expires)),
            probers: Probers::default(),
            random: build::random(),
            observer: Observer::new(names),
            device_due: false,
            turn: 0,
            refreshed: None,
            traffic_before: Totals::default(),
            config,
            clock,
            sleep: Sleep::default(),
        };
        sessions.table.replace_routes()?;
        sessions.install_configured(now)?;
        let mut failure = None;
        sessions.table.load_all(now, |_, error| failure = Some(error));
        failure.map_or(Ok(()), Err)?;
        sessions.traffic_before = sessions.table.totals();
        sessions.set_carriers(now);
        Ok(sessions)
    }
}

/// Keeps configured sessions from beginning, since nothing can be noted of them.
fn hold(origins: &mut Origins) {
    let held = origins.configured.hold();
    if !held.is_empty() {
        warn!("dark until the state file can be written: {}", held.join(", "));
    }
}

/// Goes on with the sessions of an earlier controller that an origin recognises, and ends the others. Returns whether there
/// were others.
fn adopt<M: Maps>(table: &mut Table<M>, origins: &mut Origins, now: Reading) -> anyhow::Result<bool> {
    let mut others = false;
    let left = table.left()?;
    for left in &left {
        let mut adopted = None;
        origins.each(|id, origin| {
            if adopted.is_none() {
                adopted = origin.adopt(left, now).map(|adoption| (id, adoption));
            }
        });
        if let Some((origin, adoption)) = adopted {
            table.adopt(origin, left, adoption)?;
        } else {
            table.reject(left, now)?;
            others = true;
        }
    }
    table.drop_strangers(now);
    Ok(others)
}

/// The state of a session of which nothing is known except that it ran.
fn all_lost(origins: &Origins) -> State {
    let mut state = State::default();
    origins
        .configured
        .peers()
        .for_each(|(_, peer)| state.begin(peer.session.fingerprint(), Marks::default()));
    state
}

/// Two peers with the same keys would use the same sequence numbers twice.
fn require_different(origins: &Origins) -> anyhow::Result<()> {
    let mut names = HashMap::new();
    for (_, peer) in origins.configured.peers() {
        let name = &peer.config.name;
        if let Some(other) = names.insert(peer.session.fingerprint(), name) {
            anyhow::bail!(
                "peers {other} and {name} have the same key and seeds; make a key for each with mtd genpsk"
            );
        }
    }
    Ok(())
}

/// A generation that no earlier session had, except with a probability of one in 2^32; never 0.
fn generation() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness from the kernel: {e}"))?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
