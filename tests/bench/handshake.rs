//! Handshakes of many clients with one server, and the memory that their sessions take.

use anyhow::Result;
use mtd_tests::swarm::Scene;
use serde_json::{Map, Value};

use crate::measure::Section;

const CLIENTS: usize = 1000;

/// The section `handshake` of the results: one case, measured once. It is the mean over so many handshakes already.
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
        ("controller_bytes_per_session", costs.controller_bytes_per_session),
    ];
    let values: Map<String, Value> =
        values.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
    Ok(vec![("clients_1000", values)])
}
