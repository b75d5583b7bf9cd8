//! The tunnel addresses that a server has and assigns. They change this host's routes, so a server could capture hosts of
//! the client's own network with them: what is there already comes first.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Client, Trouble};
use crate::proto::clock::Reading;
use crate::proto::messages::Tunnel;

/// A tunnel address that is not used, although the server has or assigns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// The network of this host in which it lies.
    pub network: IpNet,
}

/// What this host has besides the tunnel, and what was refused because of it.
#[derive(Default)]
pub(super) struct Claims {
    /// The networks that it reaches by other ways than the tunnel.
    elsewhere: Arc<[IpNet]>,
    /// The first address that the last answer contained and that was refused.
    refused: Option<Refused>,
}

impl Client {
    /// The tunnel address that is not used because it lies in a network of this host, if there is one.
    pub const fn refused(&self) -> Option<Refused> {
        self.claims.refused
    }

    /// This host reaches these networks by other ways than the tunnel. Ends the sessions whose addresses lie in one of them,
    /// and returns whether there were any; a new session does without these addresses.
    pub fn set_elsewhere(&mut self, networks: &Arc<[IpNet]>, now: Reading) -> bool {
        if self.claims.elsewhere != *networks {
            self.claims.elsewhere = Arc::clone(networks);
            if self.trouble == Some(Trouble::AddressesTaken) {
                self.next_try = now.boot;
            }
        }
        let Some((own, servers)) = self.tunnel else { return false };
        let [v6, v4] = self.refusals(own, servers);
        let Some(refused) = v6.or(v4) else { return false };
        self.claims.refused = Some(refused);
        self.tunnel = None;
        self.abandon_attempt();
        self.rekey = None;
        let all: Vec<_> = self.sessions.iter().map(|active| active.id).collect();
        for id in all {
            self.remove(id);
        }
        self.fail(Trouble::AddressesTaken, now);
        true
    }

    /// Those of the tunnel addresses of this host and of the server that can be used. An IP version in which one of the two
    /// cannot is not used at all.
    ///
    /// # Errors
    /// When there is an address that is neither private nor allowed, or nothing is left.
    pub(super) fn admit(&mut self, own: Tunnel, servers: Tunnel) -> Result<(Tunnel, Tunnel), Trouble> {
        if !own.iter().chain(servers.iter()).all(|address| self.is_acceptable(address)) {
            return Err(Trouble::AddressesRefused);
        }
        let [v6, v4] = self.refusals(own, servers);
        let rest =
            |all: Tunnel| Tunnel { v6: all.v6.filter(|_| v6.is_none()), v4: all.v4.filter(|_| v4.is_none()) };
        let (own, servers) = (rest(own), rest(servers));
        self.claims.refused = v6.or(v4);
        if self.claims.refused.is_some() && servers == Tunnel::default() {
            return Err(Trouble::AddressesTaken);
        }
        Ok((own, servers))
    }

    /// Private addresses are acceptable; others the settings must allow.
    fn is_acceptable(&self, address: IpAddr) -> bool {
        is_private(address) || self.settings.allowed.iter().any(|net| net.contains(&address))
    }

    /// What is refused of the tunnel addresses of this host and of the server, in IPv6 and in IPv4.
    fn refusals(&self, own: Tunnel, servers: Tunnel) -> [Option<Refused>; 2] {
        let v6 = [own.v6, servers.v6].map(|address| address.map(IpAddr::V6));
        let v4 = [own.v4, servers.v4].map(|address| address.map(IpAddr::V4));
        [v6, v4].map(|[own, server]| {
            if let Some(refused) = server.and_then(|server| self.taken(server)) {
                return Some(refused);
            }
            // If the settings name the server's address, what it assigns in the same network is meant, too.
            let meant = |refused: &Refused| server.is_some_and(|server| refused.network.contains(&server));
            own.and_then(|own| self.taken(own)).filter(|refused| !meant(refused))
        })
    }

    /// The network of this host in which an address lies, unless the settings name the address: by a network that is no
    /// larger. `::/0` names nothing in particular.
    fn taken(&self, address: IpAddr) -> Option<Refused> {
        let networks = self.claims.elsewhere.iter().filter(|network| network.contains(&address));
        let network = *networks.max_by_key(|network| network.prefix_len())?;
        let names =
            |allowed: &&IpNet| allowed.contains(&address) && allowed.prefix_len() >= network.prefix_len();
        let named = self.settings.allowed.iter().any(|allowed| names(&allowed));
        (!named).then_some(Refused { address, network })
    }
}

