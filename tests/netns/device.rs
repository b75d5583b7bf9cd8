//! The tunnel device and the host's links (`mtd::device`) against a real kernel.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use ipnet::IpNet;
use mtd::device::{self, Error, TunnelDevice, TunnelInfo, Underlay};
use mtd_tests::capture::{Capture, CaptureOptions};
use mtd_tests::netns::Netns;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

const NAME: &str = "mtd0";
const PEER: &str = "mtd0x";
const MTU: u32 = 1428;

/// The features of `ethtool -k` that must be off so that every packet reaches the sealing program whole and with its
/// checksum.
const SENDING_OFFLOADS: [&str; 7] = [
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-gso-list",
];

fn namespace(tag: &str) -> Result<Netns> {
    mtd_tests::require_root();
    Netns::new(tag)
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().expect("a network in a test")).collect()
}

fn tunnel(addresses: &[&str], routes: &[&str]) -> TunnelDevice {
    TunnelDevice {
        name: NAME.to_owned(),
        mtu: MTU,
        addresses: nets(addresses),
        routes: nets(routes),
        narrow: Vec::new(),
        bypass: None,
    }
}

/// Runs a future inside the namespace.
fn within<T: Send>(netns: &Netns, work: impl AsyncFnOnce() -> T + Send) -> Result<T> {
    netns.enter(|| -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work()))
    })?
}

fn create(netns: &Netns, device: &TunnelDevice) -> Result<device::Result<TunnelInfo>> {
    within(netns, async || device.create().await)
}

fn remove(netns: &Netns, name: &str) -> Result<device::Result<bool>> {
    within(netns, async || device::remove(name).await)
}

fn json(netns: &Netns, arguments: &[&str]) -> Result<Value> {
    let text = netns.run(&[&["-d", "-j"], arguments].concat())?;
    serde_json::from_str(&text).with_context(|| format!("ip {arguments:?} printed {text:?}"))
}

fn link(netns: &Netns, name: &str) -> Result<Value> {
    Ok(json(netns, &["link", "show", "dev", name])?[0].take())
}

fn links(netns: &Netns) -> Result<Vec<String>> {
    let links = json(netns, &["link"])?;
    Ok(texts(&links, "ifname").into_iter().collect())
}

fn texts(list: &Value, key: &str) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str()).map(str::to_owned).collect()
}

/// The addresses of a device as iproute2 sees them.
fn addresses(netns: &Netns, name: &str) -> Result<BTreeSet<String>> {
    let link = json(netns, &["address", "show", "dev", name])?[0].take();
    let addresses = link["addr_info"].as_array().into_iter().flatten();
    Ok(addresses.map(|a| format!("{}/{}", a["local"].as_str().unwrap_or("?"), a["prefixlen"])).collect())
}

/// The destinations of a device's routes, except those that the kernel made itself.
fn routes(netns: &Netns, name: &str, family: &str, table: &str) -> Result<BTreeSet<String>> {
    let mut list = json(netns, &[family, "route", "show", "dev", name, "table", table])?;
    if let Some(list) = list.as_array_mut() {
        list.retain(|route| route["protocol"] != "kernel");
    }
    Ok(texts(&list, "dst"))
}

fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

fn assert_offloads(netns: &Netns) -> Result<()> {
    for end in [NAME, PEER] {
        for feature in SENDING_OFFLOADS {
            assert!(!netns.offload(end, feature)?, "{end}: {feature} is on");
        }
    }
    assert!(netns.offload(NAME, "generic-receive-offload")?, "veth needs GRO on {NAME} for XDP's frames");
    assert!(
        !netns.offload(PEER, "generic-receive-offload")?,
        "GRO on {PEER} would merge packets before sealing"
    );
    Ok(())
}

