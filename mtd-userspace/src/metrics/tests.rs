use std::collections::BTreeSet;

use super::*;
use crate::control::tests::sample;
use crate::model::{Totals, Traffic};
use crate::status::{Network, Rendezvous, RendezvousRole, Session, Warning};

/// A status in which every part has a value.
pub(crate) fn full() -> Status {
    let count =
        |role: &str, state: &str, count| SessionCount { role: role.into(), state: state.into(), count };
    Status {
        version: "1.2.3".to_owned(),
        commit: "0123abcd".to_owned(),
        abi: 4,
        session_counts: vec![count("server", "half-open", 3), count("peer", "open", 2)],
        clients_registered: Some(5),
        last_valid_seconds: Some(1.5),
        clock_offset_seconds: Some(0.25),
        slots: Some(Slots {
            loaded: 40,
            missing: 0,
            horizon_seconds: Some(59.5),
            lag_seconds: 0.0,
            refreshed: Some(1_800_000_000.5),
        }),
        maps: vec![MapFill { name: "sessions".to_owned(), used: 4, capacity: 1024 }],
        programs: vec![Program {
            name: "mtd_receive".to_owned(),
            runs: 3,
            run_seconds: 0.5,
            ..Program::default()
        }],
        clock: Some(WallClock { synchronised: true, max_error_seconds: 0.01, source: None }),
        traffic: Totals {
            received: Traffic { packets: 7, bytes: 700 },
            sent: Traffic { packets: 8, bytes: 800 },
        },
        warnings: vec![Warning { code: "map_full".to_owned(), text: "raise max_sessions".to_owned() }],
        rendezvous: Some(Rendezvous {
            absent: 1,
            trouble: None,
            known_nodes: 8,
            files: Vec::new(),
            role: RendezvousRole::Both,
            window_seconds: 900,
            window_start: 1_800_000_000,
            last_publication: Some(1_800_000_001.0),
            last_fetch: Some(1_800_000_002.0),
            published: 3,
            fetched: 2,
            failed: 1,
            pending: 0,
            rejected: [("stale".to_owned(), 9)].into(),
            next_seconds: None,
            network: Network::Ok,
            median_fetch_ms: None,
        }),
        handshakes: Some(Handshakes {
            version: 2,
            remarks: Vec::new(),
            received: 6,
            answered: 5,
            refused: [("too_many".to_owned(), 1)].into(),
            half_open: 3,
        }),
        ..sample()
    }
}

/// The metrics of a status, with those of the features.
fn rendered(status: &Status) -> String {
    render(status, |text| {
        crate::registry::metrics(status, text);
        crate::rendezvous::metrics(status, text);
    })
}

/// The names of the metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn what_the_status_says_is_in_the_metrics() {
    let text = rendered(&full());
    for line in [
        r#"mtd_build_info{version="1.2.3",commit="0123abcd",abi="4"} 1"#,
        r#"mtd_data_plane_info{xdp="native",link="routed"} 1"#,
        r#"mtd_dropped_packets_total{direction="receive",reason="bad_tag"} 3"#,
        r#"mtd_dropped_packets_total{direction="send",reason="send_no_slot"} 0"#,
        "mtd_accepted_packets_total 7",
        "mtd_received_bytes_total 700",
        "mtd_sent_bytes_total 800",
        r#"mtd_sessions{role="server",state="half-open"} 3"#,
        r#"mtd_sessions{role="client",state="silent"} 0"#,
        "mtd_clients_registered 5",
        "mtd_last_valid_packet_age_seconds 1.5",
        "mtd_slot_horizon_seconds 59.5",
        r#"mtd_map_entries{map="sessions"} 4"#,
        r#"mtd_map_capacity_entries{map="sessions"} 1024"#,
        r#"mtd_program_run_seconds_total{program="mtd_receive"} 0.5"#,
        "mtd_clock_synchronised 1",
        r#"mtd_rendezvous_rejected_total{reason="stale"} 9"#,
        "mtd_rendezvous_reachable 1",
        "mtd_handshakes_answered_total 5",
        r#"mtd_handshakes_refused_total{reason="too_many"} 1"#,
        r#"mtd_warning{code="map_full"} 1"#,
        r#"mtd_warning{code="interface_down"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn no_series_stands_twice() {
    let text = rendered(&full());
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.insert(name), "{name} twice");
    }
}

#[test]
fn the_number_of_series_does_not_grow_with_that_of_sessions() {
    let mut status = full();
    let series = |status: &Status| rendered(status).lines().count();
    let before = series(&status);
    let session = Session { name: "laptop".to_owned(), ..Session::unknown() };
    status.sessions = vec![session; 100];
    status.session_counts[0].count = 1_000_000;
    assert_eq!(series(&status), before);
    assert!(!rendered(&status).contains("laptop"));
}

/// Metric names in the expressions of a file: words that begin with the prefix of mtd's metrics.
fn mentioned(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mtd_") || word.starts_with("process_")).collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_there_are() {
    let rules = include_str!("../../../packaging/prometheus/mtd.rules.yml");
    let dashboard = include_str!("../../../packaging/grafana/mtd.json");
    let text = rendered(&full());
    let known = names(&text);
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "a panel without a query: {panel}");
        expressions.extend(targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    expressions
        .extend(rules.lines().filter(|line| line.trim_start().starts_with("expr:")).map(str::to_owned));
    let expressions = expressions.join("\n");
    let used = mentioned(&expressions);
    assert!(used.len() > 15, "{used:?}");
    assert_eq!(
        used.difference(&known).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "metrics that there are not"
    );
}

#[tokio::test]
async fn many_readers_cost_no_more_than_one() {
    let cache = Cache::default();
    let mut rendered = 0;
    for _ in 0..10 {
        let text = cache
            .get(async || {
                rendered += 1;
                Ok::<_, ()>(rendered.to_string())
            })
            .await;
        assert_eq!(text, Ok("1".to_owned()));
    }
    assert_eq!(cache.get(async || Err("not asked")).await, Ok("1".to_owned()), "still fresh");
    std::thread::sleep(FRESH);
    assert_eq!(cache.get(async || Err("asked")).await, Err("asked"));
    assert_eq!(
        cache.get(async || Ok::<_, ()>("new".to_owned())).await,
        Ok("new".to_owned()),
        "a failure is not kept"
    );
}
