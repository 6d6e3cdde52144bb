// The live page: what is chosen, what is known, and how it is shown. Text goes in as text, never as markup.

import { Api, Problem, sleep } from "./api.js";
import { IntervalChart } from "./chart.js";
import { $, make, tell } from "./dom.js";
import * as engineView from "./engine.js";
import { facts, offerStreams, offerZones, setEngine, setLink, showHead } from "./head.js";
import * as words from "./words.js";

const GAMES_SHOWN = 80;
const RUNS_SHOWN = 12;
const SERIES_GAMES = 1_000;
const REFRESH_MS = 1_000; // Aggregates are asked for again after commits, and no oftener.
const RETRY_MS = 3_000;
const LOOK_MS = 5_000; // How often engines are asked how they are.
const STREAMS_MS = 60_000;
const QUICK = [1.5, 2, 3, 5, 10, 100];
const BANDS = [[1.2, "low"], [2, "plain"], [5, "good"], [20, "fine"], [100, "high"], [Infinity, "rare"]];

const { count, point, threshold } = words;
const percent = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const chances = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

const asked = new URLSearchParams(location.search);
const ownZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const api = new Api(asked.get("stream") ?? "");
const chosen = { x: 2, sample: "games:100", bucket: "10:24" };
let games = []; // Newest first.
let engine = null; // The answer of /api/engine.
let streams = null; // That of /api/streams.
let wanted = false;
let wake = () => {};
let choice = 0; // Counts changes of what is chosen: answers to older questions are dropped.

const chart = new IntervalChart($("chart"), (item) => {
  $("bar-text").textContent = item ? intervalText(item) : "per interval, in percent";
});

// --- what is chosen -------------------------------------------------------------------------------------------------

function readAddress() {
  const x = Number(asked.get("x"));
  if (asked.has("x") && x >= 1 && x <= 1e9) chosen.x = x;
  for (const name of ["sample", "bucket"]) {
    if ([...$(name).options].some((option) => option.value === asked.get(name))) chosen[name] = asked.get(name);
  }
}

function choose(change) {
  Object.assign(chosen, change);
  choice += 1;
  keepAddress();
  showChosen();
  showGames();
  refreshSoon();
}

/** What is chosen stands in the address, so that it can be kept and handed on. */
function keepAddress() {
  const address = new URLSearchParams({
    ...chosen, ...(api.stream && { stream: api.stream }), ...(words.zoneName() !== ownZone && { zone: words.zoneName() }),
  });
  history.replaceState(null, "", `?${address}${location.hash}`);
}

function showChosen() {
  if (Number($("threshold").value) !== chosen.x) $("threshold").value = String(chosen.x);
  $("sample").value = chosen.sample;
  $("bucket").value = chosen.bucket;
  for (const button of $("quick").children) button.setAttribute("aria-pressed", String(Number(button.value) === chosen.x));
  for (const place of document.querySelectorAll(".threshold")) place.textContent = words.predicate({ kind: "min", value: chosen.x });
  for (const place of document.querySelectorAll(".limit")) place.textContent = threshold(chosen.x);
  const odds = expected();
  $("expected").textContent = chance(odds);
  $("gauge-mark").style.left = `${odds}%`;
}

function setUpControls() {
  for (const value of QUICK) {
    const button = make("button", {}, `${value}×`);
    button.type = "button";
    button.value = String(value);
    button.addEventListener("click", () => choose({ x: value }));
    $("quick").append(button);
  }
  $("threshold").addEventListener("input", ({ target }) => {
    if (target.value !== "" && target.checkValidity()) choose({ x: target.valueAsNumber });
  });
  $("sample").addEventListener("change", ({ target }) => choose({ sample: target.value }));
  $("bucket").addEventListener("change", ({ target }) => choose({ bucket: target.value }));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
}

/** The chance of a game that reaches the threshold, in percent: 99 in 100 is paid back. */
function expected() {
  return chosen.x > 1 ? Math.round(9_900 / chosen.x) / 100 : 100;
}

// --- games ----------------------------------------------------------------------------------------------------------

function takeGames(more, isWhole) {
  const known = new Set(games.map((game) => game.gameId));
  const fresh = new Set(more.filter((game) => !known.has(game.gameId)).map((game) => game.gameId));
  const all = isWhole ? more : [...games, ...more.filter((game) => fresh.has(game.gameId))];
  games = [...all].sort((one, other) => Number(other.gameId) - Number(one.gameId)).slice(0, GAMES_SHOWN);
  facts.newestEndMs = games.length ? Date.parse(games[0].endTime) : NaN;
  if (known.size && fresh.size) facts.arrivedMs = api.now();
  const gaps = games.slice(1).map((game, at) => Date.parse(games[at].endTime) - Date.parse(game.endTime)).sort((one, other) => one - other);
  facts.gapMs = gaps[Math.floor(gaps.length * 0.9)] ?? 0;
  showGames(known.size ? fresh : new Set());
  show();
}