#[test]
fn create_makes_the_pair_as_described() -> Result<()> {
    let netns = namespace("dev-create")?;
    let device = tunnel(&["fd00:1::1/64", "10.9.0.1/24"], &["fd00:2::/48", "10.10.0.0/16", "::/0"]);
    let info = create(&netns, &device)??;

    let (outer, inner) = (link(&netns, NAME)?, link(&netns, PEER)?);
    assert_eq!(outer["ifindex"], info.ifindex);
    assert_eq!(inner["ifindex"], info.peer_ifindex);
    let mac = info.mac.map(|byte| format!("{byte:02x}")).join(":");
    assert_eq!(outer["address"], mac.as_str());
    for end in [&outer, &inner] {
        assert_eq!(end["linkinfo"]["info_kind"], "veth");
        assert_eq!(end["ifalias"], device::MARKER);
        assert_eq!(end["mtu"], MTU);
        let flags = end["flags"].as_array().context("flags")?;
        assert!(
            ["UP", "LOWER_UP", "NOARP"].iter().all(|flag| flags.contains(&Value::from(*flag))),
            "{flags:?}"
        );
    }
    assert_eq!(addresses(&netns, NAME)?, set(["10.9.0.1/24", "fd00:1::1/64"]), "no link-local address");
    assert_eq!(addresses(&netns, PEER)?, set([]));
    assert_eq!(routes(&netns, NAME, "-6", "main")?, set(["default", "fd00:2::/48"]));
    assert_eq!(routes(&netns, NAME, "-4", "main")?, set(["10.10.0.0/16"]));
    for (key, value) in [
        ("mtd0/addr_gen_mode", "1"),
        ("mtd0/accept_ra", "0"),
        ("mtd0/router_solicitations", "0"),
        ("mtd0/disable_ipv6", "0"),
        ("mtd0x/disable_ipv6", "1"),
    ] {
        assert_eq!(netns.sysctl(&format!("net/ipv6/conf/{key}"))?, value, "{key}");
    }
    let all = json(&netns, &["-6", "address", "show", "dev", NAME])?;
    assert_eq!(all[0]["addr_info"][0]["nodad"], true, "duplicate address detection has nobody to ask");
    assert_offloads(&netns)
}

/// The host's defaults for new devices must not decide whether mtd works.
#[test]
fn a_host_with_ipv6_off_by_default_gets_a_working_device() -> Result<()> {
    let netns = namespace("dev-v6off")?;
    netns.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    create(&netns, &tunnel(&["fd00:1::1/64"], &["fd00:2::/48"]))??;
    assert_eq!(addresses(&netns, NAME)?, set(["fd00:1::1/64"]));
    assert_eq!(routes(&netns, NAME, "-6", "main")?, set(["fd00:2::/48"]));
    Ok(())
}

#[test]
fn what_local_sockets_send_arrives_segmented_and_with_checksums() -> Result<()> {
    const SEGMENT: u16 = 1000;
    const SEGMENTS: usize = 8;
    let netns = namespace("dev-gso")?;
    create(&netns, &tunnel(&["fd00:1::1/64"], &[]))??;
    let capture = Capture::start(&netns, PEER, &CaptureOptions::default())?;

    let socket = netns.enter(|| UdpSocket::bind("[fd00:1::1]:0"))??;
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(SEGMENT))?;
    let to: Ipv6Addr = "fd00:1::2".parse()?;
    socket.send_to(&vec![0xa5; usize::from(SEGMENT) * SEGMENTS], (to, 9))?;

    mtd_tests::wait_until("the segments", Duration::from_secs(5), || {
        Ok(capture.snapshot().iter().filter(|frame| is_udp(&frame.data)).count() >= SEGMENTS)
    })?;
    let report = capture.stop()?;
    let frames: Vec<_> =
        report.frames.iter().filter(|frame| !frame.outgoing && is_udp(&frame.data)).collect();
    assert_eq!(frames.len(), SEGMENTS);
    for frame in frames {
        assert_eq!(frame.data.len(), 14 + 40 + 8 + usize::from(SEGMENT));
        assert!(!frame.checksum_pending);
        let packet = SlicedPacket::from_ethernet(&frame.data)?;
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport)
        else {
            anyhow::bail!("not UDP over IPv6")
        };
        let right = udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload())?;
        assert_eq!(udp.checksum(), right);
    }
    Ok(())
}

fn is_udp(frame: &[u8]) -> bool {
    SlicedPacket::from_ethernet(frame)
        .is_ok_and(|packet| matches!(packet.transport, Some(TransportSlice::Udp(_))))
}

