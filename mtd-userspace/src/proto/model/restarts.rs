//! Machines that go on with what a killed one left.

use mtd_common::abi;

use super::tables::{Entry, Tables};
use super::{Machine, World, tunnel};
use crate::model::BootNs;
use crate::proto::exchange::SessionId;
use crate::proto::server::{Admission, Server};

impl World {
    /// Starts the server in place of one that was killed: sessions that it left in the tables go on.
    pub(in crate::proto) fn restart_server(&mut self, registered: &[usize]) {
        let random = self.dice.source();
        let mut server = Server::new(self.settings(), random, self.published());
        let (boot, now) = (self.boot, self.hosts[0].now(self.boot));
        for &n in registered {
            assert!(
                server.register(Admission::new(self.hosts[n].identity.public(), tunnel(n as u8 + 1)), now)
            );
        }
        let adopt = |entry: &Entry| server.adopt(entry.peer, entry.remote, entry.adopted(), now);
        self.hosts[0].tables.adopt_with(boot, adopt);
        server.poll(now);
        self.hosts[0].machine = Some(Machine::Server(Box::new(server)));
        self.act(0);
    }

    /// Starts a client in place of one that was killed: sessions that it left in the tables go on.
    pub(in crate::proto) fn restart_client(&mut self, n: usize) {
        let mut client = self.new_client(n);
        let (boot, now) = (self.boot, self.hosts[n].now(self.boot));
        client.begin_in(self.hosts[n].network);
        let adopt = |entry: &Entry| Some(client.adopt(entry.adopted(), (entry.local, entry.remote), now));
        self.hosts[n].tables.adopt_with(boot, adopt);
        client.poll(now);
        self.hosts[n].machine = Some(Machine::Client(Box::new(client)));
        self.act(n);
    }
}

impl Tables {
    /// Goes on with the sessions that are left and not over at this boot time in ns, under the numbers that `adopt` gives them;
    /// drops the others.
    fn adopt_with(&mut self, boot: u64, mut adopt: impl FnMut(&Entry) -> Option<SessionId>) {
        let (left, routes) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.routes));
        for (old, entry) in left {
            let over = entry.offset.session(BootNs(boot)) >= entry.session.until;
            if entry.session.mode == abi::MODE_INTRODUCTION || over {
                continue;
            }
            if let Some(id) = adopt(&entry) {
                self.routes
                    .extend(routes.iter().filter(|(_, route)| **route == old).map(|(to, _)| (*to, id)));
                self.entries.insert(id, entry);
            }
        }
    }
}
