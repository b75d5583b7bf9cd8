//! A loaded data plane.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use mtd_common::abi::{Route, RouteKey, Session, SessionState, Slot};
use mtd_common::keystream::RING;
use mtd_common::session_note::SessionNote;
use tracing::warn;

use super::error::{Error, errno};
use super::filter::Policies;
use super::groups::{self, Group};
use super::keystream::{self, Maker};
use super::links::{self, XdpMode};
use super::maps::{self, Maps};
use super::object::{self, ADVERTISE, OBJECT, RECEIVE, SEND, TAKE};
use super::pins::{self, Place};
use super::programs::describe;
use super::settings::{Capacity, Settings};
use super::{stages, steering};
use crate::model::{Counts, LinkMode, Program, SessionTraffic, XdpChoice};
use crate::proto::slots::SlotMaps;

/// The programs and maps, loaded into the kernel. Dropping it closes the descriptors; pinned objects stay.
pub struct Plane {
    ebpf: Ebpf,
    maps: Maps,
    capacity: Capacity,
    adopted: bool,
    maker: Option<Maker>,
    /// Where the maps are pinned.
    pins: Option<PathBuf>,
}

impl Plane {
    /// Loads programs and maps without pins, so that they end with this value: for tests and reports.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(capacity: Capacity) -> Result<Self, Error> {
        Self::load_object(OBJECT, capacity)
    }

    /// The same with another object than the one that is built in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load_object(object: &[u8], capacity: Capacity) -> Result<Self, Error> {
        Self::load_with(EbpfLoader::new(), object, capacity, false)
    }

    /// Loads the programs, with the maps pinned under `pins`. Of each group, the pinned maps are used if they fit; otherwise
    /// new ones replace them when the programs are attached. Also returns why the maps of the sessions did not fit; for the
    /// other groups, the reason is logged.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load_pinned(capacity: Capacity, pins: &Path) -> Result<(Self, Option<String>), Error> {
        Self::load_pinned_object(OBJECT, capacity, pins)
    }

    /// The same with another object than the one that is built in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load_pinned_object(
        object: &[u8],
        capacity: Capacity,
        pins: &Path,
    ) -> Result<(Self, Option<String>), Error> {
        let place = Place::prepare(capacity, pins)?;
        let mut loader = EbpfLoader::new();
        for shape in &groups::shapes(capacity) {
            loader.map_pin_path(shape.name, place.pin(shape.group, shape.name));
        }
        let adopted = place.adopts_sessions();
        let mut plane = Self::load_with(loader, object, capacity, adopted).inspect_err(|_| {
            // The error to report is the first one.
            let _ = place.give_up();
        })?;
        for (group, why) in place.replaced_beside() {
            warn!(
                "the attached maps of the group {} do not fit and are replaced; sessions go on ({why})",
                group.name()
            );
        }
        plane.pins = Some(pins.to_owned());
        Ok((plane, place.misfit(Group::Core).map(str::to_owned)))
    }

    fn load_with(
        mut loader: EbpfLoader<'_>,
        object: &[u8],
        capacity: Capacity,
        adopted: bool,
    ) -> Result<Self, Error> {
        for shape in groups::shapes(capacity) {
            loader.map_max_entries(shape.name, shape.max_entries);
        }
        loader.map_max_entries(steering::QUEUES, steering::queues());
        loader.map_max_entries(keystream::ELEMENTS, (capacity.lanes * RING as u32).max(1));
        let mut ebpf = loader.load(object).map_err(object_error)?;
        load_programs(&mut ebpf)?;
        stages::fill(&mut ebpf)?;
        let maker = if capacity.lanes > 0 { Some(Maker::new(&mut ebpf)?) } else { None };
        let maps = Maps::new(&mut ebpf, capacity, adopted)?;
        Ok(Self { ebpf, maps, capacity, adopted, maker, pins: None })
    }

    /// Whether the maps come from an earlier controller.
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// The capacity of the maps.
    pub const fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Gives the programs their settings. Without settings, they pass everything.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn configure(&mut self, settings: &Settings) -> Result<(), Error> {
        self.maps.set_guard(&settings.guard.settings())?;
        self.maps.addresses().load_by_port(settings.has_single_addresses());
        self.maps.set_dataplane(&settings.element(self.capacity.ring_bits(), self.maps.layout()))
    }

    /// Attaches the programs and pins them: the send program to the inside end of the tunnel device, the receive program to
    /// the underlay, and the one that answers neighbour solicitations as well, if `link` needs it. Programs that are already
    /// attached are replaced without a gap.
    ///
    /// # Errors
    /// When the kernel refuses; programs attached until then stay, and [`remove_pins`] removes them.
    pub fn attach(
        &mut self,
        underlay: &str,
        inside: &str,
        choice: XdpChoice,
        link: LinkMode,
    ) -> Result<XdpMode, Error> {
        self.attach_send(inside)?;
        let pins = self.pins.as_deref().ok_or(Error::NotPinned)?;
        match link {
            LinkMode::Routed => links::stop_advertising(pins)?,
            LinkMode::OnLink | LinkMode::Shared => {
                links::advertise(classifier(&mut self.ebpf, ADVERTISE)?, underlay, pins)?;
            }
        }
        let mode = links::receive(xdp_program(&mut self.ebpf, RECEIVE)?, underlay, choice, pins)?;
        pins::settle(pins, self.capacity)?;
        Ok(mode)
    }

    /// Attaches the send program alone, and pins it.
    ///
    /// # Errors
    /// As [`Plane::attach`].
    pub fn attach_send(&mut self, inside: &str) -> Result<(), Error> {
        let pins = self.pins.as_deref().ok_or(Error::NotPinned)?;
        links::send(classifier(&mut self.ebpf, SEND)?, inside, pins)
    }

    /// Lets the packets of busy sessions be opened on these CPUs too. With fewer than two, packets are opened where they
    /// arrive, as without this call.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn steer(&mut self, cpus: &[u32]) -> Result<(), Error> {
        let program = xdp_program(&mut self.ebpf, TAKE)?.fd().and_then(|fd| Ok(fd.try_clone()?));
        let program = program.map_err(program_error(TAKE))?;
        steering::set(&mut self.ebpf, &program, cpus)
    }

    /// The loaded receive program, for test runs.
    ///
    /// # Errors
    /// When the object has none.
    pub fn receive_program(&mut self) -> Result<&mut Xdp, Error> {
        xdp_program(&mut self.ebpf, RECEIVE)
    }

    /// The loaded program of the CPUs to which received packets are handed, for reports.
    ///
    /// # Errors
    /// When the object has none.
    pub fn take_program(&mut self) -> Result<&mut Xdp, Error> {
        xdp_program(&mut self.ebpf, TAKE)
    }

    /// The loaded send program, for test runs.
    ///
    /// # Errors
    /// When the object has none.
    pub fn send_program(&mut self) -> Result<&mut SchedClassifier, Error> {
        classifier(&mut self.ebpf, SEND)
    }

    /// The loaded program that answers neighbour solicitations, for test runs.
    ///
    /// # Errors
    /// When the object has none.
    pub fn advertise_program(&mut self) -> Result<&mut SchedClassifier, Error> {
        classifier(&mut self.ebpf, ADVERTISE)
    }

    /// The facts of a loaded program, for reports.
    ///
    /// # Errors
    /// When the object has none of this name.
    pub fn program_info(&self, name: &'static str) -> Result<ProgramInfo, Error> {
        let program = self.ebpf.program(name).ok_or(Error::Missing(name))?;
        program.info().map_err(program_error(name))
    }

    /// Loads a program once more, which takes the kernel this long, and unloads that copy.
    ///
    /// # Errors
    /// When the object has none of this name, or the kernel refuses.
    pub(super) fn reload_time(&mut self, name: &'static str) -> Result<Duration, Error> {
        let program = self.ebpf.program_mut(name).ok_or(Error::Missing(name))?;
        let unloaded = match program {
            aya::programs::Program::Xdp(program) => program.unload(),
            aya::programs::Program::SchedClassifier(program) => program.unload(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        unloaded.map_err(program_error(name))?;
        let started = Instant::now();
        load_program(program).map_err(program_error(name))?;
        Ok(started.elapsed())
    }

    /// The programs, as the kernel knows them. Needs no privileges, unlike [`super::programs`].
    pub fn programs(&self) -> Vec<Program> {
        let info = |name| self.ebpf.program(name)?.info().ok();
        object::ALL.into_iter().filter_map(info).map(|info| describe(&info)).collect()
    }

    /// The ring buffer of drop events; can be taken once.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, Error> {
        maps::events(&mut self.ebpf)
    }

    /// The ring buffer of control messages ([`mtd_common::control_record::ControlRecord`]); can be taken once.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn take_control(&mut self) -> Result<RingBuf<MapData>, Error> {
        maps::control(&mut self.ebpf)
    }

    /// The maker of key stream; can be taken once. `None` without lanes.
    pub const fn take_maker(&mut self) -> Option<Maker> {
        self.maker.take()
    }

    /// The object, for the logger of debug builds.
    pub const fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// An element of the session table.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn session(&self, index: u32) -> Result<Session, Error> {
        self.maps.session(index)
    }

    /// Sets an element of the session table.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn set_session(&mut self, index: u32, value: Session) -> Result<(), Error> {
        self.maps.set_session(index, value)
    }

    /// The state that the programs keep of a session.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn session_state(&self, index: u32) -> Result<SessionState, Error> {
        self.maps.state(index)
    }

    /// The traffic of a session; none if `index` is not below the capacity.
    pub fn session_traffic(&self, index: u32) -> SessionTraffic {
        self.maps.traffic(index).unwrap_or_default()
    }

    /// Inner packets that a session has sent and the least path of IPv6 would not carry; 0 if `index` is not below the capacity.
    pub fn long_sent(&self, index: u32) -> u64 {
        self.maps.long_sent(index).unwrap_or_default()
    }

    /// Cuts what a session sends in two if it is longer than this; 0: nothing.
    pub fn set_longest(&mut self, index: u32, bytes: u32) {
        self.maps.set_longest(index, bytes);
    }

    /// Sets the state that the programs keep of a session. Only while no slot of the session is loaded: otherwise the
    /// programs change it at the same time, and marks of used sequence numbers would be lost.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn set_session_state(&mut self, index: u32, value: SessionState) -> Result<(), Error> {
        self.maps.set_state(index, &value)
    }

    /// What a controller noted about a session for the next one.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn session_note(&self, index: u32) -> Result<SessionNote, Error> {
        self.maps.note(index)
    }

    /// Notes what the next controller needs to go on with a session.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn set_session_note(&mut self, index: u32, value: &SessionNote) -> Result<(), Error> {
        self.maps.set_note(index, value)
    }

    /// Replaces all routes by `routes` (prefix length in bits of the key, key, session).
    ///
    /// # Errors
    /// When there are too many.
    pub fn replace_routes(&mut self, routes: &[(u32, RouteKey, Route)]) -> Result<(), Error> {
        self.maps.replace_routes(routes)
    }

    /// Sets one route, replacing any earlier one.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_route(&mut self, length: u32, key: RouteKey, route: Route) -> Result<(), Error> {
        self.maps.set_route(length, key, route)
    }

    /// Removes one route. A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_route(&mut self, length: u32, key: RouteKey) -> Result<(), Error> {
        self.maps.remove_route(length, key)
    }

    /// Removes the addresses for which `keep` (index of the session, slot) is false, and repairs what an interrupted
    /// controller left. To be called once after adopting maps, when the sessions' own slots are loaded.
    pub fn retain_slots(&mut self, keep: impl Fn(u32, &Slot) -> bool) {
        self.maps.addresses().retain(keep);
    }

    /// The policies of the sessions' filters.
    pub const fn policies(&mut self) -> &mut Policies {
        self.maps.policies()
    }

    /// The counters of the programs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counts(&self) -> Result<Counts, Error> {
        self.maps.counts()
    }

    /// The places where slots are loaded.
    pub const fn slots(&mut self) -> &mut (impl SlotMaps<Error = Error> + use<>) {
        self.maps.addresses()
    }
}

fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(program_error(name))
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(program_error(name))
}

/// Loads all programs, each in a thread of its own: nearly all of the time goes into the kernel's verifier, which works on
/// several at a time.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), Error> {
    let results: Vec<Result<(), Error>> = thread::scope(|scope| {
        let threads: Vec<_> = ebpf
            .programs_mut()
            .filter_map(|(name, program)| {
                let name = object::ALL.into_iter().find(|known| *known == name)?;
                Some((name, thread::Builder::new().spawn_scoped(scope, move || load_program(program))))
            })
            .collect();
        let loaded = |name| threads.iter().any(|(found, _)| *found == name);
        let missing = object::ALL.into_iter().find(|name| !loaded(*name)).map(Error::Missing);
        let ended = threads.into_iter().map(|(name, thread)| {
            let result = thread.map_err(Error::Thread)?.join().unwrap_or_else(|panic| resume_unwind(panic));
            result.map_err(program_error(name))
        });
        ended.chain(missing.map(Err)).collect()
    });
    results.into_iter().collect()
}

fn load_program(program: &mut aya::programs::Program) -> Result<(), ProgramError> {
    match program {
        aya::programs::Program::Xdp(program) => program.load(),
        aya::programs::Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn object_error(error: EbpfError) -> Error {
    if errno(&error) == Some(libc::EPERM) { Error::NotPermitted } else { Error::Object(Box::new(error)) }
}

pub(super) fn program_error(program: &'static str) -> impl FnOnce(ProgramError) -> Error {
    move |source| match source {
        ProgramError::LoadError { ref io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            Error::NotPermitted
        }
        cause => Error::Program { program, cause: Box::new(cause) },
    }
}