function showGames(fresh = new Set()) {
  $("games").replaceChildren(...games.map((game) => {
    const chip = make("li", {}, point(game.crashPoint));
    chip.className = `chip band-${BANDS.find(([below]) => game.crashPoint < below)[1]}`;
    chip.classList.toggle("reached", game.crashPoint >= chosen.x);
    chip.classList.toggle("new", fresh.has(game.gameId));
    chip.title = `Game ${game.gameId}, ${moment(game.endTime, words.clock)}`;
    return chip;
  }));
}

// --- aggregates -----------------------------------------------------------------------------------------------------

function refreshSoon() {
  wanted = true;
  wake();
}

/** Ask for the aggregates whenever something is new and the page is seen, one round after the other. */
async function keepFresh() {
  for (;;) {
    while (!wanted || document.hidden) await new Promise((resolve) => { wake = resolve; });
    wanted = false;
    await refresh();
    await Promise.race([sleep(REFRESH_MS), choiceChanges(choice)]);
  }
}

async function choiceChanges(before) {
  while (choice === before) await new Promise((resolve) => { wake = resolve; });
}

async function refresh() {
  const now = choice;
  const [kind, size] = chosen.sample.split(":");
  const [minutes, hours] = chosen.bucket.split(":").map(Number);
  const by = kind === "games" ? { games: size } : { by_time: "true", hours: size };
  const x = String(chosen.x);
  const root = "api/analytics";
  const questions = [
    [api.get(`${root}/occurrences/min-crash-point/${x}`, by), showOccurrences],
    // Asked as a batch of one, since of a single threshold that was never reached the answer is a 404.
    [api.post(`${root}/last-games/min-crash-points`, { values: [chosen.x] }), (data) => showLastGame(Object.values(data)[0])],
    [api.get(`${root}/intervals/min-crash-point/${x}`, { interval_minutes: minutes, hours }), showIntervals],
    [api.get(`${root}/series/without-min-crash-point/${x}`, { limit: SERIES_GAMES }), showSeries],
  ];
  let fault = "";
  let again = false;
  await Promise.all(questions.map(async ([question, show]) => {
    try {
      const answer = await question;
      if (now !== choice) return;
      show(answer.body.data);
    } catch (error) {
      if (now !== choice) return;
      const status = error instanceof Problem ? error.status : 0;
      if (status >= 400 && status < 500 && status !== 401) fault = `${words.sentence(error.message)}.`;
      else if (status !== 401) again = true;
    }
  }));
  notify(fault);
  if (again) setTimeout(refreshSoon, RETRY_MS);
}

function showOccurrences(data) {
  const { occurrences } = data;
  const total = occurrences.total_games;
  $("percentage").textContent = total ? percent.format(occurrences.percentage) : "–";
  $("gauge-fill").style.width = `${total ? occurrences.percentage : 0}%`;
  $("occurrences-text").textContent = total
    ? `${count(occurrences.count)} of ${count(total)} games`
    : "No games in this sample";
}

function showLastGame(data) {
  const since = data?.games_since; // Null when there was none.
  $("since").textContent = data ? count(since) : "–";
  $("since-unit").textContent = since === 1 ? "game" : "games";
  $("since-text").textContent = data
    ? `The last was ${point(data.game.crashPoint)}, ${moment(data.game.endTime)}`
    : "None is known";
  $("chance").textContent = chance(data ? data.probability.value : expected());
}

function showIntervals(data) {
  const items = data.intervals;
  const [minutes, hours] = chosen.bucket.split(":").map(Number);
  chart.show({ items, minutes, hours, expected: expected() });
  const shares = items.map((item) => item.percentage);
  $("chart").setAttribute("aria-label", items.length
    ? `Share of games of at least ${threshold(chosen.x)} in ${items.length} intervals of ${minutes} minutes: from `
      + `${percent.format(Math.min(...shares))} to ${percent.format(Math.max(...shares))} percent; the odds say `
      + `${chances.format(expected())}. Arrow keys choose an interval.`
    : "No games in this time");
  $("interval-rows").replaceChildren(...items.toReversed().map((item) => row(
    moment(item.interval_start), clock(item.interval_end), count(item.count),
    count(item.total_games), `${percent.format(item.percentage)} %`,
  )));
}

