//! Tasks of the controller that fail: it is said wherever an operator looks, and neither the data plane nor other tasks notice.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{EventDocument, Task};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::metrics::{METRICS, body, curl};
use super::world::{Inner, Role, World};
use super::{PATIENCE, web};

/// The server's task of this name.
fn task(world: &World, name: &str) -> Result<Task> {
    let tasks = world.status(Role::Server)?.tasks;
    tasks.into_iter().find(|task| task.name == name).with_context(|| format!("no task {name}"))
}

/// Ends listening at an address of the server's, as an administrator can (`SOCK_DESTROY`).
fn destroy_listener(world: &World, address: &str) -> Result<()> {
    let port = address.parse::<SocketAddr>()?.port();
    let mut command = world.netns(Role::Server).command("ss")?;
    let output = command.args(["-K", "-H", "-n", "-l", "-t", &format!("sport = :{port}")]).output()?;
    ensure!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    Ok(())
}

/// The failures of tasks that the server tells of by events.
fn failures(world: &World) -> Result<Vec<String>> {
    let output = world.controller(Role::Server)?.command(world.netns(Role::Server), &["events", "--json"])?;
    let text = body(output)?;
    let events: Vec<EventDocument> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter_map(|event| event.task).map(|task| task.name).collect())
}

/// Whether the server answers at an address.
fn answers(world: &World, address: &str) -> Result<bool> {
    let to: SocketAddr = address.parse()?;
    let connect = || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
    world.netns(Role::Server).enter(connect)
}

#[test]
fn a_task_that_fails_is_told_everywhere_and_started_again_without_a_packet_lost() -> Result<()> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    world.setup_mut(Role::Server).extra =
        format!("[metrics]\nlisten = \"{METRICS}\"\n[web]\nlisten = \"{}\"\n", web::PLACE);
    world.start_all()?;
    world.wait_open()?;
    ensure!(world.status(Role::Server)?.warnings.iter().all(|warning| warning.code != "task_failed"));
    let load = world.load(Role::Client, Inner::V6)?;
    for (name, address) in [("web view", web::PLACE), ("metrics", METRICS)] {
        ensure!(answers(&world, address)?, "{name} does not listen");
        destroy_listener(&world, address)?;
        wait_until("the task to have failed and to be running again", PATIENCE, || {
            let task = task(&world, name)?;
            Ok(task.failures == 1 && task.running && answers(&world, address)?)
        })
        .with_context(|| world.explain())?;
        let why = task(&world, name)?.last_failure;
        ensure!(why.as_ref().is_some_and(|why| why.contains("has ended listening")), "{why:?}");
    }
    let warnings = world.status(Role::Server)?.warnings;
    let warned: Vec<_> = warnings.iter().filter(|warning| warning.code == "task_failed").collect();
    let text = body(curl(&world, &[&format!("http://{METRICS}/metrics")])?)?;
    for name in ["web view", "metrics"] {
        let named = format!("the task {name} of the controller has failed once");
        ensure!(warned.iter().any(|warning| warning.text.contains(&named)), "{warnings:?}");
        let sample = format!("mtd_task_failures_total{{task=\"{name}\"}} 1");
        ensure!(text.lines().any(|line| line == sample), "{text}");
        let line = format!("task {name}: ");
        ensure!(world.log(Role::Server)?.contains(&line), "{}", world.log(Role::Server)?);
    }
    ensure!(failures(&world)? == ["web view", "metrics"], "{:?}", failures(&world)?);
    let report = load.stop()?;
    println!("two tasks failed: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())
}
