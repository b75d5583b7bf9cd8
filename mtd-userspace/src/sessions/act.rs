//! Reporting events to the origins, and carrying out their requests.

use tracing::{debug, error, info, warn};

use super::effect::Effect;
use super::origin::{Origin, OriginId, Request, Seen};
use super::store::{Note, Store};
use super::{Maps, Sessions};
use crate::model::TunnelAddresses;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Publication, SendSlot, SessionId};
use crate::proto::packet;

/// Number of ticks in which all sessions that are not watched closely are checked once: a second.
const TURNS: u32 = 10;

impl<M: Maps> Sessions<M> {
    /// Reports the time and the programs' observations to every origin, then loads and unloads slots. Failures are logged
    /// and tried again at the next tick: the slots loaded ahead leave time to repair the cause.
    pub fn tick(&mut self) {
        let now = self.clock.read();
        self.take_written(now);
        self.look(now);
        if let Some(slept) = self.sleep.look(self.clock.slept()) {
            info!("this host has slept for {} s: sessions are looked after at once", slept.as_secs());
            self.origins.each(|_, origin| origin.handle_woken(now));
        }
        for ((origin, id), state) in self.table.rested(now.boot) {
            if let Some(origin) = self.origins.get(origin) {
                origin.handle_rested(id, Seen::of(&state), now);
            }
        }
        self.origins.each(|_, origin| origin.poll(now));
        self.act(now);
        self.observe(now);
        let mut failures = 0;
        self.table.load_all(now, |key, error| {
            // One line is enough: a full table is full for each of them.
            if failures == 0 {
                warn!("loading slots of {key:?}: {error}");
            }
            failures += 1;
        });
        self.probe_paths(now);
        self.forget_paths(now.boot);
        if let Err(error) = self.table.wipe(now.boot) {
            error!("wiping the keys of ended sessions: {error}");
        }
        if let Err(error) = self.table.route_again() {
            error!("routes: {error}");
        }
        self.refreshed = Some(now.boot);
    }

    /// Reports to the origins what the programs have seen of their sessions.
    fn look(&mut self, now: Reading) {
        self.turn = (self.turn + 1) % TURNS;
        for installed in self.table.iter().filter(|installed| !installed.is_introduction()) {
            let ((origin, id), index) = (installed.key, installed.index());
            let Some(origin) = self.origins.get(origin) else { continue };
            if (origin.watches_closely() || index.0 % TURNS == self.turn)
                && let Ok(state) = self.table.maps.state(index)
            {
                origin.handle_valid(id, Seen::of(&state), now);
            }
        }
    }

    /// Handles the results of writes to the state file.
    fn take_written(&mut self, now: Reading) {
        while let Some((note, result)) = self.store.as_ref().and_then(Store::next_written) {
            self.unsaved.note(result.as_ref(), now.boot);
            match note {
                Note::Reserved(reserved) => {
                    let done = result.is_ok();
                    self.origins.each(|_, origin| origin.handle_reserved(&reserved, done));
                }
                // Even if it could not be noted: clients must find this host.
                Note::Publishing(publication) => self.effect(Effect::Publish(*publication)),
                Note::Ended(_) | Note::Again => {}
            }
        }
        if self.store.as_ref().is_some_and(Store::is_idle) && self.unsaved.is_due(now.boot) {
            self.write(Note::Again);
        }
    }

    /// Carries out the requests of the origins until there are none left.
    pub(super) fn act(&mut self, now: Reading) {
        for id in self.origins.ids() {
            while let Some(request) = self.origins.get(id).and_then(Origin::next_request) {
                self.carry_out(id, request, now);
            }
        }
    }

