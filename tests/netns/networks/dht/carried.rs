//! Introductions in files, for a client whose network lets nothing of the DHT through.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{IntroductionFile, Network};
use mtd_tests::firewall::{drop_udp_v4, pass_udp_v4};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::{PATIENCE, rendezvous, require_shown, wait_network, wait_warning};
use crate::rendezvous::world::{Who, World, quoted};

/// A world whose first client reaches no DHT, and looks at a file for introductions; the server runs.
fn behind_a_block(options: &TopologyOptions) -> Result<World> {
    let mut world = World::new(options)?;
    world.setup_mut(Who::Server).keys.insert("introductions_dir", quoted("out"));
    world.setup_mut(Who::Alice).keys.insert("introduction_file", quoted("home.introduction"));
    drop_udp_v4(&world.topology().router, Some(&world.host(Who::Alice).gateway_ifname))?;
    world.start(Who::Server)?;
    Ok(world)
}

/// Brings a file to the client, as whoever carries it should: whole or not at all.
fn bring(world: &World, content: impl AsRef<[u8]>) -> Result<()> {
    let folder = world.setup(Who::Alice).folder();
    fs::write(folder.join("draft"), content)?;
    Ok(fs::rename(folder.join("draft"), folder.join("home.introduction"))?)
}

/// What the client says of its file.
fn file(world: &World) -> Result<IntroductionFile> {
    let files = rendezvous(world, Who::Alice)?.files;
    files.into_iter().next().context("the client says nothing of its file")
}

/// Waits until the client says why its file is of no use.
fn wait_problem(world: &World, part: &str) -> Result<()> {
    wait_until("the client to say what is wrong with the file", PATIENCE, || {
        Ok(file(world)?.problem.is_some_and(|problem| problem.contains(part)))
    })
    .with_context(|| format!("{part}: {}", world.explain()))?;
    let warning = wait_warning(world, Who::Alice, "introduction_file")?;
    ensure!(warning.text.contains("home.introduction") && warning.text.contains(part), "{warning:?}");
    Ok(())
}

/// The file that the server keeps for the first client, when it is there.
fn offered(world: &World) -> Result<PathBuf> {
    let path = world.setup(Who::Server).folder().join("out/alice.introduction");
    wait_until("the server to keep a file", PATIENCE, || Ok(path.exists()))
        .with_context(|| world.explain())?;
    Ok(path)
}

#[test]
fn an_introduction_that_was_carried_leads_to_the_session_without_the_dht() -> Result<()> {
    let mut world = behind_a_block(&TopologyOptions::default())?;
    world.start(Who::Alice)?;
    wait_network(&world, Who::Alice, Network::Unreachable)?;
    wait_problem(&world, "cannot be read")?;
    require_shown(&world, Who::Alice, &["introduction_file of home", "No such file"])?;

    let printed = world.mtd(Who::Server, &["introduction", "alice"])?;
    ensure!(printed.starts_with("# good until 2"), "{printed}");
    bring(&world, &printed)?;
    let since = Instant::now();
    world.wait_open(Who::Alice)?;
    println!("open {:.1?} after the file is there", since.elapsed());
    let found = file(&world)?;
    // Windows of 15 min, a day ahead.
    let ahead = found.good_until.context("no end")? - world.now()? as f64 / 1e9;
    ensure!(found.problem.is_none() && (85_500.0..88_300.0).contains(&ahead), "{found:?}");
    ensure!(rendezvous(&world, Who::Alice)?.network == Network::Unreachable);

    // The file serves again after a restart of the client.
    world.stop(Who::Alice)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;

    let json: serde_json::Value =
        serde_json::from_str(&world.mtd(Who::Server, &["introduction", "alice", "--json"])?)?;
    ensure!(json["name"] == "alice" && json["introductions"].as_u64() >= Some(96), "{json}");
    let unknown =
        world.controller(Who::Server)?.command(world.netns(Who::Server), &["introduction", "carol"])?;
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(!unknown.status.success() && error.contains("no client carol"), "{error}");
    Ok(())
}

#[test]
fn what_a_server_offers_is_new_after_each_of_its_starts() -> Result<()> {
    let mut world = behind_a_block(&TopologyOptions::default())?;
    bring(&world, fs::read(offered(&world)?)?)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    world.stop(Who::Server)?;
    // Not earlier: what is offered is sealed anew whenever it is written.
    let before = fs::read(offered(&world)?)?;
    world.start(Who::Server)?;
    wait_until("the server to offer others", PATIENCE, || Ok(fs::read(offered(&world)?)? != before))
        .with_context(|| world.explain())?;
    // The old ones are of no use any more, and the client says so.
    wait_until("the client to notice", PATIENCE, || {
        Ok(world.session(Who::Alice)?.trouble.as_deref() == Some("torn_down"))
    })
    .with_context(|| world.explain())?;
    // As a timer does that fetches what is new.
    let mut brought = before;
    wait_until("the session to open with what is offered now", PATIENCE, || {
        let now = fs::read(offered(&world)?)?;
        if now != brought {
            bring(&world, &now)?;
            brought = now;
        }
        world.is_open(Who::Alice)
    })
    .with_context(|| world.explain())
}

#[test]
fn files_that_are_broken_forged_or_for_others_are_said_to_be_and_end_nothing() -> Result<()> {
    let mut world = behind_a_block(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    world.start(Who::Alice)?;
    let good = fs::read_to_string(offered(&world)?)?;
    let others = world.mtd(Who::Server, &["introduction", "bob"])?;
    let mut forged = good.clone().into_bytes();
    // Within the first introduction.
    let at = good.find('\n').context("lines")? + 40;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    for (content, problem) in [
        (b"<html>log in here</html>".to_vec(), "not a file of `mtd introduction`"),
        (others.into_bytes(), "not sealed by this server for this client"),
        (forged, "not sealed by this server for this client"),
        (good.as_bytes()[..good.len() - 5].to_vec(), "is broken"),
        (vec![0; 1 << 20], "larger than any file"),
        (Vec::new(), "no introduction in it"),
    ] {
        bring(&world, content)?;
        wait_problem(&world, problem)?;
    }
    bring(&world, &good)?;
    world.wait_open(Who::Alice)?;
    // A broken file ends no session.
    bring(&world, "<html>")?;
    wait_problem(&world, "not a file of")?;
    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    let ended = world.status(Who::Alice)?.tasks.iter().any(|task| task.failures > 0);
    ensure!(!ended, "{}", world.explain());
    // With the DHT, the same client needs no file.
    pass_udp_v4(&world.topology().router)?;
    fs::remove_file(file_of(&world))?;
    world.stop(Who::Alice)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)
}

fn file_of(world: &World) -> PathBuf {
    let folder: &Path = world.setup(Who::Alice).folder();
    folder.join("home.introduction")
}