function showSeries(data) {
  const runs = data.series;
  const longest = Math.max(1, ...runs.map((run) => run.length));
  $("series-text").textContent = runs.length
    ? `${count(runs.length)} in the last ${count(SERIES_GAMES)} games, the longest of ${count(longest)}`
    : `none in the last ${count(SERIES_GAMES)} games`;
  $("runs").replaceChildren(...runs.slice(0, RUNS_SHOWN).map((run) => {
    const isOpen = run.crash_point === null;
    const bar = make("span");
    bar.className = isOpen ? "run open" : "run";
    bar.style.width = `${(run.length / longest) * 100}%`;
    const by = isOpen ? "still open" : point(run.crash_point);
    return row(count(run.length), bar, by, isOpen ? `since ${moment(run.start_time, words.clock)}` : moment(run.end_time, words.clock));
  }));
}

// --- the head -------------------------------------------------------------------------------------------------------

function show() {
  const head = showHead(api.now());
  if (!$("engine").hidden) engineView.update({ stream: api.stream, engine, streams, head });
}

/** Ask engines how they are; what cannot be asked because Redis is away is told by an answer about games. */
async function look() {
  try {
    engine = (await api.get("api/engine")).body.data;
    facts.replicaAgeS = null;
    const own = streams?.streams.find((one) => one.stream === $("stream").value);
    setEngine(engine, own?.partition ?? null, api.now());
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 503) return;
    await api.get("api/games", { per_page: 1 }).catch(() => null);
  }
  show();
}

async function lookAtStreams() {
  try {
    streams = (await api.get("api/streams")).body.data;
    const names = streams.streams.map((one) => one.stream);
    offerStreams(names, api.stream || (names.includes("crash") || names.length === 0 ? "crash" : names[0]));
    if (names.length === 0) facts.total = 0;
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
  show();
}

function notify(text) {
  tell($("notice"), text);
  $("notice").hidden = text === "";
}

function askToken() {
  const form = $("token-form");
  form.hidden = false;
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      api.token = $("token").value;
      form.hidden = true;
      refreshSoon();
      resolve();
    }, { once: true });
  });
}

// --- words ----------------------------------------------------------------------------------------------------------

const clock = (iso) => words.minute(Date.parse(iso));
const moment = (iso, write = words.minute) => words.moment(Date.parse(iso), api.now(), write);

function intervalText(item) {
  const of = `${count(item.count)} of ${count(item.total_games)} games`;
  return `${moment(item.interval_start)}–${clock(item.interval_end)}: ${percent.format(item.percentage)} %, ${of}`;
}

function chance(percentage) {
  return percentage > 0 ? `${chances.format(percentage)} %` : "Under 0.01 %";
}

function row(...cells) {
  const made = document.createElement("tr");
  made.append(...cells.map((cell) => {
    const place = document.createElement("td");
    place.append(cell);
    return place;
  }));
  return made;
}

// --- the page -------------------------------------------------------------------------------------------------------

async function poll() {
  try {
    const answer = await api.get("api/games", { per_page: GAMES_SHOWN });
    if (answer.isNew) takeGames(answer.body.data, true);
    refreshSoon();
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status === 404) await lookAtStreams();
    return error instanceof Problem && error.status < 500;
  }
}

api.onAnswer = ({ source, version, ageS }) => {
  facts.version = Number(version);
  if (source === "replica") facts.replicaAgeS = ageS;
  else facts.replicaAgeS = null;
};

readAddress();
offerZones(ownZone);
offerStreams([], api.stream || "crash");
words.setZone(asked.get("zone") ?? ownZone) || words.setZone("UTC");
$("zone").value = words.zoneName();
setUpControls();
showChosen();
engineView.mount($("engine"), api);
showView();
addEventListener("hashchange", showView);
$("zone").addEventListener("change", ({ target }) => {
  words.setZone(target.value);
  keepAddress();
  showGames();
  refreshSoon();
});
$("stream").addEventListener("change", ({ target }) => {
  asked.set("stream", target.value);
  location.search = asked;
});
setInterval(show, 1_000);
setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
setInterval(() => { if (!document.hidden) lookAtStreams(); }, STREAMS_MS);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  api.hurry();
  look();
  refreshSoon();
});
addEventListener("online", () => api.hurry());
lookAtStreams().then(look);
refreshSoon();
keepFresh();
api.follow({
  event(name, data) {
    facts.version = data.version;
    facts.total = data.total_games;
    takeGames(data.games, name === "snapshot");
    refreshSoon();
  },
  link(link, retryAtMs) {
    setLink(link, api.now(), retryAtMs);
    show();
  },
  poll,
  asksToken: askToken,
});