#[test]
fn adopting_changes_only_what_is_not_as_wanted() -> Result<()> {
    let netns = namespace("dev-adopt")?;
    let first = create(
        &netns,
        &tunnel(&["fd00:1::1/64", "fd00:1::9/64", "10.9.0.1/24"], &["fd00:2::/48", "fd00:3::/48"]),
    )??;
    for (feature, on) in [("tx", true), ("sg", true), ("tso", true), ("gso", true), ("gro", false)] {
        netns.set_offload(NAME, feature, on)?;
    }
    netns.set_offload(PEER, "gro", true)?;
    netns.run(&["link", "set", NAME, "arp", "on"])?;
    netns.run(&["address", "add", "10.9.0.2/24", "dev", NAME])?;
    netns.run(&["route", "add", "10.77.0.0/16", "dev", NAME])?;
    netns.run(&["route", "add", "10.78.0.0/16", "dev", NAME, "table", "100"])?;
    netns.run(&["route", "add", "fd00:77::/32", "via", "fd00:1::5", "dev", NAME])?;

    let mut wanted =
        tunnel(&["fd00:1::1/80", "fd00:1::9/64", "10.9.0.1/24"], &["fd00:3::/48", "fd00:4::/48"]);
    wanted.mtu = 1400;
    let second = create(&netns, &wanted)??;
    assert_eq!(second, first, "the same device, not a new one");
    assert_eq!(addresses(&netns, NAME)?, set(["10.9.0.1/24", "fd00:1::1/80", "fd00:1::9/64"]));
    assert_eq!(routes(&netns, NAME, "-6", "main")?, set(["fd00:3::/48", "fd00:4::/48"]));
    assert_eq!(routes(&netns, NAME, "-4", "main")?, set([]));
    assert_eq!(routes(&netns, NAME, "-4", "100")?, set(["10.78.0.0/16"]), "other tables are the operator's");
    assert_eq!((&link(&netns, NAME)?["mtu"], &link(&netns, PEER)?["mtu"]), (&1400.into(), &1400.into()));
    let flags = link(&netns, NAME)?["flags"].take();
    assert!(flags.as_array().context("flags")?.contains(&Value::from("NOARP")), "{flags}");
    assert_offloads(&netns)
}

#[test]
fn narrow_destinations_have_routes_with_an_mtu_of_their_own() -> Result<()> {
    let netns = namespace("dev-narrow")?;
    let plain = tunnel(&["fd00:1::1/64", "10.9.0.1/24"], &["fd00:2::/48", "10.10.0.0/16", "fd00:1::/64"]);
    create(&netns, &plain)??;
    let mtus = || -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for family in ["-6", "-4"] {
            let list = json(&netns, &[family, "route", "show", "dev", NAME])?;
            for route in list.as_array().into_iter().flatten() {
                let mtu = route["metrics"][0]["mtu"].as_u64();
                found.extend(mtu.map(|mtu| format!("{} {mtu}", route["dst"].as_str().unwrap_or_default())));
            }
        }
        Ok(found)
    };
    assert_eq!(mtus()?, set([]));
    let all = |name: &str| routes(&netns, name, "-6", "main");
    let before = all(NAME)?;
    // A destination that has a route, one in the device's own network, and some inside other destinations.
    let nets = ["fd00:2::/48", "10.10.0.0/16", "fd00:1::/64", "fd00:1::7/128", "10.9.0.7/32"];
    for mtu in [1400, 1300, 1300] {
        let narrow = nets.map(|net| (net.parse().expect("a network"), mtu)).to_vec();
        create(&netns, &TunnelDevice { narrow, ..plain.clone() })??;
        assert_eq!(
            mtus()?,
            ["fd00:2::/48", "10.10.0.0/16", "fd00:1::/64", "fd00:1::7", "10.9.0.7"]
                .map(|to| format!("{to} {mtu}"))
                .into()
        );
        let used = netns.run(&["route", "get", "fd00:1::9"])?;
        assert!(used.contains(&format!("mtu {mtu}")), "the route that counts: {used}");
    }
    create(&netns, &plain)??;
    assert_eq!(mtus()?, set([]));
    assert!(all(NAME)?.is_superset(&before), "routes are lost: {:?}", all(NAME)?);
    assert!(!all(NAME)?.contains("fd00:1::7"));
    Ok(())
}

#[test]
fn adopting_replaces_a_primary_ipv4_address_with_its_secondary() -> Result<()> {
    let netns = namespace("dev-second")?;
    create(&netns, &tunnel(&["10.9.0.1/24", "10.9.0.2/24"], &["10.10.0.0/16"]))??;
    create(&netns, &tunnel(&["10.9.0.2/24"], &["10.10.0.0/16"]))??;
    assert_eq!(addresses(&netns, NAME)?, set(["10.9.0.2/24"]));
    assert_eq!(routes(&netns, NAME, "-4", "main")?, set(["10.10.0.0/16"]));
    Ok(())
}

