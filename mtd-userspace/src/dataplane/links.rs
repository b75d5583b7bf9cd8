//! Attaching the programs so that they outlive the controller.

use std::fs;
use std::mem;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaMode};
use aya::util::KernelVersion;

use super::error::{Error, errno};
use super::object::{RECEIVE, SEND};

use crate::model::XdpChoice;

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
        pins.join("links").join(format!("receive-{}", self.name()))
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
                let link = program.take_link(id).map_err(attach_error(RECEIVE, interface))?;
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
    Err(attach_error(RECEIVE, interface)(failure.unwrap_or(ProgramError::NotLoaded)))
}

/// Attaches the send program, or replaces the program of a pinned link.
pub(super) fn send(program: &mut SchedClassifier, interface: &str, pins: &Path) -> Result<(), Error> {
    let attach_error = || attach_error(SEND, interface);
    let pin = pins.join("links").join("send");
    // Linux 6.6 introduced tcx, whose links can be pinned; before that, the filters of a qdisc stay without a pin.
    if !KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
        return send_by_qdisc(program, interface);
    }
    if pin.exists() {
        let attach = |link| -> Result<(), ProgramError> {
            let link = SchedClassifierLink::try_from(link).map_err(|_| ProgramError::NotAttached)?;
            let id = program.attach_to_link(link)?;
            program.take_link(id).map(release)
        };
        if replace(&pin, attach) {
            return Ok(());
        }
        fs::remove_file(&pin).map_err(Error::file(&pin))?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options).map_err(attach_error())?;
    let link = program.take_link(id).map_err(attach_error())?;
    keep(link, &pin, SEND)
}

fn send_by_qdisc(program: &mut SchedClassifier, interface: &str) -> Result<(), Error> {
    let attach_error = || attach_error(SEND, interface);
    // The qdisc may exist already, and there may be no filter to detach: only a failed attachment counts.
    let _ = qdisc_add_clsact(interface);
    let _ = qdisc_detach_program(interface, TcAttachType::Ingress, SEND);
    let id = program.attach(interface, TcAttachType::Ingress).map_err(attach_error())?;
    let link = program.take_link(id).map_err(attach_error())?;
    // Dropping it would detach. The filter goes with the tunnel device.
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
    let link = FdLink::try_from(link).map_err(|source| Error::Link { program, source: Box::new(source) })?;
    // The pin keeps the link; the descriptor can be closed.
    link.pin(pin).map(release).map_err(|source| Error::Pin { path: pin.to_owned(), source: Box::new(source) })
}

fn attach_error(program: &'static str, interface: &str) -> impl FnOnce(ProgramError) -> Error {
    move |source| {
        let remedy = match errno(&source) {
            Some(libc::EBUSY) => {
                "; another XDP program is there (see `ip link show`): detach it, or choose another interface"
            }
            Some(libc::EOPNOTSUPP) => "; this driver has no native mode: set xdp = \"generic\"",
            _ => "",
        };
        Error::Attach { program, interface: interface.to_owned(), source: Box::new(source), remedy }
    }
}
