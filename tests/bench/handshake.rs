//! Handshakes of many clients with one server, and the memory that their sessions need.

use anyhow::Result;
use mtd::config::{DEFAULT_HORIZON_OF_MANY, DEFAULT_PERIOD, MAX_SESSIONS};
use mtd::dataplane::{Capacity, Plane};
use mtd::proto::slots::most_loaded;
use mtd_tests::swarm::{Scene, map_bytes};
use serde_json::{Map, Value};

use crate::measure::Section;

pub(crate) const ABOUT: &str = "\
1,000 clients, simulated in one process but with real packets, connect to one real server at once; each then has a session
and exchanges a packet. Measured once. `per_second_core` is the number of handshakes per second of processor time of the
server's process, `per_second` per second of wall time, with the clients on the same CPUs. `kernel_bytes_per_session` is the
memory of all maps that grow with the number of sessions, divided by the number for which there is room, with the default
horizon of 20 slots (`max_sessions` up to 4,096). `kernel_bytes_of_many` is the same for a server with room for 1,000,000
sessions and their default horizon of 4 slots. `kernel_bytes_fixed` is the memory of the other maps.
`controller_bytes_per_session` is the growth of the server's own memory.";

const CLIENTS: usize = 1000;

/// Memory of the maps for each session, in bytes, if there is room for very many sessions.
fn kernel_bytes_of_many() -> Result<f64> {
    let horizon = DEFAULT_HORIZON_OF_MANY.as_nanos().try_into()?;
    let slots = most_loaded(horizon, DEFAULT_PERIOD.as_nanos().try_into()?);
    let plane = Plane::load(Capacity { sessions: MAX_SESSIONS, slots, lanes: 0 })?;
    let (bytes, _) = map_bytes(std::process::id())?;
    drop(plane);
    Ok(bytes)
}

/// The section `handshake` of the results: one case, measured once, since it is already the mean of many handshakes.
///
/// # Errors
/// When something cannot be set up, or one handshake fails.
pub(crate) fn run() -> Result<Section> {
    let mut scene = Scene::new(CLIENTS)?;
    eprintln!(
        "published for {CLIENTS} clients in {:.1?}, fetched in {:.1?}",
        scene.publication, scene.fetching
    );
    let costs = scene.connect()?;
    scene.stop()?;
    eprintln!("{CLIENTS} sessions open in {:.2?}", costs.wall);
    let values = [
        ("per_second_core", costs.per_second_core),
        ("per_second", CLIENTS as f64 / costs.wall.as_secs_f64()),
        ("kernel_bytes_per_session", costs.kernel_bytes_per_session),
        ("kernel_bytes_of_many", kernel_bytes_of_many()?),
        ("kernel_bytes_fixed", costs.kernel_bytes_fixed as f64),
        ("controller_bytes_per_session", costs.controller_bytes_per_session),
    ];
    let values: Map<String, Value> =
        values.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
    Ok(vec![("clients_1000", values)])
}
