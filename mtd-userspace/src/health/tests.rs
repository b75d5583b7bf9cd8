use super::checks::RECEIVE;
use super::*;
use crate::control::tests::sample;
use crate::device::{Prefix, Underlay};
use crate::model::{MapFill, Program};
use crate::status::{Neighbours, Saved, SessionCount, Slots, Task, WallClock, WarningCode};

fn underlay() -> Underlay {
    Underlay {
        ifindex: 2,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        xdp_program: Some(7),
        addresses: vec!["192.0.2.1/24".parse().unwrap(), "2001:db8:9::1/64".parse().unwrap()],
        prefixes: Ok(vec![Prefix { net: "2001:db8:9::/64".parse().unwrap(), preferred: true }]),
    }
}

fn look() -> Look {
    Look { underlay: Some(underlay()), ..Look::default() }
}

fn healthy() -> Status {
    let program = Program { name: RECEIVE.to_owned(), id: 7, ..Program::default() };
    Status {
        programs: vec![program],
        clock: Some(WallClock { synchronised: true, max_error_seconds: 0.01, source: None }),
        slots: Some(Slots { loaded: 22, lag_seconds: 0.1, ..Slots::default() }),
        session_counts: vec![SessionCount { role: "peer".to_owned(), state: "open".to_owned(), count: 1 }],
        maps: vec![MapFill { name: "sessions".to_owned(), used: 89, capacity: 100 }],
        uptime_seconds: 61.0,
        ..sample()
    }
}

/// The one warning, which must have this code.
fn only(status: &Status, look: &Look, code: WarningCode) -> String {
    let found = warnings(status, look);
    assert_eq!(found.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>(), [code.as_str()]);
    found[0].text.clone()
}

#[test]
fn nothing_is_said_of_a_healthy_host() {
    assert_eq!(warnings(&healthy(), &look()), []);
}

#[test]
fn each_fault_of_the_underlay_has_its_warning() {
    let with = |change: fn(&mut Underlay)| {
        let mut underlay = underlay();
        change(&mut underlay);
        Look { underlay: Some(underlay), ..Look::default() }
    };
    let down = only(&healthy(), &with(|u| u.up = false), WarningCode::InterfaceDown);
    assert!(down.contains("ip link set eth0 up"), "{down}");
    // An inner MTU of 1428, and 72 bytes of outer headers and tag.
    let small = only(&healthy(), &with(|u| u.mtu = 1499), WarningCode::MtuTooSmall);
    assert!(small.contains("1499") && small.contains("ip link set eth0 mtu 1500"), "{small}");
    let none = only(&healthy(), &with(|u| u.xdp_program = None), WarningCode::NotAttached);
    assert!(none.contains("no XDP program"), "{none}");
    let other = only(&healthy(), &with(|u| u.xdp_program = Some(u32::MAX)), WarningCode::NotAttached);
    assert!(other.contains("the XDP program with the number 4294967295"), "{other}");
    let inside = with(|u| u.addresses.push("2001:db8:1::1/64".parse().unwrap()));
    let text = only(&healthy(), &inside, WarningCode::AddressInPrefix);
    assert!(text.starts_with("2001:db8:1::1 of eth0"), "{text}");
    let shared = Status { link: "shared".to_owned(), ..healthy() };
    assert_eq!(warnings(&shared, &inside), [], "where that is how it should be");
    only(&healthy(), &Look::default(), WarningCode::InterfaceMissing);
}

