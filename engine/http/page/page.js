// The live page: what is chosen, what is known, and who is asked when. The panels show it.

import { Api, Problem, sleep } from "./api.js";
import { checkPanel } from "./check.js";
import { pointsPanel, survivalPanel } from "./curves.js";
import { $, setUpChoice, showChoice, tell } from "./dom.js";
import { showWays } from "./empty.js";
import * as engineView from "./engine.js";
import { matrixPanel, oftenPanel, sincePanel, waitsPanel } from "./figures.js";
import { gamesPanel } from "./games.js";
import { facts, offerStreams, offerZones, setEngine, setLink, showHead } from "./head.js";
import { gapOf, Ledger } from "./ledger.js";
import { chanceOf, DEFAULT_RULE, reaching } from "./odds.js";
import { recordsPanel, seriesPanel } from "./series.js";
import { intervalsPanel, setsPanel } from "./spans.js";
import * as words from "./words.js";

const LOOK_MS = 5_000; // How often engines are asked how they are.
const STREAMS_MS = 60_000;
const TOLD_GAMES = 10; // How many an event or a poll brings; if more are new, all that is held is asked for.
const RELOAD_MS = 3_000; // And how soon again, at most: an engine that catches up commits far oftener.
const FIRST_GAMES = 100;
const REPLICA_FRESH_MS = 5_000; // While Redis is away versions stand still, and nothing can be counted on from one.
const RETRY_MS = 3_000;
const QUICK = [1.5, 2, 3, 5, 10, 100];
/** What the deployment has until it says otherwise: the defaults of the settings. */
const DEPLOYMENT = {
  min: [1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 1000],
  max: [1, 1.01, 1.2, 1.5, 2, 3, 5, 10], floor: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  samples_games: [100, 500, 1000], samples_hours: [1, 6, 24], window_games: 50_000,
  stream: "crash", topic: "games", bootstrap_servers: null, rules: [],
};
const CHOICES = {
  kind: "min", value: 2, sample: "games:100", survival: "1000", bucket: "10", span: "24", from: "", to: "",
  series: "1000", sort: "time", set: "50",
};

const asked = new URLSearchParams(location.search);
const ownZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const api = new Api(asked.get("stream") ?? "");
let engine = null; // The answer of /api/engine.
let streams = null; // That of /api/streams.
let epoch = 0; // Counts how often all that was counted on had to be dropped.
let isShowDue = false;
let wanted = FIRST_GAMES; // Of so many games something in sight makes use.
let held = 0; // So many were asked for: fewer in the ledger are all there are.
let isReaching = false; // Games further back are on their way.
let reload = { timer: 0, version: 0, atMs: -Infinity };

/** What panels work with. */
const page = {
  api, facts, ledger: new Ledger(), deployment: DEPLOYMENT, chosen: { ...CHOICES }, records: {},
  now: () => api.now(),
  choose, show: showSoon,
  /** The rule of fairness that holds for the next game: what the odds follow from. */
  rule: () => ruleOf((page.ledger.newest?.id ?? 0) + 1),
  reaching: (value) => reaching(value, page.rule()),
  chance: (predicate) => chanceOf(predicate, page.rule()),
};
const panels = [
  gamesPanel, oftenPanel, sincePanel, waitsPanel, survivalPanel, pointsPanel, matrixPanel, intervalsPanel, seriesPanel,
  setsPanel, recordsPanel, checkPanel,
].map((make) => ({ games: () => FIRST_GAMES, questions: () => [], offer: () => {}, ...make(page), answers: {}, asking: new Map(), isSeen: false }));

/** The rule that holds for a game: the last one of the stream that has begun by then, or else that of all streams. */
function ruleOf(id) {
  const begun = page.deployment.rules.filter((rule) => rule.from_game <= id);
  const latest = (stream) => begun.filter((rule) => rule.stream === stream).reduce((one, other) => (one?.from_game > other.from_game ? one : other), undefined);
  return latest($("stream").value) ?? latest(null) ?? DEFAULT_RULE;
}

// --- what is chosen -------------------------------------------------------------------------------------------------

