// The tiles about the host as a whole, and about the rendezvous.

import { element, setRows, setText, setTiles } from "./dom.js";
import { bitRate, bytes, count, span } from "./format.js";

/** Everything that goes through the tunnel: packets and bytes, both ways. */
function totals(status) {
  const sum = { received: 0, sent: 0 };
  for (const one of [...status.peers, ...status.sessions]) {
    sum.received += one.received.bytes;
    sum.sent += one.sent.bytes;
  }
  return sum;
}

export class Overview {
  #last = null;
  #warnings = new Map();

  /** `seconds`: the time since the last sample; null for the first one. */
  update(sample, seconds) {
    const { status } = sample;
    const sum = totals(status);
    const all = [...status.peers, ...status.sessions];
    const open = all.filter((one) => one.state === "open").length;
    const dropped = Object.values(status.drops).reduce((a, b) => a + b, 0);
    const last = this.#last;
    const rate = (now, before) => (last && seconds ? Math.max(0, now - before) / seconds : 0);
    setText(document.getElementById("where"), `at ${status.interface}, ${status.version}`);
    setTiles(document.getElementById("overview"), [
      ["Open sessions", `${open} of ${all.length + sample.left_out}`],
      ["Receiving", last && `${bitRate(rate(sum.received, last.received))} (${bytes(sum.received)})`],
      ["Sending", last && `${bitRate(rate(sum.sent, last.sent))} (${bytes(sum.sent)})`],
      ["Dropping", last && `${count(rate(dropped, last.dropped))} a second (${count(dropped)})`],
      ["Protected prefix", status.prefixes.join(", ")],
      ["What is refused", status.guard.enforced ? "is dropped" : "passes: nothing is enforced"],
      ["Program", `${status.xdp}, ${status.link}`],
      ["Handshakes", status.handshakes && `${count(status.handshakes.answered)} of ${count(status.handshakes.received)} answered`],
      ["Registered clients", status.clients_registered ?? null],
      ["Running for", span(status.uptime_seconds)],
    ].map(([term, value]) => [term, value === null ? null : String(value)]));
    this.#last = { ...sum, dropped };
    setRows(document.getElementById("warnings"), this.#warnings, status.warnings, (one) => one.code, warning);
    document.getElementById("warnings").hidden = status.warnings.length === 0;
    rendezvous(sample);
  }
}

function warning() {
  const node = element("li");
  return { node, update: (one) => setText(node, one.text) };
}

function rendezvous({ status, time_ms }) {
  const state = status.rendezvous;
  document.getElementById("rendezvous-section").hidden = !state;
  if (!state) return;
  const now = time_ms / 1000;
  const ago = (time) => (time === null ? "never" : `${span(Math.max(0, now - time))} ago`);
  const serves = state.role !== "client";
  const asks = state.role !== "server";
  const rejected = Object.entries(state.rejected).map(([reason, number]) => `${count(number)} ${reason}`);
  setTiles(document.getElementById("rendezvous"), [
    ["Role", state.role],
    ["DHT", { ok: "answers", unreachable: "out of reach", unknown: "not asked yet" }[state.network]],
    ["Window ends in", span(Math.max(0, state.window_start + state.window_seconds - now))],
    ["Next", state.next_seconds === null ? "nothing planned" : `in ${span(Math.max(0, state.next_seconds))}`],
    ["Published", serves ? `${count(state.published)}, last ${ago(state.last_publication)}` : null],
    ["Fetched", asks ? `${count(state.fetched)}, last ${ago(state.last_fetch)}` : null],
    ["Under way", count(state.pending)],
    ["Failed, tried again", count(state.failed)],
    ["Rejected", rejected.length ? rejected.join(", ") : "none"],
  ]);
}
