// Dropped packets by reason: a chart of the last two minutes, and a table.

import { draw } from "./chart.js";
import { element, setRows, setText } from "./dom.js";
import { count } from "./format.js";

/** Samples in the chart: two minutes. */
const KEPT = 120;
/** Number of colours for single reasons; the last colour of the style sheet is for all other reasons together. */
const COLOURS = 5;

export class Drops {
  #meanings;
  #rows = new Map();
  #last = null;
  #history = [];
  /** The colour of each reason. Colours are given in the order of first occurrence, and a reason keeps its colour. */
  #colours = new Map();

  constructor(meanings) {
    this.#meanings = meanings;
  }

  /** `seconds`: the time since the last sample; null for the first one. */
  update(sample, seconds) {
    const { drops } = sample.status;
    const rates = new Map();
    for (const [reason, total] of Object.entries(drops)) {
      if (!this.#colours.has(reason)) this.#colours.set(reason, Math.min(this.#colours.size, COLOURS));
      const before = this.#last?.[reason] ?? 0;
      rates.set(reason, this.#last && seconds ? Math.max(0, total - before) / seconds : 0);
    }
    this.#last = drops;
    this.#history.push(this.#byColour(rates));
    if (this.#history.length > KEPT) this.#history.shift();
    const most = draw(document.getElementById("chart"), this.#history, KEPT);
    setText(document.getElementById("chart-most"), most > 0 ? `highest: ${count(Math.ceil(most))} a second` : "");
    const items = Object.entries(drops).sort(([, a], [, b]) => b - a);
    setRows(document.getElementById("drop-rows"), this.#rows, items, ([reason]) => reason, ([reason]) => this.#row(reason));
    for (const [reason, row] of this.#rows) setText(row.now, `${count(rates.get(reason))}/s`);
    document.getElementById("no-drops").hidden = items.length > 0;
  }

  #byColour(rates) {
    const sums = new Array(COLOURS + 1).fill(0);
    for (const [reason, rate] of rates) sums[this.#colours.get(reason)] += rate;
    return sums;
  }

  #row(reason) {
    const swatch = element("span", { class: `swatch c${this.#colours.get(reason)}`, "aria-hidden": "true" });
    const head = element("th", { role: "rowheader", scope: "row" }, swatch, reason);
    const now = element("td", { role: "cell", "data-label": "Now", class: "number" });
    const total = element("td", { role: "cell", "data-label": "Total", class: "number" });
    const meaning = this.#meanings[reason] ?? "(unknown to this page; load it again)";
    const node = element("tr", { role: "row" }, head, now, total, element("td", { role: "cell" }, meaning));
    return { node, now, update: ([, number]) => setText(total, count(number)) };
  }
}
