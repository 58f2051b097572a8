// The connection: all that there is, then server-sent events. They are read by fetch, which can send a token and the
// last number that was seen in headers.

const SILENT_MS = 25000;
const FIRST_MS = 300;
const LONGEST_MS = 5000;
let token = sessionStorage.getItem("token") ?? "";

export function setToken(text) {
  token = text;
  if (text) sessionStorage.setItem("token", text);
  else sessionStorage.removeItem("token");
}

export function hasToken() {
  return token !== "";
}

function headers(more = {}) {
  return token ? { Authorization: `Bearer ${token}`, ...more } : more;
}

export async function getJson(path) {
  const answer = await fetch(path, { headers: headers(), cache: "no-store" });
  if (!answer.ok) throw Object.assign(new Error(`answered ${answer.status}`), { status: answer.status });
  return answer.json();
}

// Ask for something; what the server says, or an error with its words.
export async function ask(body) {
  const answer = await fetch("ask", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
  });
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error ?? `answered ${answer.status}`), { status: answer.status });
  return found.said;
}

// Follow for ever. `on` has all(state), news(news), and status(word) of live, reconnecting, locked.
export async function follow(on) {
  let seen = "";
  let wait = FIRST_MS;
  for (;;) {
    try {
      if (!seen) {
        const state = await getJson("state");
        seen = state.id;
        on.all(state);
      }
      await read(seen, on, (id) => {
        seen = id;
        wait = FIRST_MS;
      });
    } catch (error) {
      if (error.again) {
        seen = "";
        continue;
      }
      if (error.status === 401) {
        on.status("locked");
        await on.unlocked();
        continue;
      }
    }
    on.status("reconnecting");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 1.6, LONGEST_MS);
  }
}

async function read(seen, on, took) {
  const given = new AbortController();
  let timer = setTimeout(() => given.abort(), SILENT_MS);
  try {
    const answer = await fetch("events", {
      headers: headers({ "Last-Event-ID": seen }),
      cache: "no-store",
      signal: given.signal,
    });
    if (!answer.ok) throw Object.assign(new Error("refused"), { status: answer.status });
    on.status("live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => given.abort(), SILENT_MS);
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) take(part, on, took);
    }
  } finally {
    clearTimeout(timer);
    given.abort();
  }
}

function take(text, on, took) {
  const event = {};
  for (const line of text.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) event[line.slice(0, at)] = line.slice(at + 2);
  }
  if (event.event === "again") throw Object.assign(new Error("again"), { again: true });
  if (event.event !== "news") return;
  on.news(JSON.parse(event.data));
  took(event.id);
}