    /// Installs the sessions with configured peers: at the start, where a failure ends it.
    pub(super) fn install_configured(&mut self, now: Reading) -> anyhow::Result<()> {
        let origin = OriginId::Configured;
        while let Some(request) = self.origins.get(origin).and_then(Origin::next_request) {
            match request {
                Request::Install(new) => self.table.install(origin, *new, None, now)?,
                Request::Route(id) => self.table.route((origin, id))?,
                other => self.carry_out(origin, other, now),
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, origin: OriginId, request: Request, now: Reading) {
        let done = match request {
            Request::Install(new) => {
                self.install(origin, *new, now);
                Ok(())
            }
            Request::Route(id) => {
                self.set_carrier((origin, id), now);
                let done = self.table.route((origin, id)).map_err(anyhow::Error::from);
                self.observer.routed((origin, id), done.is_ok());
                done
            }
            Request::Clock(id, offset) => self.table.set_clock((origin, id), offset).map_err(Into::into),
            Request::Untranslated(id) => {
                self.table.set_translated((origin, id), false).map_err(anyhow::Error::from)
            }
            Request::Rest(id) => self.table.rest((origin, id), now).map_err(Into::into),
            Request::Resume { id, offset, sequence, not_before } => {
                self.table.resume((origin, id), offset, (sequence, not_before), now)
            }
            Request::Remove(id) => {
                self.table.remove((origin, id), now);
                self.observer.removed((origin, id));
                Ok(())
            }
            Request::Transmit(id, packet) => {
                self.transmit(origin, id, &packet);
                Ok(())
            }
            Request::Control { id, about, message } => {
                if self.table.get((origin, about)).is_some() {
                    self.send_control(origin, id, None, &message);
                }
                Ok(())
            }
            Request::ControlIn { id, slot, message } => {
                self.send_control(origin, id, Some(slot), &message);
                Ok(())
            }
            Request::Answer { id, where_heard } => {
                self.table.answer((origin, id), where_heard).map_err(Into::into)
            }
            Request::Publish(publication) => {
                self.publish(publication);
                Ok(())
            }
            Request::Reserve(reserved) => {
                self.write(Note::Reserved(reserved));
                Ok(())
            }
            Request::Effect(effect) => {
                self.effect(effect);
                Ok(())
            }
        };
        if let Err(error) = done {
            warn!("a session of {origin:?}: {error:#}");
        }
    }

    fn publish(&mut self, publication: Publication) {
        if publication.ahead {
            // It bears the time of one that is noted.
            self.effect(Effect::Publish(publication));
        } else {
            self.write(Note::Publishing(Box::new(publication)));
        }
    }

    fn install(&mut self, id: OriginId, new: super::NewSession, now: Reading) {
        let Some(origin) = self.origins.get(id) else { return };
        let (session, [local, remote]) = (new.id, [new.local, new.remote].map(TunnelAddresses::from_map));
        let peer = new.negotiated_with();
        match self.table.install(id, new, origin.reserved(), now) {
            Ok(()) => {
                origin.handle_installed(local, remote);
                self.observer.installed((id, session), peer);
            }
            Err(error) => {
                warn!("a session cannot begin: {error:#}");
                origin.handle_not_installed(session, now);
            }
        }
    }

    fn transmit(&self, origin: OriginId, id: SessionId, packet: &[u8]) {
        if self.table.get((origin, id)).is_some()
            && let Err(error) = self.wire.transmit(packet)
        {
            debug!("sending a handshake message: {error}");
        }
    }

    /// Sends a control message through the session that it is about, in `slot` or where other packets are sent.
    pub(super) fn send_control(
        &self,
        origin: OriginId,
        id: SessionId,
        slot: Option<SendSlot>,
        message: &[u8],
    ) {
        let Some(installed) = self.table.get((origin, id)) else { return };
        let [source, destination] = installed.control_addresses();
        if let Err(error) = self.wire.inject(&packet::control(source, destination, message), slot) {
            debug!("sending a control message: {error}");
        }
    }

    fn write(&self, note: Note) {
        if let Some(store) = &self.store {
            store.note(note);
        }
    }

    pub(super) fn effect(&self, effect: Effect) {
        // The receiver goes when the controller stops.
        let _ = self.effects.send(effect);
    }
}
