//! The programs' settings that depend on their surroundings: addresses, MTU, enforcement.

use ipnet::{IpNet, Ipv6Net};
use mtd_common::aead::MAX_TEXT;
use mtd_common::packet::OVERHEAD;
use tracing::{error, info};

use super::{Maps, Sessions};
use crate::config::Config;
use crate::dataplane::{Plane, Settings, XdpMode};
use crate::device::{TunnelInfo, Underlay};
use crate::enforcement;
use crate::model::{Enforcement, Guard, MIN_INNER_MTU};
use crate::proto::session::network;
use crate::status;

impl Sessions<Plane> {
    /// Attaches the programs by calling `attach`.
    ///
    /// # Errors
    /// Those of `attach`.
    pub fn attach(
        &mut self,
        attach: impl FnOnce(&Config, &mut Plane) -> anyhow::Result<XdpMode>,
    ) -> anyhow::Result<()> {
        self.mode = Some(attach(&self.config, &mut self.table.maps)?);
        Ok(())
    }
}

impl<M: Maps> Sessions<M> {
    /// Handles a change of the underlay: other addresses, another MAC address (requirement MT-45), another MTU.
    pub fn handle_underlay(&mut self, underlay: &Underlay) {
        let told = Settings {
            prefixes: protected_prefixes(&self.config, underlay, &self.told.prefixes),
            underlay_mac: underlay.mac,
            inner_mtu: followed_mtu(&self.config, underlay.mtu),
            ..self.told.clone()
        };
        if told == self.told {
            return;
        }
        if let Err(error) = self.table.maps.configure(&told) {
            error!("telling the programs of a change of {}: {error}", self.config.interface);
            return;
        }
        if told.inner_mtu != self.told.inner_mtu {
            info!(
                "the MTU of {} is {}: that of the tunnel is {}",
                self.config.interface, underlay.mtu, told.inner_mtu
            );
            self.mtu_due = true;
        }
        let moved = told.prefixes != self.told.prefixes;
        self.told = told;
        if moved {
            let prefix = self.told.prefixes.first().copied();
            let shown = prefix.map_or_else(|| "none".to_owned(), |prefix| prefix.to_string());
            info!("{} has another global prefix: {shown}", self.config.interface);
            let now = self.clock.read();
            self.origins.each(|_, origin| origin.set_network(prefix.map(network), now));
            self.act(now);
        }
    }

    /// Handles that the tunnel device was made anew, or got another MAC address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn handle_tunnel(&mut self, tunnel: &TunnelInfo) -> anyhow::Result<()> {
        let told =
            Settings { tunnel_ifindex: tunnel.peer_ifindex, tunnel_mac: tunnel.mac, ..self.told.clone() };
        if told.tunnel_ifindex != self.told.tunnel_ifindex {
            self.table.maps.attach_send(&self.config.inside_device())?;
        }
        if told != self.told {
            self.table.maps.configure(&told)?;
            self.told = told;
        }
        self.wire.set_tunnel(tunnel);
        Ok(())
    }

    /// Confirms the present enforcement.
    ///
    /// # Errors
    /// When it is too late, or the maps fail.
    pub fn confirm(&mut self) -> anyhow::Result<status::Guard> {
        let now = self.clock.read().boot;
        self.set_guard(enforcement::confirmed(&self.told.guard, now.0)?)
    }

    /// Changes the policy. The allow rules stay.
    ///
    /// # Errors
    /// When the maps fail.
    pub fn set_policy(&mut self, asked: &Enforcement) -> anyhow::Result<status::Guard> {
        let (now, guard) = (self.clock.read().boot, &self.told.guard);
        self.set_guard(asked.decide(None, guard.allow.clone(), Some(guard), now.0))
    }

    fn set_guard(&mut self, guard: Guard) -> anyhow::Result<status::Guard> {
        let told = Settings { guard, ..self.told.clone() };
        self.table.maps.configure(&told)?;
        self.told = told;
        enforcement::announce(&self.told.guard, &self.config.interface, "the prefixes are");
        Ok(status::Guard::of(&self.told.guard, self.clock.read().boot.0))
    }

    /// The policy and allow rules in force.
    pub const fn guard(&self) -> &Guard {
        &self.told.guard
    }

    /// Whether the time to confirm is over without a confirmation.
    pub fn is_unconfirmed(&self) -> bool {
        self.told.guard.is_over(self.clock.read().boot.0)
    }
}

/// The prefixes to protect: those of the configuration, or the one that the interface has now (requirement MT-45).
/// `present` is kept as long as the interface still has it.
pub(crate) fn protected_prefixes(config: &Config, underlay: &Underlay, present: &[Ipv6Net]) -> Vec<Ipv6Net> {
    if !config.follow_prefix {
        return config.prefixes.clone();
    }
    let mut found: Vec<_> = underlay
        .addresses
        .iter()
        .filter_map(|net| match net {
            IpNet::V6(net) if net.prefix_len() == 64 && !net.addr().is_unicast_link_local() => {
                Some(net.trunc())
            }
            _ => None,
        })
        .collect();
    // A globally routed prefix is preferred to a unique local one.
    found.sort_by_key(|prefix| (!present.contains(prefix), prefix.addr().is_unique_local()));
    found.truncate(1);
    found
}

/// The largest MTU of the tunnel device for an underlay's MTU, in bytes.
pub(crate) fn possible_mtu(underlay: u32) -> u32 {
    underlay.saturating_sub(OVERHEAD as u32).min(MAX_TEXT as u32)
}

/// The same where the underlay's MTU has changed meanwhile: never less than IPv6 needs, and at most what is configured.
fn followed_mtu(config: &Config, underlay: u32) -> u32 {
    let largest = config.mtu.map_or(u32::MAX, u32::from);
    possible_mtu(underlay).clamp(MIN_INNER_MTU.into(), largest)
}
