//! Metrics, as scraped by a real Prometheus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::process::Running;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;
use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;
use super::world::{Role, World};

/// Address of the server's metrics.
pub(super) const METRICS: &str = "[::1]:24633";

/// Address of Prometheus, in the same namespace.
const PROMETHEUS: &str = "[::1]:9090";

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// Two controllers with a session, the server with metrics.
fn open() -> Result<World> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    world.setup_mut(Role::Server).extra = format!("[metrics]\nlisten = \"{METRICS}\"\n");
    world.start_all()?;
    world.wait_open()?;
    Ok(world)
}

pub(super) fn curl(world: &World, arguments: &[&str]) -> Result<Output> {
    let mut command = world.netns(Role::Server).command("curl")?;
    Ok(command.args(["-sS", "-g", "--max-time", "10"]).args(arguments).output()?)
}

pub(super) fn body(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs `promtool ARGUMENTS…` with `input`, and checks that it finds no fault.
fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    use std::io::Write as _;

    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("promtool")?;
    child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "promtool {arguments:?}: {output:?}");
    Ok(())
}

#[test]
fn promtool_has_nothing_to_complain_of() -> Result<()> {
    let rules = packaging().join("prometheus");
    let file = |name: &str| rules.join(name).display().to_string();
    promtool(&["check", "rules", &file("mtd.rules.yml")], "")?;
    promtool(&["test", "rules", &file("mtd.rules.test.yml")], "")?;

    let mut world = open()?;
    let text = body(curl(&world, &[&format!("http://{METRICS}/metrics")])?)?;
    promtool(&["check", "metrics"], &text).with_context(|| text.clone())?;
    // The same metrics are at the control socket, without a port.
    let socket = world.instance(Role::Server)?.socket().display().to_string();
    let at_socket = body(curl(&world, &["--unix-socket", &socket, "http://localhost/metrics"])?)?;
    let families = |text: &str| {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(families(&text), families(&at_socket));

    // Nothing in the metrics distinguishes one client from another.
    let status = world.status(Role::Server)?;
    let peer = &status.peers[0];
    for secret in [&peer.name, &peer.remote.address.to_string(), &world.end(Role::Client).v6.to_string()] {
        assert!(!text.contains(secret.as_str()), "{secret} in {text}");
    }

    let refused = curl(
        &world,
        &[
            "-X",
            "POST",
            "-d",
            "x",
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
            &format!("http://{METRICS}/metrics"),
        ],
    )?;
    assert_eq!(body(refused)?, "405");
    world.stop(Role::Server)?;
    let gone = curl(&world, &[&format!("http://{METRICS}/metrics")])?;
    assert_eq!(gone.status.code(), Some(7), "connection refused: {gone:?}");
    Ok(())
}

/// A Prometheus that scrapes the server twice a second, with mtd's rules.
struct Prometheus {
    process: Running,
    _folder: TempDir,
}

impl Prometheus {
    fn start(world: &World) -> Result<Self> {
        let folder = TempDir::new()?;
        let config = folder.path().join("prometheus.yml");
        let rules = packaging().join("prometheus/mtd.rules.yml").canonicalize()?;
        fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms }}\n\
                 rule_files: [\"{}\"]\n\
                 scrape_configs: [{{ job_name: mtd, static_configs: [{{ targets: [\"{METRICS}\"] }}] }}]\n",
                rules.display()
            ),
        )?;
        let mut command = world.netns(Role::Server).command("prometheus")?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={PROMETHEUS}"));
        let mut process = Running::spawn("prometheus", command)?;
        process.wait_for_line("Server is ready to receive web requests", PATIENCE)?;
        Ok(Self { process, _folder: folder })
    }

    /// The data in an answer of its API.
    fn api(&self, world: &World, arguments: &[&str]) -> Result<Value> {
        let text = body(curl(world, arguments)?)?;
        let mut answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(answer["status"] == "success", "{arguments:?}: {answer}\n{}", self.process.log());
        Ok(answer["data"].take())
    }

    /// The results of an expression.
    fn query(&self, world: &World, expression: &str) -> Result<Vec<Value>> {
        let url = format!("http://{PROMETHEUS}/api/v1/query");
        let data = self.api(world, &["--data-urlencode", &format!("query={expression}"), &url])?;
        Ok(data["result"].as_array().context("no result")?.clone())
    }

    /// The only value of an expression.
    fn value(&self, world: &World, expression: &str) -> Result<Option<f64>> {
        let results = self.query(world, expression)?;
        ensure!(results.len() <= 1, "{expression}: {results:?}");
        let text = results.first().map(|result| result["value"][1].as_str().unwrap_or_default().to_owned());
        text.map(|text| text.parse().with_context(|| text.clone())).transpose()
    }
}