#[test]
fn foreign_devices_are_left_alone() -> Result<()> {
    let netns = namespace("dev-foreign")?;
    netns.run(&["link", "add", NAME, "type", "veth", "peer", "name", "other"])?;
    let before = link(&netns, NAME)?;
    for result in
        [create(&netns, &tunnel(&["fd00:1::1/64"], &[]))?.map(drop), remove(&netns, NAME)?.map(drop)]
    {
        let error = result.expect_err("the device is not mtd's");
        assert!(matches!(&error, Error::Foreign { name } if name == NAME), "{error}");
        assert!(error.to_string().contains("ip link delete mtd0"), "{error}");
    }
    assert_eq!(link(&netns, NAME)?, before);

    // The name of the inner end is taken.
    netns.run(&["link", "set", NAME, "name", "mtd1x"])?;
    let device = TunnelDevice { name: "mtd1".to_owned(), ..tunnel(&[], &[]) };
    let error = create(&netns, &device)?.expect_err("mtd1x is not mtd's");
    assert!(matches!(&error, Error::Foreign { name } if name == "mtd1x"), "{error}");
    assert_eq!(links(&netns)?, ["lo", "mtd1x", "other"]);
    Ok(())
}

#[test]
fn a_pair_that_lost_an_end_is_named() -> Result<()> {
    let (netns, elsewhere) = (namespace("dev-broken")?, namespace("dev-else")?);
    create(&netns, &tunnel(&[], &[]))??;
    netns.run(&["link", "set", PEER, "netns", elsewhere.name()])?;
    let error = create(&netns, &tunnel(&[], &[]))?.expect_err("the inner end is gone");
    assert!(matches!(&error, Error::BrokenPair { peer, .. } if peer == PEER), "{error}");
    assert!(remove(&netns, NAME)??, "it still is mtd's, and removable");
    Ok(())
}

#[test]
fn a_route_that_another_device_holds_is_an_error_and_leaves_nothing() -> Result<()> {
    let netns = namespace("dev-conflict")?;
    netns.run(&["link", "add", "wan", "type", "veth", "peer", "name", "wan-far"])?;
    netns.run(&["link", "set", "wan", "up"])?;
    netns.run(&["link", "set", "wan-far", "up"])?;
    netns.run(&["address", "add", "fd00:2::1/64", "dev", "wan", "nodad"])?;
    netns.run(&["route", "add", "10.10.0.0/16", "dev", "wan"])?;
    netns.run(&["route", "add", "10.11.0.0/16", "dev", "wan", "metric", "100"])?;
    netns.run(&["route", "add", "blackhole", "10.12.0.0/16"])?;
    // The first one is connected and has a lower metric than mtd's: adding mtd's route would succeed, but packets would leave
    // in the clear.
    for (route, expected) in [("fd00:2::/64", "wan"), ("10.10.0.0/16", "wan"), ("10.12.0.0/16", "blackhole")]
    {
        let error = create(&netns, &tunnel(&["fd00:1::1/64"], &[route]))?.expect_err("the route is taken");
        let text = error.to_string();
        assert!(matches!(error, Error::RouteConflict { .. }), "{text}");
        assert!([route, expected, NAME].iter().all(|word| text.contains(word)), "{text}");
        assert_eq!(links(&netns)?, ["lo", "wan", "wan-far"], "a device half made must not stay");
    }
    // A more specific route, or one with a higher metric than mtd's, is there on purpose.
    create(&netns, &tunnel(&["fd00:1::1/64"], &["fd00:2::/65", "10.11.0.0/16"]))??;
    let used = netns.run(&["route", "get", "10.11.0.1"]);
    assert!(used?.contains("dev mtd0"));
    Ok(())
}

#[test]
fn remove_takes_both_ends_and_their_routes() -> Result<()> {
    let netns = namespace("dev-remove")?;
    create(&netns, &tunnel(&["fd00:1::1/64", "10.9.0.1/24"], &["fd00:2::/48"]))??;
    assert!(remove(&netns, NAME)??);
    assert_eq!(links(&netns)?, ["lo"]);
    assert_eq!(netns.run(&["-6", "route", "show"])?, "");
    assert!(!remove(&netns, NAME)??, "nothing left to remove");
    Ok(())
}

