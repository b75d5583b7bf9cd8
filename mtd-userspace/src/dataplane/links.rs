//! Attaching the programs so that they outlive the controller.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaMode};
use aya::util::KernelVersion;

use super::error::{Error, errno};
use super::object::{ADVERTISE, RECEIVE, SEND};
use super::pins::LINKS;
use crate::model::XdpChoice;
use crate::remedy::{Doing, clause};

/// Names of the folders in place of links that cannot be pinned begin with this; the name of the interface follows.
const FILTER_MARK: &str = "filter-";

/// How the receive program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack, behind the driver: slower, works with every driver.
    Generic,
}

impl XdpMode {
    /// Its name, as users know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> AyaMode {
        match self {
            Self::Native => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }

    /// The pin of its link. The mode is part of the name, since the kernel tells it only with difficulty.
    fn pin(self, pins: &Path) -> PathBuf {
        pins.join(LINKS).join(format!("receive-{}", self.name()))
    }
}

/// The mode of a pinned link, if there is one.
pub fn pinned_mode(pins: &Path) -> Option<XdpMode> {
    [XdpMode::Native, XdpMode::Generic].into_iter().find(|mode| mode.pin(pins).exists())
}

/// Attaches the receive program, or replaces the program of a pinned link.
pub(super) fn receive(
    program: &mut Xdp,
    interface: &str,
    choice: XdpChoice,
    pins: &Path,
) -> Result<XdpMode, Error> {
    if let Some(mode) = pinned_mode(pins) {
        let fits = match choice {
            XdpChoice::Auto => true,
            XdpChoice::Native => mode == XdpMode::Native,
            XdpChoice::Generic => mode == XdpMode::Generic,
        };
        let attach = |link| -> Result<(), ProgramError> {
            let link = XdpLink::try_from(link).map_err(|_| ProgramError::NotAttached)?;
            let id = program.attach_to_link(link)?;
            program.take_link(id).map(release)
        };
        if fits && replace(&mode.pin(pins), attach) {
            return Ok(mode);
        }
        // The link's interface is gone, or its mode is wrong: make room for a new link.
        let path = mode.pin(pins);
        fs::remove_file(&path).map_err(Error::file(path))?;
    }
    let modes: &[XdpMode] = match choice {
        XdpChoice::Auto => &[XdpMode::Native, XdpMode::Generic],
        XdpChoice::Native => &[XdpMode::Native],
        XdpChoice::Generic => &[XdpMode::Generic],
    };
    let mut failure = None;
    for &mode in modes {
        match program.attach(interface, mode.flag()) {
            Ok(id) => {
                let link = program.take_link(id).map_err(attach_error(RECEIVE, interface, false))?;
                keep(link, &mode.pin(pins), RECEIVE)?;
                return Ok(mode);
            }
            Err(error) if errno(&error) == Some(libc::EBUSY) => {
                failure = Some(error);
                break;
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(attach_error(RECEIVE, interface, modes == [XdpMode::Native])(
        failure.unwrap_or(ProgramError::NotLoaded),
    ))
}

/// Attaches the send program to the inside end of the tunnel device, or replaces the program of a pinned link.
pub(super) fn send(program: &mut SchedClassifier, interface: &str, pins: &Path) -> Result<(), Error> {
    let pin = pins.join(LINKS).join("send");
    if has_tcx() {
        classify(program, SEND, interface, &pin)
    } else {
        // The filter goes with the tunnel device.
        filter(program, SEND, interface)
    }
}

/// Attaches the program that answers neighbour solicitations to the underlay, or replaces the program of a pinned link.
pub(super) fn advertise(program: &mut SchedClassifier, interface: &str, pins: &Path) -> Result<(), Error> {
    if has_tcx() {
        return classify(program, ADVERTISE, interface, &advertise_pin(pins));
    }
    // First the mark, so that nothing is left if this process is killed in between.
    let mark = pins.join(LINKS).join(format!("{FILTER_MARK}{}", interface.replace('.', ":")));
    fs::create_dir_all(&mark).map_err(Error::file(&mark))?;
    filter(program, ADVERTISE, interface)
}

/// Detaches the program that answers neighbour solicitations, if it is attached.
pub(super) fn stop_advertising(pins: &Path) -> Result<(), Error> {
    let pin = advertise_pin(pins);
    match fs::remove_file(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file(pin)(error)),
        _ => {}
    }
    for (mark, interface) in marked_filters(pins) {
        // The interface may have gone, and the filter with it.
        let _ = qdisc_detach_program(&interface, TcAttachType::Ingress, ADVERTISE);
        fs::remove_dir(&mark).map_err(Error::file(mark))?;
    }
    Ok(())
}

/// The folders that stand for filters on underlays, and the names of those.
fn marked_filters(pins: &Path) -> Vec<(PathBuf, String)> {
    let marked = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some((entry.path(), name.strip_prefix(FILTER_MARK)?.replace(':', ".")))
    };
    let entries = fs::read_dir(pins.join(LINKS)).into_iter().flatten();
    entries.filter_map(Result::ok).filter_map(marked).collect()
}

fn advertise_pin(pins: &Path) -> PathBuf {
    pins.join(LINKS).join("advertise")
}

/// Linux 6.6 introduced tcx, whose links can be pinned; before that, the filters of a qdisc stay without a pin.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Attaches a TC program for what comes in by an interface, or replaces the program of the pinned link.
fn classify(
    program: &mut SchedClassifier,
    name: &'static str,
    interface: &str,
    pin: &Path,
) -> Result<(), Error> {
    let attach_error = || attach_error(name, interface, false);
    if pin.exists() {
        let attach = |link| -> Result<(), ProgramError> {
            let link = SchedClassifierLink::try_from(link).map_err(|_| ProgramError::NotAttached)?;
            let id = program.attach_to_link(link)?;
            program.take_link(id).map(release)
        };
        if replace(pin, attach) {
            return Ok(());
        }
        fs::remove_file(pin).map_err(Error::file(pin))?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options).map_err(attach_error())?;
    let link = program.take_link(id).map_err(attach_error())?;
    keep(link, pin, name)
}

/// The same by a filter of a qdisc.
fn filter(program: &mut SchedClassifier, name: &'static str, interface: &str) -> Result<(), Error> {
    let attach_error = || attach_error(name, interface, false);
    // The qdisc may exist already, and there may be no filter to detach: only a failed attachment counts.
    let _ = qdisc_add_clsact(interface);
    let _ = qdisc_detach_program(interface, TcAttachType::Ingress, name);
    let id = program.attach(interface, TcAttachType::Ingress).map_err(attach_error())?;
    let link = program.take_link(id).map_err(attach_error())?;
    // Dropping it would detach.
    mem::forget(link);
    Ok(())
}

/// Lets `attach` put its program into a pinned link. False when the link cannot be used any more.
fn replace(pin: &Path, attach: impl FnOnce(FdLink) -> Result<(), ProgramError>) -> bool {
    PinnedLink::from_pin(pin).is_ok_and(|link| attach(FdLink::from(link)).is_ok())
}

/// Closes the descriptor of a link that a pin keeps.
fn release<L>(link: L) {
    drop(link);
}

fn keep<L>(link: L, pin: &Path, program: &'static str) -> Result<(), Error>
where
    FdLink: TryFrom<L, Error = aya::programs::links::LinkError>,
{
    let link = FdLink::try_from(link).map_err(|cause| Error::Link { program, cause: Box::new(cause) })?;
    // The pin keeps the link; the descriptor can be closed.
    link.pin(pin).map(release).map_err(|cause| Error::Pin { path: pin.to_owned(), cause: Box::new(cause) })
}

/// `native`: the driver alone was asked.
fn attach_error(program: &'static str, interface: &str, native: bool) -> impl FnOnce(ProgramError) -> Error {
    move |source| {
        let remedy = match errno(&source) {
            Some(libc::EBUSY) if program == RECEIVE => {
                "; another XDP program is there (see `ip link show`): detach it, or choose another interface"
                    .to_owned()
            }
            // Drivers give many numbers for the same, such as ENOMEM for too few queues.
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ERANGE) if native => {
                "; the driver refuses native mode here (the kernel's log may say why): set xdp = \"auto\""
                    .to_owned()
            }
            Some(libc::ENOMEM) | None => String::new(),
            Some(number) => clause(Doing::Network, &io::Error::from_raw_os_error(number)),
        };
        Error::Attach { program, interface: interface.to_owned(), cause: Box::new(source), remedy }
    }
}