function readAddress() {
  for (const name of Object.keys(CHOICES)) {
    if (asked.has(name)) page.chosen[name] = asked.get(name);
  }
  const { chosen } = page;
  chosen.value = Number(asked.get("x") ?? asked.get("value") ?? CHOICES.value);
  if (!(chosen.kind in { min: 1, max: 1, floor: 1 })) chosen.kind = CHOICES.kind;
  if (!(chosen.value >= 1 && chosen.value <= 1e9) || (chosen.kind === "floor" && chosen.value % 1)) chosen.value = CHOICES.value;
}

/** What is chosen stands in the address, so that it can be kept and handed on; defaults do not. */
function keepAddress() {
  const { value, ...others } = page.chosen;
  const address = new URLSearchParams(Object.entries(others).filter(([name, choice]) => choice !== CHOICES[name]));
  if (value !== CHOICES.value) address.set("x", value);
  if (api.stream) address.set("stream", api.stream);
  if (words.zoneName() !== ownZone) address.set("zone", words.zoneName());
  const query = address.toString();
  history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
}

function choose(change) {
  Object.assign(page.chosen, change);
  keepAddress();
  showChosen();
  showSoon();
}

function showChosen() {
  const { kind, value } = page.chosen;
  $("kind").value = kind;
  if (Number($("threshold").value) !== value) $("threshold").value = String(value);
  $("threshold").step = kind === "floor" ? "1" : "any";
  showChoice($("quick"), (choice) => Number(choice) === value);
  for (const button of $("quick").children) button.disabled = kind === "floor" && Number(button.value) % 1 !== 0;
  for (const place of document.querySelectorAll(".chosen")) tell(place, words.predicate(page.chosen));
  for (const place of document.querySelectorAll(".reached")) tell(place, words.predicate({ kind: "min", value }));
  for (const place of document.querySelectorAll(".limit")) tell(place, words.threshold(value));
}

function setUpControls() {
  setUpChoice($("quick"), QUICK.map((value) => [value, `${value}×`]), (value) => value === page.chosen.value, (value) => {
    choose({ value: page.chosen.kind === "floor" ? Math.floor(value) : value });
  });
  $("threshold").addEventListener("input", ({ target }) => {
    if (target.value !== "" && target.checkValidity()) choose({ value: target.valueAsNumber });
  });
  $("kind").addEventListener("change", ({ target }) => {
    choose({ kind: target.value, value: target.value === "floor" ? Math.floor(page.chosen.value) : page.chosen.value });
  });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("zone").addEventListener("change", ({ target }) => {
    words.setZone(target.value);
    keepAddress();
    showSoon();
  });
  $("stream").addEventListener("change", ({ target }) => {
    asked.set("stream", target.value);
    location.search = asked;
  });
}

// --- games ----------------------------------------------------------------------------------------------------------

/** Take games that came with `version`; what could not be counted on from what is known is asked for. */
function takeGames(shown, version, isWhole) {
  const { ledger } = page;
  const newest = ledger.newest?.id ?? 0;
  const told = Math.max(0, ...shown.map((game) => Number(game.gameId)));
  const isLost = newest > 0 && told > 0 && told < newest; // Redis lost what was told here before.
  const follows = isWhole || shown.length === 0 || shown.some((game) => ledger.has(game.gameId));
  if (isLost && !isWhole) ledger.replace([]);
  const fresh = ledger.add(shown);
  for (const game of fresh) game.version = Number(version);
  const isLate = fresh.some((game) => game.id < newest);
  if (held === 0 || !follows || isLate || (isLost && !isWhole)) loadSoon(Number(version));
  else if (fresh.length) facts.arrivedMs = api.now();
  showSoon();
}

/** Ask for what is held anew, now or after a while. */
function loadSoon(version) {
  reload.version = version;
  if (reload.timer) return;
  const waitMs = Math.max(0, reload.atMs + RELOAD_MS - performance.now());
  reload.timer = setTimeout(() => {
    reload.timer = 0;
    reload.atMs = performance.now();
    load(reload.version);
  }, waitMs);
}

