// Asking the API: answers with their ETags, and the live stream with its reconnections.
// Knows nothing of the page. Every URL is relative, so the page may live below any path.

const SILENT_MS = 40_000; // Two heartbeats and a half.
const POLL_MS = 3_000;
const WAIT_MIN_MS = 1_000;
const WAIT_MAX_MS = 15_000;
const LONGEST_EVENT = 1 << 20;
const KEPT_MAX = 64;

/** A problem that the API told (RFC 9457), or none that it could tell. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? `status ${status}`);
    this.status = status;
    this.parameter = body?.parameter;
  }
}

export class Api {
  #kept = new Map();
  #token = sessionStorage.getItem("token") ?? "";

  constructor(stream) {
    this.stream = stream;
    this.zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
    this.clockAheadMs = 0; // By how much the server's clock is ahead of this one.
  }

  set token(token) {
    this.#token = token;
    sessionStorage.setItem("token", token);
  }

  /** What the API answers: {data, version, source, age, isNew}. Throws a Problem. */
  async get(path, parameters = {}) {
    const url = this.#url(path, parameters);
    const kept = this.#kept.get(url);
    const headers = kept?.etag ? { "If-None-Match": kept.etag } : {};
    const response = await this.#fetch(url, { headers, cache: "no-store" });
    if (response.status === 304 && kept) return { ...kept.answer, ...dropNulls(standing(response)), isNew: false };
    const answer = { ...standing(response), data: await response.json(), isNew: true };
    this.#keep(url, { etag: response.headers.get("ETag"), answer });
    return answer;
  }

  /** The same of a question with a body. */
  async post(path, body) {
    const headers = { "Content-Type": "application/json" };
    const response = await this.#fetch(this.#url(path, {}), { method: "POST", headers, body: JSON.stringify(body) });
    return { ...standing(response), data: await response.json(), isNew: true };
  }

  /**
   * Follow the stream for good. `on` hears: event(name, data), state("live" | "polling" | "offline"), poll() while there
   * is no stream, and asksToken(). poll() says whether it got through.
   */
  async follow(on) {
    let lastEventId = "";
    let failures = 0;
    for (;;) {
      try {
        await this.#read(lastEventId, (event) => {
          failures = 0;
          on.state("live");
          if (event === null) return;
          lastEventId = event.id;
          on.event(event.event, JSON.parse(event.data));
        });
      } catch (error) {
        if (error instanceof Problem && error.status === 401) await on.asksToken();
      }
      const next = performance.now() + Math.min(WAIT_MAX_MS, WAIT_MIN_MS * 2 ** failures) * (0.5 + Math.random());
      failures += 1;
      if (failures > 1) on.state((await on.poll()) ? "polling" : "offline");
      while (performance.now() < next) {
        const left = next - performance.now();
        await sleep(Math.min(left, POLL_MS));
        if (left > POLL_MS) on.state((await on.poll()) ? "polling" : "offline");
      }
    }
  }

  /** Read the stream until it ends, or is silent for too long. `onEvent` hears null for a sign of life. */
  async #read(lastEventId, onEvent) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENT_MS);
    try {
      const headers = { Accept: "text/event-stream", ...(lastEventId && { "Last-Event-ID": lastEventId }) };
      const response = await this.#fetch(this.#url("api/stream", {}), { headers, signal: silence.signal, cache: "no-store" });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENT_MS);
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const event = parseEvent(text.slice(0, end));
          text = text.slice(end + 2);
          onEvent(event.data ? event : null);
        }
        if (text.length > LONGEST_EVENT) throw new Error("an event without an end");
      }
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }

  async #fetch(url, options) {
    for (;;) {
      const zone = this.zone;
      const headers = { "X-Timezone": zone, ...options.headers, ...(this.#token && { Authorization: `Bearer ${this.#token}` }) };
      const response = await fetch(url, { ...options, headers });
      const date = Date.parse(response.headers.get("Date") ?? "");
      if (date) this.clockAheadMs = Math.abs(date - Date.now()) < 2_000 ? 0 : date - Date.now();
      if (response.ok || response.status === 304) return response;
      const body = await response.json().catch(() => null);
      if (response.status !== 400 || body?.parameter !== "X-Timezone" || zone === "UTC") {
        throw new Problem(response.status, body);
      }
      this.zone = "UTC"; // The browser's zone has a name that the server does not know.
    }
  }

  #url(path, parameters) {
    const query = new URLSearchParams(parameters);
    if (this.stream) query.set("stream", this.stream);
    const text = query.toString();
    return text ? `${path}?${text}` : path;
  }

  #keep(url, answer) {
    this.#kept.delete(url);
    this.#kept.set(url, answer);
    if (this.#kept.size > KEPT_MAX) this.#kept.delete(this.#kept.keys().next().value);
  }
}

function parseEvent(text) {
  const event = {};
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  return event;
}

/** What an answer says about itself. */
function standing(response) {
  return {
    version: response.headers.get("X-Crashfold-Version"),
    source: response.headers.get("X-Crashfold-Source"),
    age: response.headers.get("Age"),
  };
}

function dropNulls(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
