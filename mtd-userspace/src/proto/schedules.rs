//! Random courses of faults, against a reference model that knows no protocol: who runs and who is registered decides
//! who has a session in the end, whatever happened on the way there.

use std::collections::BTreeSet;

use super::client::Phase;
use super::exchange::SECOND;
use super::model::{Faults, MILLISECOND, Machine, World, network, tunnel};
use super::server::Admission;

const CLIENTS: usize = 3;

/// The expected state.
struct Reference {
    server: bool,
    /// Per client.
    running: [bool; CLIENTS + 1],
    registered: [bool; CLIENTS + 1],
}

impl Reference {
    fn registered(&self) -> Vec<usize> {
        (1..=CLIENTS).filter(|n| self.registered[*n]).collect()
    }

    fn session(&self, n: usize) -> bool {
        self.server && self.running[n] && self.registered[n]
    }
}

/// A course of events.
struct Course {
    world: World,
    reference: Reference,
    /// Networks that clients had, so that each move leads to another.
    moves: u16,
    sent: u64,
    log: Vec<String>,
}

impl Course {
    fn new(seed: u64) -> Self {
        let mut world = World::new(CLIENTS as u8, seed);
        world.start_server();
        (1..=CLIENTS).for_each(|n| world.start_client(n));
        let reference =
            Reference { server: true, running: [true; CLIENTS + 1], registered: [true; CLIENTS + 1] };
        Self { world, reference, moves: 100, sent: 0, log: Vec::new() }
    }

    fn note(&mut self, what: &str) {
        self.log.push(format!("{:.1} s: {what}", self.world.boot as f64 / 1e9 - 1000.0));
    }

    /// Something happens.
    fn event(&mut self) {
        let n = 1 + self.world.dice.below(CLIENTS as u64) as usize;
        match self.world.dice.below(13) {
            0 | 1 => {
                let mut roll = |most| self.world.dice.below(most);
                let faults = Faults {
                    loss: roll(300),
                    duplication: roll(300),
                    delay: roll(1500) * MILLISECOND + MILLISECOND,
                    absent: roll(500),
                    dht_gone: roll(4) == 0,
                };
                self.note(&format!("{faults:?}"));
                self.world.faults = faults;
            }
            2 => self.server_is_killed(),
            3 => self.server_restarts(false),
            4 => self.server_restarts(true),
            5 => self.client_restarts(n, false),
            6 => self.client_restarts(n, true),
            7 => self.client_stops(n),
            8 => self.clock_is_set(n),
            9 => self.client_moves(n),
            10 => self.registration_changes(n),
            11 => {
                self.note("all that was ever sent comes again");
                let heard: Vec<_> = self.world.heard.iter().rev().take(2000).cloned().collect();
                for packet in heard {
                    self.world.transmit(&packet);
                }
            }
            _ => {
                self.note("the server's clock is set");
                let step = self.world.dice.below(200) * SECOND;
                let ahead = self.world.dice.below(2) == 0;
                let wall = &mut self.world.hosts[0].wall;
                *wall = if ahead { *wall + step } else { *wall - step };
            }
        }
    }

    fn server_is_killed(&mut self) {
        self.note("the server is killed");
        self.world.hosts[0].machine = None;
        self.reference.server = false;
    }

    fn server_restarts(&mut self, cleanly: bool) {
        self.note(&format!(
            "the server starts again, {}",
            if cleanly { "stopped before" } else { "killed before" }
        ));
        if cleanly && self.reference.server {
            self.world.server().stop();
            self.world.act(0);
        }
        self.world.restart_server(&self.reference.registered());
        self.reference.server = true;
    }

    fn client_restarts(&mut self, n: usize, cleanly: bool) {
        self.note(&format!(
            "client {n} starts again, {}",
            if cleanly { "stopped before" } else { "killed before" }
        ));
        if cleanly && self.reference.running[n] {
            self.world.client(n).stop();
            self.world.act(n);
        }
        self.world.restart_client(n);
        self.reference.running[n] = true;
    }

    fn client_stops(&mut self, n: usize) {
        self.note(&format!("client {n} stops"));
        if self.reference.running[n] {
            self.world.client(n).stop();
            self.world.act(n);
            self.world.hosts[n].machine = None;
        }
        self.reference.running[n] = false;
    }

