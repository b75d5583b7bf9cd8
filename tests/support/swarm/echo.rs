//! Ordinary inner packets: echo requests to the server's tunnel address, which its kernel answers.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::proto::messages::Tunnel;

use super::{Swarm, carries, reading, transmit};
use crate::packet::{ETHERNET_LEN, IPV6_LEN, Path, echo_request};

const ICMPV6: u8 = 58;
const ECHO_REPLY: u8 = 129;

/// How many requests are sent at once, and the pause before the next ones, so that the queues of the cables do not
/// overflow.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(10);

/// A client's request, and the answers to it.
#[derive(Default)]
pub(super) struct Echo {
    /// The upper-layer part of the request.
    asked: Option<Vec<u8>>,
    answers: u64,
    /// Inner packets that are not the answer to the request.
    others: u64,
}

impl Echo {
    pub(super) fn receive(&mut self, inner: &[u8], tunnel: Option<(Tunnel, Tunnel)>) {
        let expected = || {
            let (own, server) = tunnel?;
            let asked = self.asked.as_ref()?;
            let (header, reply) = inner.split_at_checked(IPV6_LEN)?;
            let addresses = header[8..24] == server.to_map()[0] && header[24..40] == own.to_map()[0];
            // The answer is the same as the request, except for type and checksum.
            Some(
                addresses
                    && header[6] == ICMPV6
                    && reply.len() == asked.len()
                    && reply[..2] == [ECHO_REPLY, 0]
                    && reply[4..] == asked[4..],
            )
        };
        if expected().unwrap_or(false) { self.answers += 1 } else { self.others += 1 }
    }
}

impl Swarm {
    /// Every client sends one echo request through its session, and is answered once.
    ///
    /// # Errors
    /// When one is not answered in time, or something else comes out of a session.
    pub fn echo(&mut self, timeout: Duration) -> Result<()> {
        for n in 0..self.members.len() {
            let now = reading()?;
            let member = &mut self.members[n];
            let (own, server) = member.machine.tunnel().context("a client without tunnel addresses")?;
            let [own, server] = [own, server].map(|tunnel| Ipv6Addr::from(tunnel.to_map()[0]));
            let path = Path::new([0; 6], [0; 6], own, server);
            let number = n as u16;
            let mut frame =
                echo_request(&path, number, !number, format!("client {n} of the swarm").as_bytes());
            let inner = frame.split_off(ETHERNET_LEN);
            member.echo.asked = Some(inner[IPV6_LEN..].to_vec());
            let entry = member.tables.route.and_then(|id| member.tables.entries.get_mut(&id));
            let entry =
                entry.filter(|entry| carries(&entry.session)).context("a client without a session")?;
            transmit(&self.socket, &entry.seal(&inner, now).context("the request is too long")?)?;
            if n % BURST == BURST - 1 {
                // Answers are received during the pause.
                let pause = std::time::Instant::now() + PAUSE;
                self.run_until(timeout, |_| std::time::Instant::now() >= pause)?;
            }
        }
        let result =
            self.run_until(timeout, |swarm| swarm.members.iter().all(|member| member.echo.answers > 0));
        let count =
            |what: fn(&Echo) -> u64| self.members.iter().map(|member| what(&member.echo)).sum::<u64>();
        let (answers, others, clients) =
            (count(|echo| echo.answers), count(|echo| echo.others), self.members.len());
        result.with_context(|| format!("{answers} answers to {clients} echo requests"))?;
        ensure!(
            (answers, others) == (clients as u64, 0),
            "{answers} answers to {clients} echo requests, {others} other inner packets"
        );
        Ok(())
    }
}
