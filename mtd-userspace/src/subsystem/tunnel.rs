//! The tunnel device while the controller runs: addresses from servers, routes for paths with a smaller MTU, and repairs
//! where somebody else has changed it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::lock;
use crate::device::{Bypass, Repaired, TunnelDevice, TunnelInfo};
use crate::sessions::Sessions;
use crate::status::Repairs;

/// After this many repairs within [`FIGHT`], somebody else is at work on the device too.
const MOST_REPAIRS: usize = 5;

/// See [`MOST_REPAIRS`]; also how long the device is then left alone before the next repair.
const FIGHT: Duration = Duration::from_mins(1);

/// The device as configured; sessions add to it.
pub struct Tunnel {
    configured: TunnelDevice,
    /// One change at a time, since each one sets up the whole device.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// What is known of the device.
#[derive(Default)]
struct State {
    /// The state that it was last brought to; `None`: it was not yet, or not successfully.
    done: Option<(TunnelDevice, TunnelInfo)>,
    /// Why it could not be brought to the state that is wanted now.
    problem: Option<String>,
    repairs: u64,
    last_repair: Option<String>,
    /// When it was repaired lately.
    recent: VecDeque<Instant>,
    /// Until when it is left alone.
    alone_until: Option<Instant>,
}

impl Tunnel {
    /// A device with this set-up, before any session adds to it.
    pub fn new(configured: TunnelDevice) -> Self {
        Self { configured, changing: tokio::sync::Mutex::default(), state: Mutex::default() }
    }

    /// The name of its outer end.
    pub fn name(&self) -> &str {
        &self.configured.name
    }

    /// The device as it was last seen; `None` if it was not yet brought to its state.
    pub fn info(&self) -> Option<TunnelInfo> {
        self.state().done.as_ref().map(|(_, info)| *info)
    }

    /// How mtd's own packets get past routes into the device, with the networks of these routes; `None`: there are none that
    /// would catch them.
    pub fn bypass(&self) -> Option<(Bypass, Vec<IpNet>)> {
        let state = self.state();
        let device = state.done.as_ref().map_or(&self.configured, |(device, _)| device);
        let (bypass, networks) = (device.bypass.clone()?, device.bypassed());
        (!networks.is_empty()).then_some((bypass, networks))
    }

    /// The mark of mtd's own packets; `None`: they have none.
    pub fn mark(&self) -> Option<u32> {
        self.configured.bypass.as_ref().map(|bypass| bypass.number)
    }

    /// Why the device could not be brought to its state; `None`: it was.
    pub fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    /// The repairs so far.
    pub fn repairs(&self) -> Repairs {
        let state = self.state();
        let (count, last) = (state.repairs, state.last_repair.clone());
        Repairs { count, last, contested: state.alone_until.is_some() }
    }

    /// Brings MTU, addresses and routes of the device to what they should be now, and makes it anew if it is gone. What
    /// somebody else has changed is a repair, which is logged and returned. Failures are logged.
    pub async fn update(&self, sessions: &Mutex<Sessions>) -> Vec<String> {
        let _alone = self.changing.lock().await;
        let wanted = lock(sessions).tunnel(&self.configured);
        let repaired = match wanted.repair().await {
            Ok(repaired) => repaired,
            Err(error) => {
                warn!("the tunnel device: {error}");
                self.state().problem = Some(error.to_string());
                return Vec::new();
            }
        };
        let Repaired { info, changes } = repaired;
        if let Err(error) = lock(sessions).handle_tunnel(&info) {
            warn!("the tunnel device {} is another one now: {error}", wanted.name);
        }
        self.note(wanted, info, changes)
    }

    /// Whether the device is left alone for now.
    pub fn is_left_alone(&self) -> bool {
        self.state().alone_until.is_some_and(|until| Instant::now() < until)
    }

