// The live page: what is chosen, what is known, and how it is shown. Text goes in as text, never as markup.

import { Api, Problem, sleep } from "./api.js";
import { IntervalChart } from "./chart.js";

const GAMES_SHOWN = 80;
const RUNS_SHOWN = 12;
const SERIES_GAMES = 1_000;
const REFRESH_MS = 1_000; // Aggregates are asked for again after commits, and no oftener.
const RETRY_MS = 3_000;
const LOOK_MS = 10_000; // Hours go by, and Redis may go away, without a commit.
const QUICK = [1.5, 2, 3, 5, 10, 100];
const BANDS = [[1.2, "low"], [2, "plain"], [5, "good"], [20, "fine"], [100, "high"], [Infinity, "rare"]];

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const percent = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const chances = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const points = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 15 });

const asked = new URLSearchParams(location.search);
const api = new Api(asked.get("stream") ?? "");
const chosen = { x: 2, sample: "games:100", bucket: "10:24" };
let games = []; // Newest first.
let newestEndMs = NaN;
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
  const address = new URLSearchParams({ ...chosen, ...(api.stream && { stream: api.stream }) });
  history.replaceState(null, "", `?${address}`);
  showChosen();
  showGames();
  refreshSoon();
}

function showChosen() {
  if (Number($("threshold").value) !== chosen.x) $("threshold").value = String(chosen.x);
  $("sample").value = chosen.sample;
  $("bucket").value = chosen.bucket;
  for (const button of $("quick").children) button.setAttribute("aria-pressed", String(Number(button.value) === chosen.x));
  for (const place of document.querySelectorAll(".threshold")) place.textContent = `≥ ${short.format(chosen.x)}×`;
  for (const place of document.querySelectorAll(".limit")) place.textContent = `${short.format(chosen.x)}×`;
  const odds = expected();
  $("expected").textContent = chance(odds);
  $("gauge-mark").style.left = `${odds}%`;
}

function setUpControls() {
  for (const value of QUICK) {
    const button = element("button", `${value}×`);
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
  newestEndMs = games.length ? Date.parse(games[0].endTime) : NaN;
  showGames(known.size ? fresh : new Set());
  showAge();
}

function showGames(fresh = new Set()) {
  $("games").replaceChildren(...games.map((game) => {
    const chip = element("li", `${points.format(game.crashPoint)}×`);
    chip.className = `chip band-${BANDS.find(([below]) => game.crashPoint < below)[1]}`;
    chip.classList.toggle("reached", game.crashPoint >= chosen.x);
    chip.classList.toggle("new", fresh.has(game.gameId));
    chip.title = `Game ${game.gameId}, ${clock(game.endTime, 19)}`;
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
      show(answer.data.data);
      showSource(answer);
    } catch (error) {
      if (now !== choice) return;
      const status = error instanceof Problem ? error.status : 0;
      if (status >= 400 && status < 500 && status !== 401) fault = `${sentence(error.message)}.`;
      else if (status !== 401) again = true;
    }
  }));
  tell(fault);
  if (again) setTimeout(refreshSoon, RETRY_MS);
}

function showOccurrences(data) {
  const { occurrences } = data;
  const total = occurrences.total_games;
  $("percentage").textContent = total ? percent.format(occurrences.percentage) : "–";
  $("gauge-fill").style.width = `${total ? occurrences.percentage : 0}%`;
  $("occurrences-text").textContent = total
    ? `${count.format(occurrences.count)} of ${count.format(total)} games`
    : "No games in this sample";
}

function showLastGame(data) {
  const since = data?.games_since; // Null when there was none.
  $("since").textContent = data ? count.format(since) : "–";
  $("since-unit").textContent = since === 1 ? "game" : "games";
  $("since-text").textContent = data
    ? `The last was ${points.format(data.game.crashPoint)}×, ${moment(data.game.endTime)}`
    : "None is known";
  $("chance").textContent = chance(data ? data.probability.value : expected());
}

function showIntervals(data) {
  const items = data.intervals;
  const [minutes, hours] = chosen.bucket.split(":").map(Number);
  chart.show({ items, minutes, hours, expected: expected() });
  const shares = items.map((item) => item.percentage);
  $("chart").setAttribute("aria-label", items.length
    ? `Share of games of at least ${short.format(chosen.x)}× in ${items.length} intervals of ${minutes} minutes: from `
      + `${percent.format(Math.min(...shares))} to ${percent.format(Math.max(...shares))} percent; the odds say `
      + `${chances.format(expected())}. Arrow keys choose an interval.`
    : "No games in this time");
  $("interval-rows").replaceChildren(...items.toReversed().map((item) => row(
    moment(item.interval_start), clock(item.interval_end), count.format(item.count),
    count.format(item.total_games), `${percent.format(item.percentage)} %`,
  )));
}

