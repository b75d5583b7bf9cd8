//! The programs' settings that depend on their surroundings: addresses, MTU, enforcement.

use std::collections::BTreeSet;

use ipnet::Ipv6Net;
use mtd_common::abi::MAX_PREFIXES;
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
            prefixes: self.follow(underlay),
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
            self.device_due = true;
        }
        let before = std::mem::replace(&mut self.told, told).prefixes;
        if before == self.told.prefixes {
            return;
        }
        // Other routes may be in the way now.
        self.device_due = true;
        let present = self.told.prefixes.first().copied();
        if present != before.first().copied() {
            let name = &self.config.interface;
            if let Some(prefix) = present {
                info!("the prefix of {name} is now {prefix}");
            } else {
                info!("{name} has no prefix any more");
            }
        }
        let usable: Vec<_> = self.told.prefixes.iter().skip(1).copied().map(network).collect();
        let now = self.clock.read();
        self.origins.each(|_, origin| origin.set_network(present.map(network), &usable, now));
        self.act(now);
    }

    /// The prefixes to protect: those of the configuration; or the one of the interface that is chosen, and behind it those
    /// in which sessions still are, while addresses in them work.
    fn follow(&mut self, underlay: &Underlay) -> Vec<Ipv6Net> {
        if !self.config.follow_prefix {
            return self.config.prefixes.clone();
        }
        let found = underlay.prefixes.as_deref().unwrap_or_default();
        self.lack = underlay.prefixes.as_ref().err().copied();
        let clients = &self.origins.clients;
        let blamed = !clients.is_empty() && clients.iter().all(|client| client.machine.blames_prefix());
        let chosen = self.place.choose(found, blamed, self.clock.read().boot);
        let Some(present) = chosen else { return Vec::new() };
        let mut prefixes = vec![present];
        if found.len() > 1 {
            let used: BTreeSet<_> =
                self.table.iter().map(|installed| installed.session.local.network.prefix).collect();
            let others = found.iter().map(|prefix| prefix.net).filter(|net| *net != present);
            prefixes.extend(others.filter(|net| used.contains(&network(*net).prefix)));
            prefixes.truncate(MAX_PREFIXES);
        }
        prefixes
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

/// The prefixes to protect at the start: those of the configuration, or the best one of the interface (requirement MT-45).
pub(crate) fn first_prefixes(config: &Config, underlay: &Underlay) -> Vec<Ipv6Net> {
    if !config.follow_prefix {
        return config.prefixes.clone();
    }
    underlay.prefixes.iter().flatten().map(|prefix| prefix.net).take(1).collect()
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