#[test]
fn a_prometheus_scrapes_the_controller_and_has_its_values() -> Result<()> {
    let world = open()?;
    let prometheus = Prometheus::start(&world)?;
    wait_until("the first scrapes", PATIENCE, || {
        Ok(prometheus.value(&world, "min_over_time(up{job=\"mtd\"}[1m])")? == Some(1.0))
    })?;
    let value = |expression: &str| prometheus.value(&world, expression);
    assert_eq!(value("mtd_sessions{role=\"peer\",state=\"open\"}")?, Some(1.0));
    assert_eq!(value("mtd_sessions{role=\"peer\",state=\"silent\"}")?, Some(0.0));
    assert_eq!(value("mtd_map_entries{map=\"sessions\"}")?, Some(1.0));
    assert_eq!(value("count(mtd_build_info{abi!=\"\",commit!=\"\"})")?, Some(1.0));
    let horizon = value("mtd_slot_horizon_seconds")?.context("no horizon")?;
    assert!((55.0..=65.0).contains(&horizon), "{horizon}");
    assert!(value("mtd_slot_refresh_lag_seconds")?.is_some_and(|lag| lag < 5.0));

    // The metrics show the traffic in the tunnel, with the same numbers as the controller's status.
    let before = value("mtd_received_bytes_total")?.context("no bytes")?;
    let report = world.netns(Role::Client).ping(world.end(Role::Server).v6.into(), 5)?;
    assert_eq!(report.received, 5);
    let status = world.status(Role::Server)?;
    wait_until("the pings to be scraped", PATIENCE, || {
        Ok(value("mtd_accepted_packets_total")? >= Some(status.frames.accepted as f64))
    })?;
    // An echo request with 56 bytes of data, 8 and 40 bytes of headers.
    let bytes = value("mtd_received_bytes_total")?.context("no bytes")? - before;
    assert!(bytes >= 5.0 * 104.0, "{bytes}");
    let scanner = &world.topology().scanner.netns;
    let dark = u128::from(world.host(Role::Server).prefix.network()) | 0xdead;
    scanner.ping(std::net::Ipv6Addr::from(dark).into(), 3)?;
    wait_until("the drops to be scraped", PATIENCE, || {
        Ok(value("mtd_dropped_packets_total{reason=\"icmpv6\"}")? == Some(3.0))
    })?;

    rules_and_dashboard_work(&world, &prometheus)
}

/// Checks that Prometheus can evaluate every rule and every query of the dashboard.
fn rules_and_dashboard_work(world: &World, prometheus: &Prometheus) -> Result<()> {
    let url = format!("http://{PROMETHEUS}/api/v1/rules");
    wait_until("the rules to be evaluated", PATIENCE, || {
        let groups = prometheus.api(world, &[&url])?;
        let rules = groups["groups"][0]["rules"].as_array().context("no rules")?.clone();
        ensure!(rules.len() > 5, "{rules:?}");
        ensure!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        Ok(rules.iter().all(|rule| rule["health"] == "ok"))
    })?;
    let dashboard = fs::read_to_string(packaging().join("grafana/mtd.json"))?;
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let mut silent = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("no query")?;
            let filled = expression.replace("$job", "mtd").replace("$instance", ".*");
            let filled = filled.replace("$__rate_interval", "1m").replace("$__range", "1h");
            ensure!(!filled.contains('$'), "a variable that is not set: {filled}");
            if prometheus.query(world, &filled)?.is_empty() {
                silent.push(expression.to_owned());
            }
        }
    }
    // These hosts use no DHT, so metrics of the rendezvous do not exist here.
    let beside =
        |expression: &String| !expression.contains("rendezvous") && !expression.contains("handshakes");
    assert_eq!(silent.into_iter().filter(beside).collect::<Vec<_>>(), Vec::<String>::new(), "no data for");
    Ok(())
}

#[test]
fn readers_that_stall_slow_nobody() -> Result<()> {
    let world = open()?;
    let netns = world.netns(Role::Server);
    let stalled: Vec<_> = netns.enter(|| {
        use std::io::Write as _;
        (0..64)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(METRICS)?;
                stream.write_all(b"GET /metr")?;
                Ok(stream)
            })
            .collect::<std::io::Result<_>>()
    })??;
    // Controller and tunnel are not affected.
    let report = world.netns(Role::Client).ping(world.end(Role::Server).v6.into(), 10)?;
    assert_eq!(report.received, 10);
    let first = world.status(Role::Server)?;
    assert!(first.slots.is_some_and(|slots| slots.lag_seconds < 1.0), "{first:?}");
    // The readers are disconnected one after the other, and a later one gets an answer.
    wait_until("an answer behind them", Duration::from_secs(30), || {
        Ok(curl(&world, &["--max-time", "2", &format!("http://{METRICS}/metrics")])?.status.success())
    })?;
    drop(stalled);
    Ok(())
}
