// Asking the API: answers with their ETags, and the live stream with its reconnections.
// Knows nothing of the page. Every URL is relative, so the page may live below any path.

const SILENT_MS = 40_000; // Two heartbeats and a half.
const ANSWER_MS = 10_000;
const CONNECT_MS = 3_000; // A server that is there answers a stream at once.
const POLL_MS = 3_000;
const RETRY_MS = 900; // With the jitter 0.5 to 1.3 s: a server that comes back is found within 2 s.
const WAIT_MAX_MS = 15_000; // Between attempts that a server refuses.
const LONGEST_EVENT = 1 << 20;
const KEPT_MAX = 32;

/** A problem that the API told (RFC 9457), or none that it could tell. */
export class Problem extends Error {
  constructor(response, body) {
    super(body?.detail ?? `status ${response.status}`);
    this.status = response.status;
    this.parameter = body?.parameter;
    this.retryMs = 1_000 * (Number(response.headers.get("Retry-After")) || 0);
  }
}

export class Api {
  #kept = new Map();
  #token = sessionStorage.getItem("token") ?? "";
  #hurry = () => {};

  constructor(stream) {
    this.stream = stream;
    this.clockAheadMs = 0; // By how much the server's clock is ahead of this one.
    this.onAnswer = () => {}; // Hears how every answer stands: {version, source, ageS}.
  }

  set token(token) {
    this.#token = token;
    sessionStorage.setItem("token", token);
  }

  /** The server's time, in epoch milliseconds. */
  now() {
    return Date.now() + this.clockAheadMs;
  }

  /** The address of a question, to be shown or asked. Without a stream the server takes the deployment's own. */
  url(path, parameters = {}) {
    const query = new URLSearchParams(parameters);
    if (this.stream) query.set("stream", this.stream);
    const text = query.toString();
    return text ? `${path}?${text}` : path;
  }

  /** The body of the answer, and its version. Throws a Problem. */
  async get(path, parameters = {}, zone = "UTC") {
    const url = this.url(path, parameters);
    const key = `${zone} ${url}`;
    const kept = this.#kept.get(key);
    const headers = { "X-Timezone": zone, ...(kept?.etag && { "If-None-Match": kept.etag }) };
    const response = await this.#fetch(url, { headers, signal: AbortSignal.timeout(ANSWER_MS) });
    const version = response.headers.get("X-Crashfold-Version");
    if (response.status === 304 && kept) return { body: kept.body, version };
    const body = await response.json();
    this.#keep(key, { etag: response.headers.get("ETag"), body });
    return { body, version };
  }

  /** The same of a question with a body. */
  async post(path, question) {
    const headers = { "Content-Type": "application/json" };
    const signal = AbortSignal.timeout(ANSWER_MS);
    const response = await this.#fetch(this.url(path), { method: "POST", headers, body: JSON.stringify(question), signal });
    return { body: await response.json(), version: response.headers.get("X-Crashfold-Version") };
  }

  /** Do not wait any longer to connect again: the network is back, or somebody looks. */
  hurry() {
    this.#hurry();
  }

  /**
   * Follow the stream for good. `on` hears: event(name, data), link("live" | "polling" | "offline", retryAtMs), poll()
   * while there is no stream, and asksToken(). poll() says whether the server answers. An event has at most `gamesMax` games.
   */
  async follow(on, gamesMax) {
    let lastEventId = "";
    let refusals = 0;
    for (;;) {
      let waitMs = RETRY_MS;
      try {
        await this.#read(lastEventId, gamesMax, (event) => {
          refusals = 0;
          on.link("live");
          if (event === null) return;
          lastEventId = event.id;
          on.event(event.event, JSON.parse(event.data));
        });
      } catch (error) {
        if (error instanceof Problem) {
          if (error.status === 401) {
            await on.asksToken();
            continue;
          }
          const maxMs = error.status === 404 ? POLL_MS : WAIT_MAX_MS; // A stream is there with its first game.
          waitMs = Math.max(error.retryMs, Math.min(maxMs, RETRY_MS * 2 ** refusals));
          refusals += 1;
        }
      }
      const retryAtMs = Date.now() + waitMs * (0.55 + 0.9 * Math.random());
      do {
        const answers = await on.poll();
        on.link(answers ? "polling" : "offline", retryAtMs + this.clockAheadMs);
        const left = Math.min(POLL_MS, retryAtMs - Date.now());
        if (left > 0 && await Promise.race([sleep(left), this.#hurried()])) break;
      } while (Date.now() < retryAtMs);
    }
  }

  #hurried() {
    return new Promise((resolve) => { this.#hurry = () => resolve(true); });
  }

  /** Read the stream until it ends, or is silent for too long. `onEvent` hears null for a sign of life. */
  async #read(lastEventId, gamesMax, onEvent) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), CONNECT_MS);
    try {
      const headers = { Accept: "text/event-stream", ...(lastEventId && { "Last-Event-ID": lastEventId }) };
      const response = await this.#fetch(this.url("api/stream", { limit: gamesMax }), { headers, signal: silence.signal });
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
    const headers = { ...options.headers, ...(this.#token && { Authorization: `Bearer ${this.#token}` }) };
    const response = await fetch(url, { cache: "no-store", ...options, headers });
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (date) this.clockAheadMs = Math.abs(date - Date.now()) < 2_000 ? 0 : date - Date.now();
    const source = response.headers.get("X-Crashfold-Source");
    if (source) this.onAnswer({ source, version: response.headers.get("X-Crashfold-Version"), ageS: Number(response.headers.get("X-Crashfold-Age-S")) });
    if (response.ok || response.status === 304) return response;
    throw new Problem(response, await response.json().catch(() => null));
  }

  #keep(key, answer) {
    this.#kept.delete(key);
    this.#kept.set(key, answer);
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

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
