// The operators' view: partitions, commits, rejects, Redis, rebuilds, streams, gaps and dead letters.
// What stands in records was written by somebody else: it is shown as text, with what is not seen written out.

import { Problem } from "./api.js";
import { make, tell } from "./dom.js";
import * as words from "./words.js";

const GAPS_MS = 5_000;
const LETTERS_MS = 30_000; // Each time the API reads the topic anew.
const RETRY_MS = 3_000;
const GAPS_SHOWN = 20;
const LETTERS = [10, 50, 500];
const STREAMS_SHOWN = 200;
const VALUE_SHOWN = 160;
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

const OUTCOMES = {
  applied: "games, checkpoint and version together",
  duplicate: "sent again after a lost reply: changed nothing",
  conflict: "another writer was ahead: loaded again",
  refused: "Redis said no; sent again",
  unknown: "no reply; sent again",
};
const REASONS = {
  unreadable: "no game: a field is missing, ill-typed or out of bounds",
  conflict: "an id that is there with other content",
  late: "older than a full window",
  stream: "of another stream than the only one",
  future: "ends long after its record was written",
  unfair: "does not fit its hash",
};

let api;
let place;
let wanted = LETTERS[0];
let stream = null;
const gaps = { path: "api/gaps", everyMs: GAPS_MS, parameters: () => ({ limit: GAPS_SHOWN }) };
const letters = { path: "api/dead-letters", everyMs: LETTERS_MS, parameters: () => ({ limit: wanted }) };

/** Fill `element`, once. `api` asks. */
export function mount(element, asks) {
  api = asks;
  place = {
    notice: make("p", { class: "notice", role: "status", hidden: true }),
    partitions: table(["Partition", "Engine", "Log begin", "Committed up to", "Log end", "Lag", "Freshness", "Last commit"]),
    engines: table(["Engine", "Running for", "Games / s"]),
    commits: table(["Commits", "Count", "What that is"]),
    rejected: table(["Reason", "Count", "What that is"]),
    redis: table(["Server", "Memory", "Limit", "Evicted keys", "Reads that found their key", "Clients"]),
    rebuilds: table(["Rebuild of", "Progress", "Records", "Records / s", "Time left"]),
    verified: table(["Verified", "When", "Result", "Version", "Differences"]),
    streams: table(["Stream", "Partition", "Games", "Version", "Generation", "Newest game", "Ended", "Ids missing"]),
    gaps: table(["First missing id", "Last", "Ids"]),
    letters: table(["Put aside", "Reason", "Record", "Why", "Key", "Value"]),
  };
  const select = make("select", { id: "letters-limit" }, ...LETTERS.map((many) => make("option", { value: many }, String(many))));
  select.addEventListener("change", () => {
    wanted = Number(select.value);
    ask(letters);
  });
  const again = make("button", { type: "button" }, "Look again");
  again.addEventListener("click", () => ask(letters));
  const choice = make("div", { class: "small" }, make("label", { for: "letters-limit" }, "Newest"), select, again);
  element.append(
    place.notice,
    card("Partitions", "api/engine", place.partitions, place.engines),
    make("div", { class: "pair" }, card("Commits", null, place.commits), card("Records put aside", null, place.rejected)),
    card("Redis", null, place.redis),
    make("div", { class: "pair" }, card("Rebuilds", null, place.rebuilds), card("Verify", null, place.verified)),
    card("Streams", "api/streams", place.streams),
    card("Ids that are missing", gaps, place.gaps),
    card("Dead letters", letters, choice, place.letters),
    make("section", { class: "card", "aria-labelledby": "elsewhere" }, heading("Elsewhere", "elsewhere"), make("ul", { class: "links" },
      link("metrics", "Metrics of this process, for Prometheus"), link("readyz", "Whether it is ready, and what it notes"),
      link("docs", "Every question of the API, to be tried"), link("schema/openapi.json", "The same for programs (OpenAPI)"))),
  );
}

/** Show what is new. `state`: {stream, engine: the answer of /api/engine or null, streams: that of /api/streams or null,
 * head: {name, word, detail}}. Called every second while the view is seen. */
