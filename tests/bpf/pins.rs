//! Which maps a new data plane takes over from the pinned one.

use std::path::{Path, PathBuf};

use mtd::dataplane::{Capacity, Plane, Settings, remove_pins};
use mtd::device::bpffs;
use mtd::model::{Guard, LinkMode};
use mtd_tests::require_root;

const CAPACITY: Capacity = Capacity { sessions: 16, slots: 8, lanes: 0 };

/// A folder for pins of this process alone. Dropping this removes the folder and its contents.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        require_root();
        bpffs::ensure_mounted(bpffs::DEFAULT_PATH).expect("the BPF file system");
        Self(Path::new(bpffs::DEFAULT_PATH).join(format!("mtdt-{}", std::process::id())).join("pins"))
    }

    /// Loads a data plane with these pins. Returns whether it takes over the existing sessions, and if not, why.
    fn load(&self) -> (Plane, bool, Option<String>) {
        let (plane, misfit) = Plane::load_pinned(CAPACITY, &self.0).expect("the programs");
        let adopted = plane.adopted();
        (plane, adopted, misfit)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The parent folder is removed together with the last folder in it.
        if let Err(error) = remove_pins(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

fn settings() -> Settings {
    Settings {
        tunnel_ifindex: 1,
        tunnel_mac: [2; 6],
        underlay_ifindex: 1,
        underlay_mac: [2; 6],
        prefixes: vec!["2001:db8:a::/64".parse().expect("a prefix")],
        link: LinkMode::Routed,
        inner_mtu: 1428,
        fwmark: 0,
        guard: Guard::default(),
    }
}

#[test]
fn maps_that_nobody_told_their_settings_are_replaced() {
    let pins = Pins::new();
    // As if a start had been killed between the two steps.
    let (plane, adopted, misfit) = pins.load();
    assert_eq!((adopted, misfit), (false, None));
    drop(plane);
    let (plane, adopted, misfit) = pins.load();
    assert!(!adopted, "a table of addresses without a key would have one bucket for all");
    assert!(misfit.as_deref().is_some_and(|why| why.contains("never told their settings")), "{misfit:?}");
    drop(plane);
}

#[test]
fn maps_with_settings_are_taken_over() {
    let pins = Pins::new();
    let (mut plane, _, _) = pins.load();
    plane.configure(&settings()).expect("the settings fit");
    drop(plane);
    let (plane, adopted, misfit) = pins.load();
    assert_eq!((adopted, misfit), (true, None));
    drop(plane);
}