    /// Notes the state that the device was brought to; returns the repairs among the changes.
    fn note(&self, wanted: TunnelDevice, info: TunnelInfo, mut changes: Vec<String>) -> Vec<String> {
        let now = Instant::now();
        let mut state = self.state();
        if let Some((_, before)) = &state.done
            && before.ifindex == info.ifindex
            && before.mac != info.mac
        {
            // It stays as somebody has set it; the programs were told.
            changes.push(format!("the other MAC address of {} followed", self.configured.name));
        }
        // Otherwise this controller wants something else than before, and the changes are its own.
        let unchanged = state.done.as_ref().is_some_and(|(before, _)| *before == wanted);
        state.done = Some((wanted, info));
        state.problem = None;
        if !unchanged || changes.is_empty() {
            state.alone_until.take_if(|until| *until + FIGHT <= now);
            return Vec::new();
        }
        let name = &self.configured.name;
        let what = changes.join(", ");
        state.repairs += 1;
        state.last_repair = Some(what.clone());
        state.recent.push_back(now);
        state.recent.retain(|repair| *repair + FIGHT > now);
        if state.recent.len() >= MOST_REPAIRS {
            warn!(
                "another program keeps changing {name}: {what}; it is left alone for {} s",
                FIGHT.as_secs()
            );
            state.recent.clear();
            state.alone_until = Some(now + FIGHT);
        } else {
            info!("somebody else has changed {name}, which is repaired: {what}");
        }
        changes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is consistent at any time, so poisoning can be ignored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: TunnelInfo = TunnelInfo { ifindex: 7, peer_ifindex: 6, mac: [2; 6] };

    fn device(mtu: u32) -> TunnelDevice {
        let (addresses, routes, narrow) = (Vec::new(), Vec::new(), Vec::new());
        TunnelDevice { name: "mtd0".to_owned(), mtu, addresses, routes, narrow, bypass: None }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_somebody_else_changed_is_a_repair() {
        let tunnel = Tunnel::new(device(1428));
        let change = || vec!["mtd0 brought up".to_owned()];
        assert!(tunnel.note(device(1428), INFO, change()).is_empty(), "the first set-up");
        assert!(tunnel.note(device(1400), INFO, change()).is_empty(), "other settings");
        assert!(tunnel.note(device(1400), INFO, Vec::new()).is_empty(), "nothing to do");
        assert_eq!(tunnel.repairs(), Repairs::default());
        assert_eq!(tunnel.note(device(1400), INFO, change()), change());
        let last = Some("mtd0 brought up".to_owned());
        assert_eq!(tunnel.repairs(), Repairs { count: 1, last, contested: false });
        let followed = tunnel.note(device(1400), TunnelInfo { mac: [4; 6], ..INFO }, Vec::new());
        assert_eq!(followed, ["the other MAC address of mtd0 followed"]);
        let anew = TunnelInfo { ifindex: 9, peer_ifindex: 8, mac: [6; 6] };
        assert_eq!(tunnel.note(device(1400), anew, change()), change(), "another device has another one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fight_ends_in_leaving_the_device_alone_for_a_while() {
        let tunnel = Tunnel::new(device(1428));
        let repair = |tunnel: &Tunnel| tunnel.note(device(1428), INFO, vec!["a route set".to_owned()]);
        repair(&tunnel);
        for _ in 1..MOST_REPAIRS {
            assert!(!repair(&tunnel).is_empty() && !tunnel.repairs().contested);
            tokio::time::advance(FIGHT / 20).await;
        }
        repair(&tunnel);
        assert!(tunnel.repairs().contested && tunnel.is_left_alone());
        tokio::time::advance(FIGHT).await;
        assert!(!tunnel.is_left_alone(), "it is tried again");
        assert!(tunnel.repairs().contested, "whether that lasts is not known yet");
        tunnel.note(device(1428), INFO, Vec::new());
        tokio::time::advance(FIGHT).await;
        tunnel.note(device(1428), INFO, Vec::new());
        assert!(!tunnel.repairs().contested, "it has lasted");
        for _ in 0..MOST_REPAIRS {
            tokio::time::advance(FIGHT / 2).await;
            repair(&tunnel);
            assert!(!tunnel.repairs().contested, "now and then is no fight");
        }
    }
}