export function update({ stream: shown, engine, streams, head }) {
  if (shown !== stream) {
    stream = shown;
    gaps.answer = null;
    gaps.dueMs = 0;
  }
  for (const question of [gaps, letters]) {
    if (!(question.dueMs > Date.now())) ask(question);
  }
  const nowMs = api.now();
  const engines = engine?.engines ?? [];
  notify(engine, head);
  fill(place.partitions, engines.flatMap((one) => one.partitions.map((held) => partitionOf(one, held, nowMs)))
    .sort((one, other) => Number(one[0]) - Number(other[0])), "No engine holds a partition.");
  fill(place.engines, engines.map((one) => [one.writer, age(one.started, nowMs), words.rate(one.games_per_second)]), "No engine runs: crashfold run.");
  fill(place.commits, counted(engines.map((one) => one.commits), OUTCOMES), "None since the engines were started.");
  fill(place.rejected, counted(engines.map((one) => one.rejected), REASONS), "None since the engines were started.");
  fill(place.redis, redisOf(engines), engine === null ? "Not known." : "No engine may ask Redis (INFO).");
  fill(place.rebuilds, (engine?.rebuilds ?? []).map(rebuildOf), "None in the last day.");
  fill(place.verified, (engine?.verified ?? []).map((one) => [one.stream, words.moment(Date.parse(one.time), nowMs),
    marked(one.result, one.result === "equal" ? "good" : "bad"), words.count(one.version), words.count(one.differences)]), "Never: crashfold verify.");
  fill(place.streams, (streams?.streams ?? []).slice(0, STREAMS_SHOWN).map((one) => streamOf(one, nowMs)), streams === null ? "Not known." : "None yet.");
  showAsked(nowMs);
}

function notify(engine, head) {
  const text = head?.name === "replica" ? "Redis does not answer. What stands here is what it said last."
    : engine === null ? "" : engine.engines.length === 0 ? "No engine has told of itself for 15 s. Games are not folded until one runs: crashfold run." : "";
  tell(place.notice, text);
  place.notice.hidden = text === "";
}

function partitionOf(engine, held, nowMs) {
  return [
    String(held.partition), engine.writer, words.count(held.log_begin), words.count(held.next_offset), words.count(held.log_end),
    held.lag === 0 ? "0" : marked(words.count(held.lag), "warn"), words.duration(held.freshness_seconds),
    held.last_commit === null ? "none yet" : `${age(held.last_commit, nowMs)} ago`,
  ];
}

/** Counts of all engines by name, the greatest first, with what each name means. */
function counted(parts, meanings) {
  const sums = new Map();
  for (const part of parts) {
    for (const [name, many] of Object.entries(part)) sums.set(name, (sums.get(name) ?? 0) + many);
  }
  return [...sums].sort((one, other) => other[1] - one[1]).map(([name, many]) => [name, words.count(many), meanings[name] ?? ""]);
}

/** What the first engine that may ask Redis says of its servers. */
function redisOf(engines) {
  const servers = engines.find((one) => one.redis.length > 0)?.redis ?? [];
  return servers.map((server, number) => {
    const asked = server.hits + server.misses;
    const share = server.memory_max_bytes && server.memory_bytes / server.memory_max_bytes;
    return [
      String(number + 1), bytes(server.memory_bytes),
      server.memory_max_bytes === 0 ? "none" : marked(`${bytes(server.memory_max_bytes)}, ${words.percent(share)} % used`, share > 0.9 ? "bad" : ""),
      server.evicted_keys === 0 ? "0" : marked(words.count(server.evicted_keys), "bad"),
      asked === 0 ? "–" : `${words.percent(server.hits / asked)} % of ${words.count(asked)}`, words.count(server.clients),
    ];
  });
}

function rebuildOf(one) {
  const name = one.stream === "*" ? "all streams" : one.stream;
  const bar = make("progress", { max: 1, value: one.progress, "aria-label": `Rebuild of ${name}` });
  return [name, make("span", { class: "progress" }, bar, `${words.percent(one.progress)} %`), words.count(one.records),
    words.count(one.records_per_second), one.progress === 1 ? "done" : one.seconds_left === null ? "–" : words.duration(one.seconds_left)];
}

function streamOf(one, nowMs) {
  if (one.version === null) return [one.stream, marked("cannot be read: crashfold replay mends it", "bad"), "", "", "", "", "", ""];
  const address = new URLSearchParams(location.search);
  address.set("stream", one.stream);
  return [
    make("a", { href: `?${address}#engine` }, one.stream), String(one.partition), words.count(one.total_games), words.count(one.version),
    one.generation, one.newest_game ?? "–", one.newest_game_time === null ? "–" : `${age(one.newest_game_time, nowMs)} ago`,
    words.count(one.missing),
  ];
}

function showAsked(nowMs) {
  const { answer } = gaps;
  tell(gaps.hint, answer ? `${words.count(answer.missing)} ids in ${words.count(answer.count)} holes${answer.count > GAPS_SHOWN ? `, the newest ${GAPS_SHOWN} here` : ""}` : "");
  fill(place.gaps, (answer?.gaps ?? []).map(({ first, last }) => [String(first), String(last), words.count(last - first + 1)]), gaps.fault ?? (answer ? "None." : "…"));
  const found = letters.answer?.dead_letters ?? [];
  tell(letters.hint, letters.answer && letters.seenMs ? `as of ${words.clock(letters.seenMs)}` : "");
  fill(place.letters, found.map((letter) => letterOf(letter, nowMs)), letters.fault ?? (letters.answer ? "None." : "…"));
}