    fn clock_is_set(&mut self, n: usize) {
        // Against the server's: by less than a window.
        let by = self.world.dice.below(1600).cast_signed() - 800;
        self.note(&format!("the clock of client {n} is wrong by {by} s"));
        let right = self.world.hosts[0].wall;
        self.world.hosts[n].wall = right.wrapping_add_signed(by * 1_000_000_000);
    }

    fn client_moves(&mut self, n: usize) {
        self.moves += 1;
        self.note(&format!("client {n} moves"));
        let place = Some(network(self.moves));
        self.world.hosts[n].network = place;
        let now = self.world.hosts[n].now(self.world.boot);
        if let Some(Machine::Client(client)) = &mut self.world.hosts[n].machine {
            client.set_network(place, &[], now);
            self.world.act(n);
        }
    }

    fn registration_changes(&mut self, n: usize) {
        let registered = !self.reference.registered[n];
        self.note(&format!("client {n} is {}", if registered { "registered" } else { "removed" }));
        self.reference.registered[n] = registered;
        let (client, now) = (self.world.hosts[n].identity.public(), self.world.hosts[0].now(self.world.boot));
        if let Some(Machine::Server(server)) = &mut self.world.hosts[0].machine {
            if registered {
                server.register(Admission::new(client, tunnel(n as u8 + 1)), now);
            } else {
                server.remove(&client, now);
            }
            self.world.act(0);
        }
    }

    /// Time passes, with traffic in it.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            for n in 1..=CLIENTS {
                self.sent += 1;
                let text = [self.sent.to_be_bytes(), (n as u64).to_be_bytes()].concat();
                self.world.send(n, 0, &text);
                self.world.send(0, n, &text);
            }
            self.world.run(SECOND);
            self.check_always();
        }
    }

    /// The invariants at any time.
    fn check_always(&mut self) {
        for n in 0..=CLIENTS {
            let known = match &self.world.hosts[n].machine {
                Some(Machine::Server(server)) => server.ids(),
                Some(Machine::Client(client)) => client.ids(),
                None => continue,
            };
            let installed = self.world.hosts[n].tables.ids();
            assert_eq!(installed, known, "host {n}: tables and machine disagree\n{}", self.log.join("\n"));
            assert!(known.len() <= 4 + 5 * CLIENTS, "host {n} has {} sessions", known.len());
        }
        for host in &self.world.hosts {
            let unique: BTreeSet<_> = host.delivered.iter().collect();
            assert_eq!(unique.len(), host.delivered.len(), "something came twice\n{}", self.log.join("\n"));
        }
    }

    /// The expected state once the faults are over.
    fn check_end(&mut self, seed: u64) {
        for n in 1..=CLIENTS {
            let (expected, log) = (self.reference.session(n), self.log.join("\n"));
            let running = self.reference.running[n];
            let phase = if running { self.world.phase(n) } else { Phase::Waiting };
            let trouble = if running { self.world.client(n).trouble() } else { None };
            assert_eq!(
                phase == Phase::Open,
                expected,
                "seed {seed}, client {n}: {phase:?}, {trouble:?}\n{log}"
            );
            if expected {
                for (from, to) in [(n, 0), (0, n)] {
                    self.sent += 1;
                    let text = self.sent.to_be_bytes();
                    assert!(
                        self.world.send(from, to, &text),
                        "seed {seed}: no way from {from} to {to}\n{log}"
                    );
                    self.world.run(SECOND / 2);
                    let arrived = self.world.hosts[to].delivered.iter().any(|t| *t == text);
                    assert!(arrived, "seed {seed}: {from} to {to}\n{log}");
                }
            }
        }
        if self.reference.server {
            let open = (1..=CLIENTS).filter(|n| self.reference.session(*n)).count();
            let sessions = self
                .world
                .server()
                .sessions()
                .filter(|view| !view.closing && view.last_valid.happened())
                .count();
            assert_eq!(sessions, open, "seed {seed}: sessions of nobody\n{}", self.log.join("\n"));
        }
    }
}

#[test]
fn whatever_happens_every_session_ends_open_or_closed() {
    for seed in 0..200 {
        let mut course = Course::new(seed);
        course.run(2);
        for _ in 0..10 {
            course.event();
            let pause = course.world.dice.below(40);
            course.run(pause);
        }
        course.note("the faults are over");
        course.world.faults = Faults { delay: 20 * MILLISECOND, ..Faults::default() };
        // Longer than keys live: what a killed server has left in the tables is over by then.
        course.run(190);
        course.check_end(seed);
    }
}
