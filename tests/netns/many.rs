//! A thousand clients and one server. The server is a real controller; the clients are real machines in one process, which
//! send real packets.

use anyhow::{Result, ensure};
use mtd_tests::runner::alone;
use mtd_tests::swarm::Scene;

const CLIENTS: usize = 1000;

/// All clients connect at once, from the DHT to the first ordinary packet, and no handshake fails.
#[test]
fn a_thousand_clients_open_sessions_with_one_server() -> Result<()> {
    alone("a thousand clients take both processors")?;
    mtd_tests::require_root();
    let mut scene = Scene::new(CLIENTS)?;
    println!(
        "published for {CLIENTS} clients in {:.1?}, fetched in {:.1?}",
        scene.publication, scene.fetching
    );
    let costs = scene.connect()?;
    println!(
        "{CLIENTS} sessions in {:.2?} (half of them in {:.2?}), {:.2?} of the server's processor time: {:.0} handshakes a \
         second and core; {:.0} bytes a session in the kernel's maps, {:.0} in the controller; {} late copies of answers",
        costs.wall,
        costs.median,
        costs.server,
        costs.per_second_core,
        costs.kernel_bytes_per_session,
        costs.controller_bytes_per_session,
        costs.strays
    );
    let status = scene.status()?;
    ensure!(status.clients_registered == Some(CLIENTS as u64), "registered: {:?}", status.clients_registered);
    println!("{:?}, dropped: {:?}", status.handshakes, status.drops);
    scene.stop()
}
