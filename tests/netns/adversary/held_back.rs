//! Valid packets that have not arrived. An attacker has these who can stop packets and send others first.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::packet::Outer;

use super::scene::{Scene, ends};

/// How long the tunnel's connection has to send something.
const PATIENCE: Duration = Duration::from_secs(5);

impl Scene {
    /// A packet of the client's that never reached the server, with at least `payload` bytes after its UDP header, in the
    /// form in which the stranger would send it to the server. While this waits for such a packet, the router drops
    /// everything that goes to the server.
    pub(super) fn held_back(&self, payload: usize) -> Result<Vec<u8>> {
        let (router, protected) = (&self.topology.router, self.topology.server.prefix);
        let prefix = protected.to_string();
        let rule = |action: &str| router.run(&["-6", "rule", action, "to", &prefix, "blackhole"]).map(drop);
        let wanted = |frame: &Frame| {
            let to_server =
                ends(&frame.data).is_some_and(|(_, destination)| protected.contains(&destination));
            to_server && Outer::parse(&frame.data).is_some_and(|outer| outer.payload.len() >= payload)
        };
        rule("add")?;
        // The capture sees packets before they are routed, so each captured packet meets the rule.
        let tap = &self.topology.client.tap_ifname;
        let frame = Capture::start(router, tap, &CaptureOptions::default())
            .and_then(|capture| capture.wait_for(wanted, PATIENCE));
        rule("del")?;
        let frame = frame.context("nothing to hold back")?;
        let payload_of = |frame: &Frame| Outer::parse(&frame.data).map(|outer| outer.payload.to_vec());
        let held_back = payload_of(&frame);
        let arrived = self.captured_to_server()?.iter().any(|known| payload_of(known) == held_back);
        ensure!(!arrived, "the packet has reached the server");
        Ok(self.forwarded(&frame.data))
    }
}
