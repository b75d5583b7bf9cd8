//! What the programs are told of their surroundings: addresses, MTU, what is enforced.

use tracing::{error, info};

use super::{Maps, Sessions};
use crate::config::Config;
use crate::controller::host::{followed_mtu, protected_prefixes};
use crate::dataplane::{Plane, Settings, XdpMode};
use crate::device::Underlay;
use crate::enforcement;
use crate::model::{Enforcement, Guard};
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
    /// The underlay is not what it was: other addresses, another MAC address (requirement MT-45), another MTU.
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

    /// Confirms what is enforced.
    ///
    /// # Errors
    /// When it is too late, or the maps fail.
    pub fn confirm(&mut self) -> anyhow::Result<status::Guard> {
        let now = self.clock.read().boot;
        self.set_guard(enforcement::confirmed(&self.told.guard, now.0)?)
    }

    /// Changes what is enforced. What is allowed stays.
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

    /// What is enforced.
    pub const fn guard(&self) -> &Guard {
        &self.told.guard
    }

    /// Whether nobody has confirmed in time what is enforced.
    pub fn is_unconfirmed(&self) -> bool {
        self.told.guard.is_over(self.clock.read().boot.0)
    }
}