/** Ask for the newest games, as of `version` at least; and soon, since nothing can be counted on, for all else. */
async function load(version) {
  epoch += 1;
  const mine = epoch;
  const limit = wanted;
  try {
    const parameters = { limit, ...(facts.replicaAgeS === null && version > 0 && { min_version: version }) };
    const answer = await api.get("api/analytics/last-games/min-crash-point/1", parameters);
    if (mine !== epoch) return;
    held = limit;
    for (const game of page.ledger.add(answer.body.data.games)) game.version = Number(answer.version);
  } catch {
    setTimeout(() => { if (mine === epoch) loadSoon(0); }, RETRY_MS);
  }
  showSoon();
}

/** Whether the ledger has the newest `number` games; if not, they are asked for. */
function has(number) {
  const isThere = page.ledger.games.length >= number || (held > 0 && page.ledger.games.length < held);
  if (!isThere) {
    wanted = Math.max(wanted, number);
    if (held > 0 && !isReaching) reachBack();
  }
  return isThere;
}

/** Reach further back: what is known stays known. */
async function reachBack() {
  const limit = wanted;
  isReaching = true;
  try {
    const answer = await api.get("api/analytics/last-games/min-crash-point/1", { limit });
    held = Math.max(held, limit);
    const newest = page.ledger.newest?.id ?? 0;
    const fresh = page.ledger.add(answer.body.data.games);
    // What is newer than all that was known will be told by an event as well, and is then no news.
    for (const game of fresh) game.version = game.id > newest ? Number(answer.version) : 0;
  } catch {
    await sleep(RETRY_MS);
  }
  isReaching = false;
  showSoon();
}

async function poll() {
  try {
    const answer = await api.get("api/games", { per_page: TOLD_GAMES });
    takeGames(answer.body.data, answer.version, false);
    if (facts.total === 0 && answer.body.count > 0) await lookAtStreams();
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status === 404) await lookAtStreams();
    return error instanceof Problem && error.status < 500;
  }
}

// --- showing and asking ---------------------------------------------------------------------------------------------

/** Show everything once, however much has changed since it was last shown. */
function showSoon() {
  if (isShowDue) return;
  isShowDue = true;
  requestAnimationFrame(() => {
    isShowDue = false;
    show();
  });
}

function show() {
  const { games } = page.ledger;
  facts.newestEndMs = games.at(-1)?.endMs ?? NaN;
  facts.gapMs = gapOf(games);
  const head = showHead(api.now());
  $("empty").hidden = head.name !== "empty";
  $("players").classList.toggle("bare", head.name === "empty");
  if (head.name === "empty") showWays(page.deployment, api, engine);
  if (document.hidden) return;
  if (!$("engine").hidden) engineView.update({ stream: api.stream, engine, streams, head });
  if ($("players").hidden) return;
  for (const panel of panels) {
    if (!panel.isSeen && !panel.isAlways) continue;
    ask(panel);
    if (has(panel.games())) panel.show(panel.answers);
  }
}

/** Ask what a panel needs and does not have, or has had for too long. */
function ask(panel) {
  if (facts.link === "offline" || facts.link === "connecting") return;
  for (const question of panel.questions()) {
    const { name, path, parameters, body, zone, freshMs } = question;
    const key = JSON.stringify([path, parameters, body, zone]);
    const known = panel.answers[name];
    const maxMs = facts.replicaAgeS === null ? freshMs : Math.min(freshMs, REPLICA_FRESH_MS);
    if (known?.key === key && known.epoch === epoch && performance.now() - known.askedMs < maxMs) continue;
    if (panel.asking.get(name) === key) continue;
    if (known && known.key !== key) delete panel.answers[name];
    panel.asking.set(name, key);
    $(panel.id).setAttribute("aria-busy", String(!panel.answers[name]));
    const mine = epoch;
    (body ? api.post(path, body) : api.get(path, parameters, zone)).then((answer) => {
      if (panel.asking.get(name) !== key) return;
      panel.asking.delete(name);
      panel.answers[name] = { key, epoch: mine, askedMs: performance.now(), data: answer.body, version: Number(answer.version) };
      notify(panel, "");
      showSoon();
    }, (error) => {
      if (panel.asking.get(name) !== key) return;
      notify(panel, error instanceof Problem && error.status >= 400 && error.status < 500 ? error.message : "");
      setTimeout(() => { if (panel.asking.get(name) === key) panel.asking.delete(name); }, RETRY_MS);
    }).finally(() => {
      if (panel.asking.size === 0) $(panel.id).setAttribute("aria-busy", "false");
    });
  }
}

