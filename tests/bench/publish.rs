//! Rendezvous publication for many clients, by a real server in a private DHT of real nodes.

use std::time::Duration;

use anyhow::Result;
use mtd_tests::swarm::{Meeting, NODES, WINDOW};
use serde_json::{Map, Value};

use crate::measure::Section;

/// A case: the number of clients, the number of DHT nodes that have died (each costs every publication a time-out of 2 s),
/// and how long publishing may take.
struct Case {
    name: &'static str,
    clients: usize,
    gone: usize,
    timeout: Duration,
}

const CASES: [Case; 3] = [
    Case { name: "1k", clients: 1_000, gone: 0, timeout: Duration::from_mins(1) },
    Case {
        name: "1k_quarter_gone",
        clients: 1_000,
        gone: NODES as usize / 4,
        timeout: Duration::from_mins(2),
    },
    Case { name: "15k", clients: 15_000, gone: 0, timeout: Duration::from_mins(4) },
];

/// The section `publish` of the results: each case measured once, since it is already the mean of many publications.
///
/// A server that has just started publishes as fast as it can; later it spreads the work over a sixth of the window.
/// `seconds` is the time of the first publication, while nodes and server share the machine. `core_share` is the processor
/// time of the server's process for it, including the start, as a part of the window.
///
/// # Errors
/// When something cannot be set up, or publication is not complete in time.
pub(crate) fn run() -> Result<Section> {
    CASES.iter().map(|case| Ok((case.name, measure(case)?))).collect()
}

fn measure(case: &Case) -> Result<Map<String, Value>> {
    let clients = case.clients;
    let mut meeting = Meeting::new(clients)?;
    meeting.begin_window()?;
    meeting.lose_nodes(case.gone)?;
    let (mut server, publication) = meeting.publish(case.timeout)?;
    server.stop()?;
    let worked = publication.server.as_secs_f64();
    eprintln!("{}: published for {clients} clients in {:.1?}", case.name, publication.wall);
    let values = [
        ("seconds", publication.wall.as_secs_f64()),
        ("core_share", worked / WINDOW.as_secs_f64()),
        ("cpu_ms_per_client", 1e3 * worked / clients as f64),
        ("failed", publication.failed as f64),
    ];
    Ok(values.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect())
}
