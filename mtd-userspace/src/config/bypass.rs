//! Whether routes into the tunnel would catch mtd's own packets.

use ipnet::{IpNet, Ipv6Net};

use super::Config;
use crate::model::{FwMark, is_everything};

/// Longest prefix of a network that may come to contain the prefix of an interface, whichever that is.
const LONGEST_LINK: u8 = 64;

impl<K> Config<K> {
    /// The inner networks of all other ends that are configured.
    pub fn allowed(&self) -> impl Iterator<Item = &IpNet> {
        let peers = self.peers.iter().flat_map(|peer| &peer.allowed_ips);
        peers.chain(self.servers.iter().flat_map(|server| &server.allowed_ips))
    }

    /// The networks to which mtd's own packets go, or in which they begin, as far as they are known: own prefixes (`present` if
    /// they are those of the interface) and peers' prefixes.
    pub fn outer_networks(&self, present: &[Ipv6Net]) -> Vec<IpNet> {
        let own = if self.follow_prefix { present } else { &self.prefixes };
        let peers = self.peers.iter().map(|peer| &peer.prefix);
        own.iter().chain(peers).copied().map(IpNet::from).collect()
    }

    /// The inner networks whose routes would catch mtd's own packets, with `present` as above.
    pub fn catching(&self, present: &[Ipv6Net]) -> Vec<IpNet> {
        let outer = self.outer_networks(present);
        let catches = |net: &&IpNet| is_everything(net) || outer.iter().any(|outer| net.contains(outer));
        self.allowed().filter(catches).copied().collect()
    }

    /// Whether mtd's own packets need a mark: a route into the tunnel would catch them, or may do so in the next network.
    pub fn needs_mark(&self, present: &[Ipv6Net]) -> bool {
        let may_come = |net: &IpNet| net.addr().is_ipv6() && net.prefix_len() <= LONGEST_LINK;
        self.fwmark != FwMark::Off
            && (!self.catching(present).is_empty() || self.follow_prefix && self.allowed().any(may_come))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of a client with these lines at the top, and these `allowed_ips`.
    fn client(top: &str, allowed: &str) -> Config<()> {
        let text = format!(
            "interface = \"eth0\"\nprivate_key_file = \"k\"\n{top}\n[[server]]\nname = \"home\"\n\
             public_key = \"5Uj0lNkzaZnWLgVD2Bd3r9ev2n1HbBFDr7V0yrcqpyY=\"\nallowed_ips = [{allowed}]\n"
        );
        Config::parse(&text, "test").unwrap()
    }

    #[test]
    fn what_covers_everything_or_an_outer_network_needs_a_mark() {
        let own = "prefix = \"2001:db8:1::/64\"";
        for (top, allowed, catching, needed) in [
            (own, r#""::/0", "0.0.0.0/0""#, 2, true),
            (own, r#""::/1", "8000::/1""#, 2, true),
            (own, r#""128.0.0.0/1", "10.0.0.0/8""#, 1, true),
            (own, r#""2001:db8::/32""#, 1, true),
            (own, r#""2001:db8:1::/64""#, 1, true),
            (own, r#""2001:db8:2::/48", "10.0.0.0/8""#, 0, false),
            (own, r#""2001:db8:1::5/128""#, 0, false),
            ("prefix = \"2001:db8:1::/64\"\nfwmark = \"off\"", r#""::/0""#, 1, false),
            ("prefix = \"interface\"\nlink = \"shared\"", r#""2001:db8::/32""#, 0, true),
            ("prefix = \"interface\"\nlink = \"shared\"", r#""fd00::5/128", "10.0.0.0/8""#, 0, false),
        ] {
            let config = client(top, allowed);
            assert_eq!(config.catching(&[]).len(), catching, "{top} {allowed}");
            assert_eq!(config.needs_mark(&[]), needed, "{top} {allowed}");
        }
        let present = ["2001:db8:7::/64".parse().unwrap()];
        let config = client("prefix = \"interface\"\nlink = \"shared\"", r#""2001:db8::/32""#);
        assert_eq!(config.catching(&present).len(), 1);
    }

    #[test]
    fn a_kill_switch_that_would_cut_the_host_off_is_refused() {
        let refused = |lines: &str, allowed: &str| {
            let text = format!(
                "interface = \"eth0\"\nprefix = \"2001:db8:1::/64\"\nprivate_key_file = \"k\"\nkill_switch = true\n{lines}\n\
                 [[server]]\nname = \"home\"\npublic_key = \"5Uj0lNkzaZnWLgVD2Bd3r9ev2n1HbBFDr7V0yrcqpyY=\"\n\
                 allowed_ips = [{allowed}]\n"
            );
            Config::parse(&text, "test").err().map(|error| error.to_string())
        };
        assert_eq!(refused("", r#""::/0""#), None);
        assert!(refused("", r#""10.0.0.0/8""#).unwrap().contains("would cut the host off"));
        assert!(refused("fwmark = \"off\"", r#""::/0""#).unwrap().contains("no way out"));
    }
}