#[test]
fn another_mtu_is_that_of_both_ends() -> Result<()> {
    let netns = namespace("dev-mtu")?;
    let device = tunnel(&["fd00:1::1/64"], &["fd00:2::/48"]);
    create(&netns, &device)??;
    let with = |mtu| TunnelDevice { mtu, ..device.clone() };
    create(&netns, &with(1280))??;
    assert_eq!((&link(&netns, NAME)?["mtu"], &link(&netns, PEER)?["mtu"]), (&1280.into(), &1280.into()));
    let error = create(&netns, &with(1279))?.expect_err("below IPv6's minimum");
    assert!(matches!(error, Error::InvalidMtu { mtu: 1279, .. }), "{error}");
    assert_eq!(routes(&netns, NAME, "-6", "main")?, set(["fd00:2::/48"]), "IPv6 stayed on");
    Ok(())
}

#[test]
fn underlay_is_described_or_the_choice_listed() -> Result<()> {
    let netns = namespace("dev-underlay")?;
    netns.run(&["link", "add", "wan", "mtu", "1500", "type", "veth", "peer", "name", "wan-far"])?;
    netns.run(&["link", "set", "wan", "address", "02:00:00:00:00:07", "up"])?;
    netns.run(&["address", "add", "2001:db8::7/64", "dev", "wan", "nodad"])?;
    netns.run(&["address", "add", "192.0.2.7/24", "dev", "wan"])?;
    let inspect = |name: &'static str| within(&netns, async move || Underlay::inspect(name).await);

    let down = inspect("wan")??;
    assert!(!down.up, "no carrier while the far end is down");
    netns.run(&["link", "set", "wan-far", "up"])?;
    mtd_tests::wait_until("carrier", Duration::from_secs(5), || Ok(inspect("wan")??.up))?;
    let wan = inspect("wan")??;
    assert_eq!(link(&netns, "wan")?["ifindex"], wan.ifindex);
    assert_eq!((wan.mac, wan.mtu), ([2, 0, 0, 0, 0, 7], 1500));
    assert!(
        nets(&["2001:db8::7/64", "192.0.2.7/24"]).iter().all(|net| wan.addresses.contains(net)),
        "{wan:?}"
    );

    let error = inspect("eth9")?.expect_err("absent").to_string();
    assert!(["eth9", "lo", "wan", "wan-far"].iter().all(|name| error.contains(name)), "{error}");
    let error = inspect("an-overlong-interface-name")?.expect_err("absent");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = inspect("lo")?.expect_err("no Ethernet");
    assert!(matches!(&error, Error::NotEthernet { link_type, .. } if link_type == "loopback"), "{error}");
    let mut names = within(&netns, async || device::interfaces().await)??;
    names.sort();
    assert_eq!(names, ["lo", "wan", "wan-far"]);
    Ok(())
}

#[test]
fn namespaces_have_tags_of_their_own() -> Result<()> {
    let (one, other) = (namespace("dev-tag")?, namespace("dev-tag")?);
    let tag = |netns: &Netns| -> Result<Option<u64>> { Ok(netns.enter(device::netns_tag)??) };
    let first = tag(&one)?.context("a namespace of the test's own is not the host's")?;
    assert_eq!(tag(&one)?, Some(first));
    assert_ne!(tag(&other)?, Some(first));
    drop(one);
    assert_ne!(tag(&namespace("dev-tag")?)?, Some(first), "a dead namespace's tag must not come back");
    Ok(())
}

#[test]
fn bpffs_is_mounted_once() -> Result<()> {
    mtd_tests::require_root();
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    let missing = path.join("missing");
    std::thread::scope(|scope| {
        scope
            .spawn(|| -> Result<()> {
                // A mount namespace for this thread alone, with which the mount disappears.
                unshare(CloneFlags::CLONE_NEWNS)?;
                let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
                assert!(device::bpffs::ensure_mounted(path)?);
                assert!(!device::bpffs::ensure_mounted(path)?, "mounted already");
                std::fs::create_dir(path.join("pins"))?;
                assert!(!device::bpffs::ensure_mounted(path.join("pins"))?, "inside a mounted one");
                let error =
                    device::bpffs::ensure_mounted(&missing).expect_err("no such directory").to_string();
                assert!(error.contains("missing") && error.contains("sysfs"), "{error}");
                Ok(())
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })
}
