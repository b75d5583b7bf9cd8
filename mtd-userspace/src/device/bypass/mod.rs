//! Routes into the tunnel device that cover what mtd's own packets need: everything, or the networks of the underlay.
//!
//! As `wg-quick` does it: such routes are in a table of their own. A rule sends what has not mtd's mark there, behind another
//! one by which the main table's routes come first, without its default routes. What has the mark meets neither of them, so it
//! is routed as it would be without mtd. Rules and routes carry a protocol number of their own, so that mtd touches no others.

mod rules;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteProtocol;

use self::rules::Rule;
use super::error::Result;
use super::netlink::Netlink;
use crate::model::is_everything;

/// Who made a route or a rule ("m"); no number of the kernel's or of iproute2's list.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(109);

/// The first mark that is tried where none is configured ("mt").
const FIRST_NUMBER: u32 = 0x6d74;

/// How many marks are tried.
const TRIES: u32 = 256;

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// How mtd's own packets get past the routes into a tunnel device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bypass {
    /// Their mark, and the number of the routing table for routes that would catch them.
    pub number: u32,
    /// The networks that they go to or begin in.
    pub outer: Vec<IpNet>,
    /// Nothing else leaves this host past the tunnel.
    pub kill_switch: bool,
}

impl Bypass {
    /// Whether a route into the tunnel device belongs in the table of its own.
    pub fn takes(&self, net: &IpNet) -> bool {
        is_everything(net) || self.outer.iter().any(|outer| net.contains(outer))
    }

    /// Brings rules and table to what they should be, for these routes into the device with this name and index. Notes what
    /// was changed.
    pub(super) async fn sync(
        &self,
        netlink: &Netlink,
        (name, index): (&str, u32),
        wanted: &BTreeMap<IpNet, Option<u32>>,
        changes: &mut Vec<String>,
    ) -> Result<()> {
        for family in FAMILIES {
            let needed = self.kill_switch || wanted.keys().any(|net| super::route::family_of(net) == family);
            // The table first, and the rules in their order: nothing is caught before its way is there.
            table::sync(netlink, (name, index), (family, self), wanted, changes).await?;
            let rules = if needed { Rule::all(self.number) } else { Vec::new() };
            rules::sync(netlink, family, self.number, &rules, changes).await?;
        }
        Ok(())
    }
}

/// A number that no rule has as its mark or table, and whose table is empty.
///
/// # Errors
/// [`super::Error::NoMark`] when there is none, [`super::Error::Netlink`].
pub async fn free_mark() -> Result<u32> {
    let netlink = Netlink::open()?;
    let mut taken = BTreeSet::new();
    for family in FAMILIES {
        taken.extend(rules::numbers(&netlink, family).await?);
    }
    for number in (FIRST_NUMBER..FIRST_NUMBER + TRIES).filter(|number| !taken.contains(number)) {
        if table::is_empty(&netlink, number).await? {
            return Ok(number);
        }
    }
    Err(super::Error::NoMark)
}

/// Checks that mtd can use this number: its table holds nobody else's routes.
///
/// # Errors
/// [`super::Error::TableTaken`], [`super::Error::Netlink`].
pub async fn require_own_table(number: u32) -> Result<()> {
    if table::is_own(&Netlink::open()?, number).await? {
        Ok(())
    } else {
        Err(super::Error::TableTaken { number })
    }
}

/// Removes mtd's rules and routes with this number. False when there were none.
///
/// # Errors
/// [`super::Error::Netlink`].
pub async fn remove_bypass(number: u32) -> Result<bool> {
    let netlink = Netlink::open()?;
    let mut changes = Vec::new();
    for family in FAMILIES {
        // The rules first: nothing goes to a table that is incomplete.
        rules::sync(&netlink, family, number, &[], &mut changes).await?;
        table::clear(&netlink, family, number, &mut changes).await?;
    }
    Ok(!changes.is_empty())
}

/// Removes what is mtd's with other numbers than those `used`: left by a controller of which nothing else is known any more.
/// Returns the numbers.
///
/// # Errors
/// [`super::Error::Netlink`].
pub async fn remove_other_bypasses(used: &[u32]) -> Result<Vec<u32>> {
    let mut left = BTreeSet::new();
    {
        let netlink = Netlink::open()?;
        for family in FAMILIES {
            left.extend(rules::own_numbers(&netlink, family).await?);
        }
    }
    left.retain(|number| !used.contains(number));
    for &number in &left {
        remove_bypass(number).await?;
    }
    Ok(left.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_would_catch_own_packets_are_taken() {
        let bypass =
            Bypass { number: 28_020, outer: vec!["2001:db8:1::/64".parse().unwrap()], kill_switch: false };
        for (net, taken) in [
            ("::/0", true),
            ("0.0.0.0/0", true),
            ("8000::/1", true),
            ("128.0.0.0/1", true),
            ("2001:db8::/32", true),
            ("2001:db8:1::/64", true),
            ("2001:db8:1::5/128", false),
            ("2001:db8:2::/48", false),
            ("10.0.0.0/8", false),
        ] {
            assert_eq!(bypass.takes(&net.parse().unwrap()), taken, "{net}");
        }
    }
}