function showSeries(data) {
  const runs = data.series;
  const longest = Math.max(1, ...runs.map((run) => run.length));
  $("series-text").textContent = runs.length
    ? `${count.format(runs.length)} in the last ${count.format(SERIES_GAMES)} games, the longest of ${count.format(longest)}`
    : `none in the last ${count.format(SERIES_GAMES)} games`;
  $("runs").replaceChildren(...runs.slice(0, RUNS_SHOWN).map((run) => {
    const isOpen = run.crash_point === null;
    const bar = element("span", "");
    bar.className = isOpen ? "run open" : "run";
    bar.style.width = `${(run.length / longest) * 100}%`;
    const by = isOpen ? "still open" : `${points.format(run.crash_point)}×`;
    return row(count.format(run.length), bar, by, isOpen ? `since ${moment(run.start_time, 19)}` : moment(run.end_time, 19));
  }));
}

// --- health ---------------------------------------------------------------------------------------------------------

function showState(state) {
  const texts = { live: "live", polling: "no live stream, asking again and again", offline: "offline, trying again" };
  if ($("status").dataset.state === state) return;
  $("status").dataset.state = state;
  $("status-text").textContent = texts[state];
}

/** `total` counts all games or, when only the API could be asked, those `where` says. */
function showStanding(version, total, where = "") {
  $("version").textContent = version === null ? "–" : count.format(version);
  $("total").textContent = `${count.format(total)}${where}`;
}

function showSource({ source, age }) {
  if (!source) return;
  $("source").textContent = source === "replica" ? `replica, ${seconds(Number(age))} old` : source;
}

function showAge() {
  const ageS = Math.max(0, (Date.now() + api.clockAheadMs - newestEndMs) / 1_000);
  $("age").textContent = Number.isNaN(ageS) ? "–" : `${seconds(ageS)} ago`;
}

function tell(text) {
  if ($("notice").textContent === text) return;
  $("notice").textContent = text;
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

/** The wall clock of a time, to the minute, or with `end` 19 to the second. The API tells times in the zone asked for. */
function clock(iso, end = 16) {
  return iso.slice(11, end);
}

/** The same, with the date unless it is that of the newest game. */
function moment(iso, end = 16) {
  const isToday = games.length > 0 && games[0].endTime.slice(0, 10) === iso.slice(0, 10);
  return isToday ? clock(iso, end) : `${iso.slice(0, 10)} ${clock(iso, end)}`;
}

function intervalText(item) {
  const of = `${count.format(item.count)} of ${count.format(item.total_games)} games`;
  return `${moment(item.interval_start)}–${clock(item.interval_end)}: ${percent.format(item.percentage)} %, ${of}`;
}

function seconds(value) {
  if (value < 100) return `${Math.floor(value)} s`;
  if (value < 6_000) return `${Math.floor(value / 60)} min`;
  return value < 172_800 ? `${Math.floor(value / 3_600)} h` : `${count.format(Math.floor(value / 86_400))} days`;
}

function chance(percentage) {
  return percentage > 0 ? `${chances.format(percentage)} %` : "Under 0.01 %";
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
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
    showStanding(answer.version, answer.data.pagination.total_items, " in the window");
    showSource(answer);
    if (answer.isNew) takeGames(answer.data.data, true);
    $("zone").textContent = api.zone;
    refreshSoon();
    return true;
  } catch (error) {
    return error instanceof Problem && error.status < 500;
  }
}

readAddress();
setUpControls();
showChosen();
if (api.stream) {
  $("stream").textContent = api.stream;
  $("stream").hidden = false;
}
setInterval(showAge, 1_000);
setInterval(refreshSoon, LOOK_MS);
document.addEventListener("visibilitychange", refreshSoon);
refreshSoon();
keepFresh();
api.follow({
  event(name, data) {
    $("zone").textContent = api.zone;
    showStanding(data.version, data.total_games);
    takeGames(data.games, name === "snapshot");
    refreshSoon();
  },
  state: showState,
  poll,
  asksToken: askToken,
});
