// Joins the parts of the page.

import { setText } from "./dom.js";
import { Drops } from "./drops.js";
import { Overview } from "./overview.js";
import { Sessions } from "./sessions.js";
import { follow } from "./stream.js";

const NO_TOKEN = "This address lacks the token. Open the link that “sudo mtd web” prints.";
const OLD_TOKEN = "The controller was restarted. Open the link that “sudo mtd web” prints now.";

const state = document.getElementById("state");
const notice = document.getElementById("notice");
const pause = document.getElementById("pause");
let end = () => {};

function tell(text) {
  notice.hidden = text === "";
  setText(notice, text);
}

/** The token of the link. It is removed from the address bar, where it could be photographed, and kept for this tab. */
function token() {
  const given = location.hash.slice(1);
  if (/^[0-9a-f]+$/.test(given)) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

function begin(meanings) {
  end();
  const secret = token();
  if (!secret) {
    state.dataset.state = "refused";
    setText(state, "No token");
    tell(NO_TOKEN);
    return;
  }
  tell("");
  const parts = [new Overview(), new Sessions(), new Drops(meanings)];
  document.getElementById("session-rows").replaceChildren();
  document.getElementById("drop-rows").replaceChildren();
  let last = null;
  end = follow(secret, {
    state(name, text) {
      state.dataset.state = name;
      setText(state, text);
      if (name === "refused") tell(OLD_TOKEN);
    },
    failure: tell,
    sample(sample) {
      tell("");
      if (pause.getAttribute("aria-pressed") === "true") return;
      const seconds = last === null ? null : (sample.time_ms - last) / 1000;
      last = sample.time_ms;
      for (const part of parts) part.update(sample, seconds);
    },
  });
}

pause.addEventListener("click", () => {
  const paused = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", String(paused));
});

async function meanings() {
  try {
    return await (await fetch("/reasons.json")).json();
  } catch {
    return {};
  }
}

const known = await meanings();
// Somebody opened another link in the same tab.
window.addEventListener("hashchange", () => {
  if (/^#[0-9a-f]{32}$/.test(location.hash)) begin(known);
});
begin(known);