const faults = new Map();

/** Say what a panel was refused; an empty text takes it back. */
function notify(panel, text) {
  if (text) faults.set(panel, text);
  else faults.delete(panel);
  const all = [...new Set(faults.values())].map((fault) => `${words.sentence(fault)}.`).join(" ");
  tell($("notice"), all);
  $("notice").hidden = all === "";
}

// --- the head -------------------------------------------------------------------------------------------------------

/** Ask engines how they are; what cannot be asked because Redis is away is told by an answer about games. */
async function look() {
  if (facts.link === "offline") return;
  try {
    engine = (await api.get("api/engine")).body.data;
    facts.replicaAgeS = null;
    const own = streams?.streams.find((one) => one.stream === $("stream").value);
    setEngine(engine, own?.partition ?? null, api.now());
  } catch (error) {
    if (error instanceof Problem && error.status === 503) await api.get("api/games", { per_page: 1 }).catch(() => null);
  }
  showSoon();
}

/** Ask once what the settings say; as long as that fails the defaults are taken. */
async function learn() {
  try {
    page.deployment = (await api.get("api/deployment")).body.data;
    for (const panel of panels) panel.offer();
    showSoon();
  } catch {
    setTimeout(learn, RETRY_MS);
  }
}

async function lookAtStreams() {
  try {
    streams = (await api.get("api/streams")).body.data;
    const names = streams.streams.map((one) => one.stream);
    const own = page.deployment.stream ?? "crash";
    if (!api.stream && names.length && !names.includes(own)) { // Many streams, and none of the usual name.
      [api.stream] = names;
      keepAddress();
      api.hurry();
    }
    offerStreams(names, api.stream || own);
    if (names.length === 0) facts.total = 0;
    else if (facts.link !== "live") facts.total = streams.streams.find((one) => one.stream === $("stream").value)?.total_games ?? null;
  } catch {
    // The head tells it.
  }
}

function showView() {
  const isEngine = location.hash === "#engine";
  $("engine").hidden = !isEngine;
  $("players").hidden = isEngine;
  for (const [id, isHere] of [["to-engine", isEngine], ["to-players", !isEngine]]) {
    if (isHere) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  showSoon();
}

function askToken() {
  const form = $("token-form");
  form.hidden = false;
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      api.token = $("token").value;
      form.hidden = true;
      resolve();
    }, { once: true });
  });
}

// --- the page -------------------------------------------------------------------------------------------------------

api.onAnswer = ({ source, version, ageS }) => {
  facts.version = Number(version);
  facts.replicaAgeS = source === "replica" ? ageS : null;
};

readAddress();
words.setZone(asked.get("zone") ?? ownZone) || words.setZone("UTC");
offerZones(ownZone, words.zoneName());
offerStreams([], api.stream || "crash");
setUpControls();
for (const panel of panels) panel.offer();
showChosen();
engineView.mount($("engine"), api);
showView();
addEventListener("hashchange", showView);

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) panels.find((panel) => panel.id === entry.target.id).isSeen = entry.isIntersecting;
  showSoon();
}, { rootMargin: "200px" });
for (const panel of panels) sight.observe($(panel.id));

setInterval(showSoon, 1_000);
setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
setInterval(() => { if (!document.hidden) lookAtStreams(); }, STREAMS_MS);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  api.hurry();
  look();
});
addEventListener("online", () => api.hurry());
learn();
lookAtStreams().then(look);
api.follow({
  event(name, data) {
    facts.version = data.version;
    facts.total = data.total_games;
    takeGames(data.games, data.version, name === "commit" && data.skipped === 0);
  },
  link(link, retryAtMs) {
    setLink(link, api.now(), retryAtMs);
    showSoon();
  },
  poll,
  asksToken: askToken,
}, TOLD_GAMES);
