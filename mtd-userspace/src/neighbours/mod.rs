//! Announcing the own addresses to the neighbours on the link, where packets come by neighbour discovery (`link = "on-link"` and
//! `"shared"`).
//!
//! A neighbour asks for an address by multicast, to a group that each address determines. A switch that snoops MLD sends that to
//! members only, and nobody is a member for an address that just came into being. So this host does not wait to be asked:
//! - Each router of the link is told of every own address, some seconds before its slot, by a solicitation from that address
//!   with the link-layer address in it (RFC 4861 section 7.2.3). Its later questions are unicast.
//! - For peers on the link itself, and for introductions, to which anybody may come, this host joins the groups.
//!
//! The programs answer whoever asks, with or without this.

mod plan;
mod sockets;

use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use self::plan::{BURST, Plan};
use self::sockets::{Groups, Solicitor};
use crate::config::Config;
use crate::device::{LinkRoutes, Underlay};
use crate::model::{LinkMode, Reading};
use crate::prometheus::{Kind, Text};
use crate::sessions::OwnAddress;
use crate::status::{Neighbours as Report, Status};
use crate::subsystem::{AfterEnd, Context, Subsystem};

/// Interval at which it is checked which addresses are to be announced.
const TURN: Duration = Duration::from_millis(250);

/// Turns after which routes and MAC address are read again.
const LOOK: u32 = 8;

/// The announcements of this host.
pub struct Neighbours {
    interface: String,
    work: Arc<tokio::sync::Mutex<Work>>,
    report: Arc<Mutex<Report>>,
}

/// What one turn works with.
struct Work {
    solicitor: Solicitor,
    groups: Groups,
    plan: Plan,
    mac: [u8; 6],
    routes: LinkRoutes,
}

impl Neighbours {
    /// Prepares the announcements; `None`: the prefixes are routed to this host.
    ///
    /// # Errors
    /// When the kernel gives no sockets.
    pub fn open(config: &Config, underlay: &Underlay) -> anyhow::Result<Option<Arc<Self>>> {
        if config.link == LinkMode::Routed {
            return Ok(None);
        }
        let work = Work {
            solicitor: Solicitor::open(&config.interface, underlay.ifindex)?,
            groups: Groups::open(underlay.ifindex)?,
            plan: Plan::default(),
            mac: underlay.mac,
            routes: LinkRoutes::default(),
        };
        Ok(Some(Arc::new(Self {
            interface: config.interface.clone(),
            work: Arc::new(tokio::sync::Mutex::new(work)),
            report: Arc::default(),
        })))
    }

    /// Announces what is due until the controller stops.
    async fn announce(self: Arc<Self>, context: Context) -> anyhow::Result<()> {
        let mut work = self.work.lock().await;
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut turn = 0_u32;
        loop {
            tokio::select! {
                () = context.shutdown().begun() => return Ok(()),
                _ = turns.tick() => {}
            }
            if turn.is_multiple_of(LOOK) {
                self.look(&mut work).await;
            }
            turn = turn.wrapping_add(1);
            let (now, due) = work.due(&context);
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            work.turn(&due, now, &mut report);
        }
    }

    /// Reads the surroundings again. Other neighbours have to be told anew.
    async fn look(&self, work: &mut Work) {
        let looked = async {
            let underlay = Underlay::inspect(&self.interface).await?;
            Ok::<_, crate::device::Error>((underlay.mac, LinkRoutes::inspect(underlay.ifindex).await?))
        };
        match looked.await {
            Ok((mac, routes)) => {
                if (mac, &routes) != (work.mac, &work.routes) {
                    work.plan.start_over();
                    (work.mac, work.routes) = (mac, routes);
                }
            }
            // The controller itself warns of an interface that has gone.
            Err(error) => debug!("{error}"),
        }
    }
}

impl Work {
    /// The addresses that have to be announced now.
    fn due(&mut self, context: &Context) -> (Reading, Vec<OwnAddress>) {
        self.plan.begin();
        let now = context.clock.read();
        let (plan, mut room) = (&mut self.plan, BURST);
        let due = context.sessions().own_addresses(plan::ahead, |key, slot| {
            let due = plan.is_due(key, slot, now.boot) && room > 0;
            room -= u64::from(due);
            due
        });
        self.plan.end();
        (now, due)
    }

    /// Announces addresses, as many as the rate allows.
    fn turn(&mut self, due: &[OwnAddress], now: Reading, report: &mut Report) {
        let mut done = 0;
        for own in due {
            if !self.tell_routers(own, now, report) || !self.join(own, now, report) {
                // The rest waits for the next turn.
                report.held_back += 1;
                break;
            }
            self.plan.announced(own.key, own.slot, now.boot);
            done += 1;
        }
        report.waiting = due.len() as u64 - done;
        self.groups.leave(now.boot);
        report.routers.clone_from(&self.routes.routers);
        report.groups = self.groups.count() as u64;
    }

    /// Tells all routers of an address. False: the rate does not allow it now.
    fn tell_routers(&mut self, own: &OwnAddress, now: Reading, report: &mut Report) -> bool {
        for &router in &self.routes.routers {
            if !self.plan.may_send(now.boot) {
                return false;
            }
            match self.solicitor.tell(router, own.address, self.mac) {
                Ok(()) => report.announced += 1,
                Err(error) => debug!("telling {router} of an address: {error}"),
            }
        }
        true
    }

    /// Joins the group of an address that a peer on the link, or somebody of whom nothing is known, will ask for. False: the
    /// rate does not allow it now.
    fn join(&mut self, own: &OwnAddress, now: Reading, report: &mut Report) -> bool {
        let on_link = |peer: Ipv6Addr| self.routes.is_on_link(peer);
        if !own.peer.map_or_else(|| self.routes.has_neighbours(), on_link) {
            return true;
        }
        if !self.plan.may_send(now.boot) {
            return false;
        }
        match self.groups.join(own.address, own.until) {
            Ok(true) => {}
            Ok(false) => report.groups_refused += 1,
            Err(error) => warn!("joining the group of an own address: {error}"),
        }
        true
    }
}

impl Subsystem for Neighbours {
    fn name(&self) -> &'static str {
        "neighbours"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let own = context.clone();
        context.tasks.spawn(self.name(), AfterEnd::Restart, move || Arc::clone(&self).announce(own.clone()));
        Ok(())
    }

    fn report(&self, _now: Reading, status: &mut Status) {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        status.neighbours = Some(report.clone());
    }

    fn metrics(&self, status: &Status, text: &mut Text) {
        let Some(neighbours) = &status.neighbours else { return };
        let counters = [
            (
                "mtd_neighbour_announcements_total",
                neighbours.announced,
                "Own addresses announced to routers.",
            ),
            (
                "mtd_neighbour_announcements_held_back_total",
                neighbours.held_back,
                "How often announcements had to wait because of their rate limit.",
            ),
            (
                "mtd_neighbour_groups_refused_total",
                neighbours.groups_refused,
                "Own addresses whose group was not joined because there are too many.",
            ),
        ];
        for (name, value, help) in counters {
            text.single(name, Kind::Counter, help, value);
        }
        let help = "Groups joined for solicitations of peers on the link.";
        text.single("mtd_neighbour_groups", Kind::Gauge, help, neighbours.groups);
    }
}
