//! Tests of the configuration: where the web view is served.

use super::*;

fn with(web: &str) -> String {
    format!("{BASE}\n[web]\n{web}\n")
}

#[test]
fn the_web_view_is_served_where_the_file_says_and_nowhere_without_it() {
    let listen = |text: &str| Config::parse(text, "mtd.toml").unwrap().web;
    assert_eq!(listen(BASE), None);
    assert_eq!(listen(&with("")), Some(ip("[::1]:8674")));
    for address in ["127.0.0.1:8080", "127.1.2.3:65535", "[::1]:1"] {
        assert_eq!(listen(&with(&format!("listen = \"{address}\""))), Some(ip(address)));
    }
}

#[test]
fn addresses_that_others_reach_are_refused_with_the_way_to_come_from_elsewhere() {
    let outside = |ip: &str, port: u16| {
        format!(
            "{ip} is no loopback address, and the web view shows moving addresses; write [::1]:8674, and from \
             elsewhere come with ssh -L {port}:[::1]:{port} HOST"
        )
    };
    for (address, expected) in [
        ("[::]:8674", outside("::", 8674)),
        ("0.0.0.0:80", outside("0.0.0.0", 80)),
        ("192.0.2.1:8674", outside("192.0.2.1", 8674)),
        ("[2001:db8:3::1]:8674", outside("2001:db8:3::1", 8674)),
        ("[::ffff:127.0.0.1]:8674", outside("::ffff:127.0.0.1", 8674)),
        ("[::1]:0", "port 0 means a different port at each start; write it like [::1]:8674".to_owned()),
        ("localhost:1", "\"localhost:1\" is not an address with a port; write it like [::1]:8674".to_owned()),
        ("[::1]", "\"[::1]\" is not an address with a port; write it like [::1]:8674".to_owned()),
    ] {
        let text = with(&format!("listen = \"{address}\""));
        let line = text.lines().position(|line| line.starts_with("listen")).unwrap() + 1;
        assert_eq!(errors(&text), format!("mtd.toml:{line}:10: web.listen: {expected}"), "{address}");
    }
}