function letterOf(letter, nowMs) {
  const time = letter.time === null ? "–" : words.moment(Date.parse(letter.time), nowMs);
  return [
    time, letter.retried ? `${letter.reason}, retried` : letter.reason,
    `${letter.partition}:${letter.offset}`, data(letter.detail), data(letter.key), data(letter.value),
  ];
}

// --- asking ---------------------------------------------------------------------------------------------------------

/** Ask a question anew; what it was answered before stays until then. */
async function ask(question) {
  question.dueMs = Infinity;
  let waitMs = question.everyMs;
  try {
    question.answer = (await api.get(question.path, question.parameters())).body.data;
    question.seenMs = api.now();
    question.fault = null;
  } catch (error) {
    waitMs = Math.max(RETRY_MS, error.retryMs ?? 0);
    question.fault = error instanceof Problem ? `${words.sentence(error.message)}.` : "The server does not answer.";
  }
  question.dueMs = Date.now() + waitMs;
  showAsked(api.now());
  for (const anchor of place.notice.parentElement.querySelectorAll("a[data-path]")) anchor.href = api.url(anchor.dataset.path);
}

// --- making ---------------------------------------------------------------------------------------------------------

/** A text of somebody else's: what has no shape of its own is written out, and a long one can be opened. */
function data(text) {
  if (text === null) return "none";
  const shown = text.replace(HIDDEN, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`);
  if (shown.length <= VALUE_SHOWN) return make("code", { class: "data" }, shown);
  const all = make("details", {}, make("summary", {}, make("code", {}, `${shown.slice(0, VALUE_SHOWN)}…`)), make("code", { class: "data" }, shown));
  return make("div", { class: "data" }, all);
}

const age = (time, nowMs) => words.duration(Math.max(0, Math.floor((nowMs - Date.parse(time)) / 1_000)));
const marked = (text, kind) => make("span", { class: kind }, text);

function bytes(number) {
  const unit = ["B", "KiB", "MiB", "GiB", "TiB"][Math.min(4, Math.floor(Math.log2(Math.max(1, number)) / 10))];
  const value = number / 1_024 ** ["B", "KiB", "MiB", "GiB", "TiB"].indexOf(unit);
  return `${value >= 100 || unit === "B" ? Math.round(value) : value.toFixed(1)} ${unit}`;
}

function heading(text, id) {
  return make("h2", { id }, text);
}

/** A card with its title and, where one question fills it, the way to that. */
function card(title, question, ...parts) {
  const id = `of-${title.toLowerCase().replaceAll(" ", "-")}`;
  const path = typeof question === "string" ? question : question?.path;
  const hint = make("p", { class: "hint" });
  if (question && typeof question === "object") question.hint = hint;
  const anchor = path ? [make("a", { href: path, "data-path": path, class: "call" }, path)] : [];
  return make("section", { class: "card", "aria-labelledby": id }, make("div", { class: "card-head" }, heading(title, id), hint, ...anchor), ...parts.map((part) => part.box ?? part));
}

function link(path, text) {
  return make("li", {}, make("a", { href: path }, path), ` – ${text}`);
}

function table(names) {
  const body = make("tbody");
  const empty = make("p", { class: "hint" });
  const head = make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  const wide = make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Table by ${names[0].toLowerCase()}` }, make("table", {}, head, body));
  return { body, empty, wide, box: make("div", { class: "filled" }, wide, empty) };
}

/** Put rows of texts and elements into a table, or say that there are none. Cells that stay the same are left alone. */
function fill({ body, empty, wide }, rows, none) {
  wide.hidden = rows.length === 0;
  empty.hidden = rows.length > 0;
  tell(empty, rows.length ? "" : none);
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((cells, number) => {
    const line = body.rows[number] ?? body.appendChild(make("tr", {}, ...cells.map((_, at) => make(at ? "td" : "th", at ? {} : { scope: "row" }))));
    cells.forEach((cell, at) => {
      const there = line.cells[at];
      if (typeof cell === "string") tell(there, cell);
      else if (there.childNodes.length !== 1 || !there.firstChild.isEqualNode(cell)) keepOpen(there, cell);
    });
  });
}

/** Put an element into a cell; one that was opened and says the same stays open. */
function keepOpen(there, cell) {
  const opened = there.querySelector("details[open]");
  if (opened && opened.textContent === cell.textContent) return;
  there.replaceChildren(cell);
}
