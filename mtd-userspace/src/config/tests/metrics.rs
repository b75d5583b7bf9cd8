//! Tests of the configuration: where metrics are served.

use super::*;

fn with(metrics: &str) -> String {
    format!("{BASE}\n[metrics]\n{metrics}\n")
}

#[test]
fn metrics_are_served_where_the_file_says_and_nowhere_without_it() {
    let listen = |text: &str| Config::parse(text, "mtd.toml").unwrap().metrics;
    assert_eq!(listen(BASE), None);
    assert_eq!(listen(&with("")), Some(ip("[::1]:24633")));
    for address in ["127.0.0.1:9100", "[fd00:9::1]:1", "192.0.2.1:65535"] {
        assert_eq!(listen(&with(&format!("listen = \"{address}\""))), Some(ip(address)));
    }
}

#[test]
fn addresses_that_serve_nobody_or_everybody_are_refused() {
    for (address, expected) in [
        (
            "[::]:24633",
            "[::]:24633 stands for every address of this host, those on the Internet included; write one address, such \
             as [::1]:24633 or 127.0.0.1:24633",
        ),
        (
            "0.0.0.0:24633",
            "0.0.0.0:24633 stands for every address of this host, those on the Internet included; write one address, \
             such as [::1]:24633 or 127.0.0.1:24633",
        ),
        (
            "[2001:db8:3::1]:24633",
            "2001:db8:3::1 lies in the protected prefix 2001:db8:3::/80; write an address that strangers do not reach, \
             such as [::1]:24633",
        ),
        (
            "[::1]:0",
            "port 0 means a different port at each start; write it like [::1]:24633 or 127.0.0.1:24633",
        ),
        (
            "localhost:1",
            "\"localhost:1\" is not an address with a port; write it like [::1]:24633 or 127.0.0.1:24633",
        ),
        ("[::1]", "\"[::1]\" is not an address with a port; write it like [::1]:24633 or 127.0.0.1:24633"),
        (
            "[ff02::1]:24633",
            "ff02::1 is not an address that a host can have in a network; write a unicast address, such as \
             [::1]:24633 or 127.0.0.1:24633",
        ),
    ] {
        let text = with(&format!("listen = \"{address}\""));
        let line = text.lines().position(|line| line.starts_with("listen")).unwrap() + 1;
        assert_eq!(errors(&text), format!("mtd.toml:{line}:10: metrics.listen: {expected}"), "{address}");
    }
}
