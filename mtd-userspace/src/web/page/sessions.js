// The table of sessions: where both ends are now, and where they were.

import { element, setRows, setText } from "./dom.js";
import { bitRate, bytes, endpoint, span } from "./format.js";

/** Number of earlier addresses that are shown for each end. */
const TRAIL = 3;

export class Sessions {
  #rows = new Map();

  /** `seconds`: the time since the last sample; null for the first one. */
  update(sample, seconds) {
    const { peers, sessions } = sample.status;
    const all = [
      ...peers.map((one) => ({ ...one, kind: "static peer" })),
      ...sessions.map((one) => ({ ...one, kind: one.role === "client" ? "server" : "client" })),
    ];
    const key = (one) => `${one.kind} ${one.name} ${one.public_key ?? ""}`;
    setRows(document.getElementById("session-rows"), this.#rows, all, key, () => row());
    for (const one of all) this.#rows.get(key(one)).rates(one, seconds);
    document.getElementById("no-sessions").hidden = all.length > 0;
    const leftOut = document.getElementById("left-out");
    leftOut.hidden = sample.left_out === 0;
    setText(leftOut, `${sample.left_out} more; mtd sessions lists them all.`);
  }
}

function cell(label, name = "") {
  return element("td", { role: "cell", "data-label": label, class: name });
}

function row() {
  const head = element("th", { role: "rowheader", scope: "row" });
  const state = cell("State");
  const local = place("This host is at");
  const remote = place("The other end is at");
  const slot = cell("Slot", "number");
  const received = cell("Received", "number");
  const sent = cell("Sent", "number");
  const node = element("tr", { role: "row" }, head, state, local.node, remote.node, slot, received, sent);
  let last = null;
  return {
    node,
    update(one) {
      lines(head, one.name, one.kind);
      const heard = one.last_valid_seconds === null ? "" : `heard ${span(one.last_valid_seconds)} ago`;
      lines(state, one.state, one.hint ?? heard);
      state.firstElementChild.className = `state-${one.state}`;
      local.update(one.local);
      remote.update(one.remote);
      lines(slot, one.slot === null ? "–" : String(one.slot), one.period_seconds ? `every ${one.period_seconds} s` : "");
    },
    rates(one, seconds) {
      const rate = (now, before) => (last && seconds ? bitRate(Math.max(0, now - before) / seconds) : "");
      lines(received, bytes(one.received.bytes), rate(one.received.bytes, last?.received));
      lines(sent, bytes(one.sent.bytes), rate(one.sent.bytes, last?.sent));
      last = { received: one.received.bytes, sent: one.sent.bytes };
    },
  };
}

/** Two lines in a cell, the second one less important. */
function lines(node, first, second) {
  if (!node.children.length) node.append(element("span"), element("span", { class: "sub" }));
  setText(node.children[0], first);
  setText(node.children[1], second);
}

/** A cell with the present address of an end, and the earlier ones. */
function place(label) {
  const now = element("span", { class: "now" });
  const trail = element("ol", { class: "trail", "aria-label": "before" });
  const node = element("td", { role: "cell", "data-label": label, class: "address" }, now, trail);
  let before = null;
  return {
    node,
    update(where) {
      const text = endpoint(where);
      if (text === before) return;
      if (before !== null) {
        trail.prepend(element("li", {}, before));
        while (trail.children.length > TRAIL) trail.lastChild.remove();
        // Restarts the animation.
        now.classList.remove("moved");
        void now.offsetWidth;
        now.classList.add("moved");
      }
      setText(now, text);
      before = text;
    },
  };
}
