//! What mtd leaves outside of the tests' namespaces is removed together with the namespaces.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::{exists, standard};
use crate::cleanup::{self, of_namespace};
use crate::controller::{Controller, End, Setup, mtd_program};
use crate::process::Running;
use crate::require_root;
use crate::runner::alone;
use crate::topology::{Delivery, Topology};

const SECONDS: Duration = Duration::from_secs(30);

/// A server with an attached data plane.
fn attached() -> (Topology, Setup) {
    let topology = standard();
    let setup = Setup::new(&topology.server, &End::new(1, &topology.server), Delivery::Routed).unwrap();
    let mut command = topology.server.netns.command(mtd_program().unwrap()).unwrap();
    command.args(["attach", &topology.server.ifname, "-c"]).arg(setup.write().unwrap());
    crate::run_to_end(command).unwrap();
    (topology, setup)
}

/// The pins and files of mtd that exist for the server.
fn remains(topology: &Topology) -> Vec<PathBuf> {
    of_namespace(topology.server.netns.cookie().unwrap()).unwrap()
}

#[test]
fn pins_go_with_their_namespace_even_in_a_panic() {
    let (other, _setup) = attached();
    let others = remains(&other);
    assert!(!others.is_empty());
    let mut cookie = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let (topology, setup) = attached();
        // A killed controller leaves more behind: lock and socket.
        let mut controller = setup.start(&topology.server.netns).unwrap();
        controller.process.kill().unwrap();
        cookie = topology.server.netns.cookie().unwrap();
        assert!(remains(&topology).len() > others.len(), "{:?}", remains(&topology));
        panic!("on purpose");
    }));
    assert!(result.is_err() && cookie > 0);
    assert_eq!(of_namespace(cookie).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(remains(&other), others, "those of others stay");
}

#[test]
#[ignore = "what the next test starts and kills"]
fn child() {
    let (topology, setup) = attached();
    let controller: Controller = setup.start(&topology.server.netns).unwrap();
    let netns = &topology.server.netns;
    println!("made {} {} {} ", netns.name(), netns.cookie().unwrap(), controller.process.pid());
    sleep(SECONDS);
}

/// A running child process, and what it has made.
struct Run {
    child: Running,
    namespace: String,
    cookie: u64,
    controller: PathBuf,
}

impl Run {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "selftest::remains::child", "--ignored", "--nocapture"]);
        let mut child = Running::spawn("child", command).unwrap();
        let line = child.wait_for_line("made ", SECONDS).unwrap();
        let words: Vec<&str> = line.split("made ").nth(1).unwrap().split(' ').collect();
        let (namespace, cookie) = (words[0].to_owned(), words[1].parse().unwrap());
        Self { child, namespace, cookie, controller: PathBuf::from("/proc").join(words[2]) }
    }

    /// Whether namespace, pins and controller exist. A process that has ended but was not reaped counts as gone.
    fn is_there(&self) -> [bool; 3] {
        let pinned = !of_namespace(self.cookie).unwrap().is_empty();
        [exists(&self.namespace), pinned, self.controller.join("exe").read_link().is_ok()]
    }
}

#[test]
fn what_a_killed_run_left_is_taken_away_and_nothing_else() {
    alone("any other test that starts takes away what is left here").unwrap();
    require_root();
    let [mut killed, mut lives] = [Run::start(), Run::start()];
    killed.child.kill().unwrap();
    assert_eq!([killed.is_there(), lives.is_there()], [[true; 3]; 2]);
    cleanup::sweep().unwrap();
    assert_eq!([killed.is_there(), lives.is_there()], [[false; 3], [true; 3]]);
    lives.child.kill().unwrap();
    cleanup::sweep().unwrap();
    assert_eq!(lives.is_there(), [false; 3]);
}
