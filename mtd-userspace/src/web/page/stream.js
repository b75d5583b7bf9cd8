// The events of the controller, as long as the page is open. This reads the stream itself, because EventSource cannot send
// a token in a header, and a token in the address would end up in logs.

/** The connection counts as lost after this time without an event, in ms. Samples come once a second. */
const SILENCE = 5000;
/** Pauses between attempts to connect, in ms. */
const PAUSES = [500, 1000, 2000, 5000];

/**
 * Follows the events. Calls `on.sample(sample)`, `on.failure(text)`, and `on.state(name, text)` with the states `live`,
 * `lost`, and `refused`, after which nothing more is called. Returns a function that ends this.
 */
export function follow(token, on) {
  const ended = new AbortController();
  run(token, on, ended.signal);
  return () => ended.abort();
}

async function run(token, on, ended) {
  let failures = 0;
  while (!ended.aborted) {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    ended.addEventListener("abort", end);
    try {
      await connect(token, on, attempt, () => { failures = 0; });
    } catch (error) {
      if (ended.aborted) return;
      if (error instanceof Refused) {
        on.state("refused", error.message);
        return;
      }
      on.state("lost", error instanceof Busy ? error.message : "Connection lost, trying again…");
    } finally {
      ended.removeEventListener("abort", end);
      attempt.abort();
    }
    const pause = PAUSES[Math.min(failures, PAUSES.length - 1)];
    failures += 1;
    await new Promise((resolve) => { setTimeout(resolve, pause); });
  }
}

class Refused extends Error {}
class Busy extends Error {}

async function connect(token, on, attempt, succeeded) {
  let timer = setTimeout(() => attempt.abort(), SILENCE);
  try {
    const response = await fetch("/events", {
      headers: { Authorization: `Bearer ${token}` },
      signal: attempt.signal,
    });
    if (response.status === 401) throw new Refused("The token is not that of this controller.");
    if (response.status === 503) throw new Busy((await response.text()).trim());
    if (!response.ok) throw new Error(response.statusText);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream has ended");
      clearTimeout(timer);
      timer = setTimeout(() => attempt.abort(), SILENCE);
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        succeeded();
        dispatch(event, on);
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

function dispatch(event, on) {
  const fields = new Map(event.split("\n").map((line) => {
    const at = line.indexOf(": ");
    return [line.slice(0, at), line.slice(at + 2)];
  }));
  const data = JSON.parse(fields.get("data"));
  on.state("live", "Live");
  if (fields.get("event") === "sample") on.sample(data);
  else on.failure(data);
}