#[test]
fn offloads_matter_where_they_act_before_the_program() {
    let merging = |features: &[&'static str]| Look { merging: features.to_vec(), ..look() };
    let generic = Status { xdp: "generic".to_owned(), ..healthy() };
    let text = only(&generic, &merging(&["rx-udp-gro-forwarding"]), WarningCode::ReceiveOffload);
    assert!(text.contains("ethtool -K eth0 rx-udp-gro-forwarding off"), "{text}");
    assert_eq!(warnings(&healthy(), &merging(&["rx-udp-gro-forwarding"])), [], "a native one is before it");
    only(&healthy(), &merging(&["rx-lro"]), WarningCode::ReceiveOffload);
    let misfits = vec![("mtd0".to_owned(), "rx-gro".to_owned(), false)];
    let text = only(&healthy(), &Look { misfits, ..look() }, WarningCode::TunnelOffload);
    assert!(text.contains("ethtool -K mtd0 rx-gro on"), "{text}");
}

#[test]
fn clock_slots_and_maps_are_watched() {
    let clock = Some(WallClock { synchronised: false, max_error_seconds: 16.0, source: None });
    only(&Status { clock, ..healthy() }, &look(), WarningCode::ClockNotSynchronised);
    let slots = |slots| Status { slots: Some(slots), ..healthy() };
    only(&slots(Slots { lag_seconds: 1.1, ..Slots::default() }), &look(), WarningCode::SlotsLate);
    only(&slots(Slots { missing: 1, ..Slots::default() }), &look(), WarningCode::SlotsLate);
    let maps = vec![MapFill { name: "routes".to_owned(), used: 90, capacity: 100 }];
    let text = only(&Status { maps, ..healthy() }, &look(), WarningCode::MapFull);
    assert!(text.contains("90 of 100 routes"), "{text}");
    only(&Status { pid: None, ..healthy() }, &look(), WarningCode::NoController);
}

#[test]
fn a_disk_that_takes_nothing_is_told_and_one_that_is_nearly_full_too() {
    let saved = |failures: &[&str]| Status {
        saved: Some(Saved {
            folder: "/var/lib/mtd".into(),
            failures: failures.iter().map(|&failure| failure.to_owned()).collect(),
        }),
        ..healthy()
    };
    let room = |free, read_only| Look { room: Some(Room { free, read_only }), ..look() };
    assert_eq!(warnings(&saved(&[]), &room(1 << 30, false)), []);
    let text = only(&saved(&[]), &room(20 << 10, false), WarningCode::StateRoomLow);
    assert!(text.contains("20 KiB left for /var/lib/mtd"), "{text}");
    let text = only(&saved(&[]), &room(1 << 30, true), WarningCode::StateNotSaved);
    assert!(text.contains("read-only"), "{text}");
    let text = only(&saved(&["cannot write x; make room"]), &room(0, false), WarningCode::StateNotSaved);
    assert!(text.contains("cannot write x; make room. What runs goes on"), "{text}");
}

#[test]
fn a_task_that_has_failed_is_told_also_when_it_runs_again() {
    let task = |failures, running| {
        let last_failure = (failures > 0).then(|| "panic: out of range".to_owned());
        Task { name: "web view".to_owned(), running, failures, last_failure }
    };
    let with = |tasks| Status { tasks, ..healthy() };
    assert_eq!(warnings(&with(vec![task(0, true)]), &look()), []);
    let text = only(&with(vec![task(0, true), task(1, false)]), &look(), WarningCode::TaskFailed);
    assert!(text.contains("web view of the controller has failed once, "), "{text}");
    assert!(text.contains(": panic: out of range; it does not run now."), "{text}");
    assert!(text.ends_with("stop and start the controller"), "the way out: {text}");
    let text = only(&with(vec![task(3, true)]), &look(), WarningCode::TaskFailed);
    assert!(text.contains("failed 3 times") && text.contains("it runs again"), "{text}");
}

#[test]
fn addresses_that_wait_to_be_announced_are_told() {
    let with =
        |waiting| Status { neighbours: Some(Neighbours { waiting, ..Neighbours::default() }), ..healthy() };
    assert_eq!(warnings(&with(0), &look()), []);
    let text = only(&with(70), &look(), WarningCode::AnnouncementsLimited);
    assert!(text.starts_with("70 own addresses") && text.contains("make slots longer"), "{text}");
}

/// As many warnings as there can be at a time.
#[test]
fn the_most_serious_comes_first() {
    let mut quiet = healthy();
    quiet.frames.accepted = 0;
    quiet.paths.too_small = 1;
    let status = Status {
        xdp: "generic".to_owned(),
        clock: Some(WallClock::default()),
        slots: Some(Slots { missing: 1, ..Slots::default() }),
        maps: vec![MapFill { name: "routes".to_owned(), used: 90, capacity: 100 }],
        tasks: vec![Task { failures: 1, ..Task::default() }],
        drops: [].into(),
        ..quiet
    };
    let underlay = Underlay {
        up: false,
        mtu: 1280,
        xdp_program: None,
        addresses: vec!["2001:db8:1::1/64".parse().unwrap()],
        ..underlay()
    };
    let misfits = vec![("mtd0".to_owned(), "rx-gro".to_owned(), false)];
    let look = Look {
        underlay: Some(underlay),
        ipv6_off: true,
        merging: vec!["rx-lro"],
        misfits,
        ..Look::default()
    };
    let codes: Vec<_> = warnings(&status, &look).into_iter().map(|warning| warning.code).collect();
    let expected = [
        WarningCode::InterfaceDown,
        WarningCode::Ipv6Disabled,
        WarningCode::NotAttached,
        WarningCode::MtuTooSmall,
        WarningCode::AddressInPrefix,
        WarningCode::TaskFailed,
        WarningCode::PathTooSmall,
        WarningCode::TunnelOffload,
        WarningCode::ReceiveOffload,
        WarningCode::ClockNotSynchronised,
        WarningCode::SlotsLate,
        WarningCode::MapFull,
        WarningCode::NothingArrives,
    ];
    assert_eq!(codes, expected.map(WarningCode::as_str));
    let codes: Vec<_> = warnings(&Status { pid: None, ..status }, &Look::default())
        .into_iter()
        .take(2)
        .map(|warning| warning.code)
        .collect();
    assert_eq!(codes, ["no_controller", "interface_missing"]);
}

#[test]
fn a_controller_that_waits_says_what_for_and_not_that_it_has_gone() {
    let status = Status { waiting_for: Some("waiting for the interface eth0".to_owned()), ..healthy() };
    let warnings = warnings(&status, &Look::default());
    assert_eq!(warnings[0].code, "waiting");
    assert!(warnings[0].text.starts_with("waiting for the interface eth0. "), "{:?}", warnings[0]);
    assert!(warnings.iter().all(|warning| warning.code != "interface_missing"));
}

#[test]
fn silence_of_the_whole_prefix_is_strange_after_a_minute() {
    let mut quiet = healthy();
    quiet.frames.accepted = 0;
    quiet.drops = [("send_no_slot".to_owned(), 5)].into();
    let text = only(&quiet, &look(), WarningCode::NothingArrives);
    assert!(text.contains("tcpdump -ni eth0 net 2001:db8:1::/64"), "{text}");
    let knocked = Status { drops: [("tcp".to_owned(), 1)].into(), ..quiet.clone() };
    assert_eq!(warnings(&knocked, &look()), [], "a stranger's packet shows as well that it is routed here");
    let young = Status { uptime_seconds: 59.0, ..quiet.clone() };
    assert_eq!(warnings(&young, &look()), []);
    let alone = Status { session_counts: Vec::new(), ..quiet.clone() };
    assert_eq!(warnings(&alone, &look()), [], "nobody is to come");
    let on_link = Status { link: "on-link".to_owned(), ..quiet };
    assert_eq!(warnings(&on_link, &look()), []);
}

#[test]
fn the_kernel_tells_of_clock_and_release() {
    assert!(wall_clock(false, Signs::default()).is_some());
    assert!(kernel().starts_with(|c: char| c.is_ascii_digit()), "{}", kernel());
}