/// Whether an address is private (RFC 4193, RFC 1918, RFC 6598).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_unique_local(),
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_private() || (first == 100 && second & 0xc0 == 64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MiddleboxChoice;
    use crate::proto::client::{Phase, Settings};
    use crate::proto::exchange::SECOND;
    use crate::proto::model::World;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A client with these `allowed_ips`, on a host with these networks.
    fn client(allowed: &[&str], elsewhere: &[&str]) -> Client {
        let identity = crate::keys::SecretKey::from_bytes([1; 32]);
        let server = crate::keys::SecretKey::from_bytes([2; 32]).public();
        let settings = Settings {
            identity,
            server,
            window: 900,
            keepalive: SECOND,
            period_ms: 0,
            allowed: nets(allowed),
            middlebox: MiddleboxChoice::Off,
        };
        let mut client = Client::new(settings, Box::new(|bytes| bytes.fill(1))).unwrap();
        client.claims.elsewhere = nets(elsewhere).into();
        client
    }

    fn tunnel(v6: &str, v4: &str) -> Tunnel {
        Tunnel { v6: v6.parse().ok(), v4: v4.parse().ok() }
    }

    #[test]
    fn a_server_captures_no_host_of_the_clients_network() {
        let (own, router) = (tunnel("fd00::2", "10.66.0.2"), tunnel("fd00::1", "192.168.1.1"));
        let home = ["192.168.1.0/24", "fd00:aa::/64"];
        let mut refusing = client(&[], &home);
        let (own_rest, rest) = refusing.admit(own, router).unwrap();
        assert_eq!((own_rest, rest), (tunnel("fd00::2", ""), tunnel("fd00::1", "")), "IPv6 goes on");
        let refused =
            Refused { address: "192.168.1.1".parse().unwrap(), network: "192.168.1.0/24".parse().unwrap() };
        assert_eq!(refusing.refused(), Some(refused));
        // The client's own address is a claim of the server's, too.
        let (_, rest) =
            refusing.admit(tunnel("fd00:aa::5", "10.66.0.2"), tunnel("fd00::1", "10.66.0.1")).unwrap();
        assert_eq!(rest, tunnel("", "10.66.0.1"));
        assert_eq!(refusing.admit(own, tunnel("", "192.168.1.1")), Err(Trouble::AddressesTaken));
        // A single host has a route of its own.
        assert_eq!(
            client(&[], &["10.66.0.1/32"]).admit(own, tunnel("", "10.66.0.1")),
            Err(Trouble::AddressesTaken)
        );
        assert_eq!(
            refusing.admit(own, tunnel("fd00::1", "10.66.0.1")),
            Ok((own, tunnel("fd00::1", "10.66.0.1")))
        );
        assert_eq!(refusing.refused(), None);
    }

    #[test]
    fn what_the_settings_name_is_meant() {
        let (own, server) = (tunnel("", "10.66.0.2"), tunnel("", "192.168.1.1"));
        for named in ["192.168.1.1/32", "192.168.1.0/24", "192.168.1.0/30"] {
            assert_eq!(
                client(&[named], &["192.168.1.0/24"]).admit(own, server),
                Ok((own, server)),
                "{named}"
            );
        }
        let assigned = tunnel("", "192.168.1.77");
        let mut named = client(&["192.168.1.1/32"], &["192.168.1.0/24"]);
        assert_eq!(named.admit(assigned, server), Ok((assigned, server)), "with its server's address");
        for unnamed in ["0.0.0.0/0", "192.168.0.0/16", "192.168.1.2/32"] {
            let admitted = client(&[unnamed], &["192.168.1.0/24"]).admit(own, server);
            assert_eq!(admitted, Err(Trouble::AddressesTaken), "{unnamed}");
        }
    }

    #[test]
    fn private_addresses_are_acceptable_and_others_by_name() {
        let server = tunnel("2001:db8::1", "");
        assert_eq!(client(&[], &[]).admit(server, server), Err(Trouble::AddressesRefused));
        assert!(client(&["2001:db8::/64"], &[]).admit(server, server).is_ok());
    }

    #[test]
    fn a_client_that_comes_into_such_a_network_gives_the_address_up_and_gets_it_back() {
        let mut world = World::open(1, 1);
        let now = world.hosts[1].now(world.boot);
        let (home, other) = (nets(&["fd00::/64"]).into(), nets(&["fd01::/64"]).into());
        assert!(!world.client(1).set_elsewhere(&other, now));
        assert_eq!(world.phase(1), Phase::Open);
        assert!(world.client(1).set_elsewhere(&home, now));
        world.act(1);
        world.run(60 * SECOND);
        assert_ne!(world.phase(1), Phase::Open);
        assert_eq!(world.client(1).trouble(), Some(Trouble::AddressesTaken));
        assert!(world.client(1).refused().is_some_and(|refused| refused.network.contains(&refused.address)));
        let now = world.hosts[1].now(world.boot);
        assert!(!world.client(1).set_elsewhere(&other, now));
        world.run(5 * SECOND);
        assert_eq!((world.phase(1), world.client(1).refused()), (Phase::Open, None));
    }
}
