// The figures: how often, how long since, and both for all thresholds, each beside what the odds say.

import { $, make, tell } from "./dom.js";
import { countOf, LEDGER_GAMES, waitSince } from "./ledger.js";
import { band, waiting, waitOf } from "./odds.js";
import * as words from "./words.js";

const MINUTE_MS = 60_000;
const HOURS_FRESH_MS = 15_000;
export const NAMES = { min: "min-crash-point", max: "max-crash-point", floor: "exact-floor" };
const ROOT = "api/analytics";

const labelOf = ({ kind, value }) => (kind === "floor" ? String(value) : Number.isInteger(value) ? `${value}.0` : String(value));
const sampleText = ([unit, size]) => (unit === "games" ? `${words.count(size)} games` : size === 1 ? "1 hour" : `${size} hours`);

/** The deployment's samples, as [unit, size]. */
function samplesOf({ samples_games: games, samples_hours: hours }) {
  return [...games.map((size) => ["games", size]), ...hours.map((size) => ["hours", size])];
}

const isCounted = ([unit, size]) => unit === "games" && size <= LEDGER_GAMES;

export function oftenPanel(page) {
  const sampleOf = () => page.chosen.sample.split(":").map((part, at) => (at ? Number(part) : part));

  function offer() {
    const samples = samplesOf(page.deployment);
    for (const more of [["games", 10_000], ["games", page.deployment.window_games]]) {
      if (more[1] <= page.deployment.window_games && !samples.some((one) => one.join() === more.join())) samples.push(more);
    }
    $("sample").replaceChildren(...samples.map((one) => make("option", { value: one.join(":") }, `last ${sampleText(one)}`)));
    $("sample").value = page.chosen.sample;
    if ($("sample").selectedIndex < 0) page.choose({ sample: samples[0].join(":") });
  }

  function questions() {
    const [unit, size] = sampleOf();
    if (isCounted([unit, size])) return [];
    const { kind, value } = page.chosen;
    const parameters = unit === "games" ? { games: size } : { by_time: true, hours: size };
    const freshMs = unit === "games" ? MINUTE_MS : HOURS_FRESH_MS;
    return [{ name: "often", path: `${ROOT}/occurrences/${NAMES[kind]}/${value}`, parameters, freshMs }];
  }

  function show(answers) {
    const sample = sampleOf();
    const occurrences = isCounted(sample) ? null : answers.often?.data.data.occurrences;
    if (occurrences === undefined) return;
    const { count, total } = occurrences === null
      ? countOf(page.ledger.games, page.chosen, sample[1])
      : { count: occurrences.count, total: occurrences.total_games };
    const p = page.chance(page.chosen);
    const { low, high } = band(total, p);
    tell($("percentage"), total ? words.percent(count / total) : "–");
    tell($("often-text"), total ? `${words.count(count)} of ${words.games(total)}` : "No games in this sample");
    $("gauge-fill").style.width = `${total ? (100 * count) / total : 0}%`;
    $("gauge-mark").style.transform = `translateX(${100 * p}%)`;
    $("gauge-band").style.transform = total ? `translateX(${(100 * low) / total}%) scaleX(${(high - low) / total})` : "scaleX(0)";
    const usual = `the odds say ${words.chance(p)}, and ${words.count(low)} to ${words.count(high)} in 95 of 100 samples like this`;
    tell($("often-odds"), !total ? "–" : count < low ? `Fewer than usual: ${usual}.` : count > high ? `More than usual: ${usual}.` : `As usual: ${usual}.`);
  }

  $("sample").addEventListener("change", ({ target }) => page.choose({ sample: target.value }));
  const games = () => (isCounted(sampleOf()) ? sampleOf()[1] : 0);
  return { id: "often-card", games, offer, questions, show };
}

/** How many games since the newest match: from the ledger, or else from the answer and what came after it. */
function sinceOf(page, predicate, answers) {
  const near = waitSince(page.ledger.games, predicate);
  if (near !== null) return { since: near.since, point: near.game.point, endMs: near.game.endMs };
  const answer = answers.since;
  if (answer === undefined) return undefined;
  const found = answer.data.data[labelOf(predicate)];
  if (!found) return null;
  const later = page.ledger.games.filter((game) => game.version > answer.version).length;
  return { since: found.games_since + later, point: found.game.crashPoint, endMs: Date.parse(found.game.endTime) };
}

function sinceQuestion(kind, values) {
  return { name: "since", path: `${ROOT}/last-games/${NAMES[kind]}s`, body: { values }, freshMs: 5 * MINUTE_MS };
}

export function sincePanel(page) {
  function questions() {
    const isFar = page.ledger.games.length > 0 && waitSince(page.ledger.games, page.chosen) === null;
    return isFar ? [sinceQuestion(page.chosen.kind, [page.chosen.value])] : [];
  }

  function show(answers) {
    const found = sinceOf(page, page.chosen, answers);
    if (found === undefined && page.ledger.games.length) return;
    tell($("since"), found ? words.count(found.since) : "–");
    tell($("since-unit"), found?.since === 1 ? "game" : "games");
    tell($("since-text"), found ? `The last was ${words.point(found.point)}, ${words.moment(found.endMs, page.now(), words.minute)}` : "None is known");
    tell($("chance"), words.chance(page.chance(page.chosen)));
  }

  return { id: "since-card", questions, show };
}

export function waitsPanel(page) {
  const valuesOf = () => page.deployment[page.chosen.kind];
  const questions = () => [sinceQuestion(page.chosen.kind, valuesOf())];
  let drawn = "";
  let rows = [];

  function show(answers) {
    const { kind } = page.chosen;
    const values = valuesOf();
    if (drawn !== `${kind} ${values}`) draw(kind, values);
    for (const { value, since, usual, track, dot, share } of rows) {
      const predicate = { kind, value };
      const found = sinceOf(page, predicate, answers);
      const p = page.chance(predicate);
      tell(since, found ? words.count(found.since) : "–");
      tell(usual, `usually ${words.count(Math.ceil(waitOf(p, 0.5)))}, up to ${words.count(Math.ceil(waitOf(p, 0.95)))}`);
      dot.hidden = !found;
      const longer = found ? waiting(p, found.since) : 1;
      dot.style.transform = `translateX(${100 * (1 - longer)}%)`;
      track.classList.toggle("beyond", longer < 0.05);
      tell(share, found ? `${words.chance(longer)} are as long` : "never seen here");
    }
  }

  function draw(kind, values) {
    drawn = `${kind} ${values}`;
    tell($("waits-number"), String(values.length));
    rows = values.map((value) => {
      const track = make("span", { class: "track", "aria-hidden": "true" }, make("b"), make("i"));
      const parts = { since: make("strong", {}, "–"), usual: make("span", { class: "usual" }, "–"), share: make("span", { class: "share" }, "–") };
      return { value, track, dot: track.lastChild, ...parts };
    });
    $("waits").replaceChildren(...rows.map(({ value, since, usual, track, share }) => make("li", {},
      make("span", { class: "what" }, words.predicate({ kind, value })), since, track, usual, share)));
  }

  return { id: "waits-card", offer: () => draw(page.chosen.kind, valuesOf()), questions, show };
}

export function matrixPanel(page) {
  let drawn = "";
  let cells = [];

  function questions() {
    const { kind } = page.chosen;
    return samplesOf(page.deployment).filter((sample) => !isCounted(sample)).map(([unit, size]) => ({
      name: `${unit}:${size}`, path: `${ROOT}/occurrences/${NAMES[kind]}s/batch`, freshMs: MINUTE_MS,
      body: { values: page.deployment[kind], comparison: false, ...(unit === "games" ? { games: size } : { by_time: true, hours: size }) },
    }));
  }

  function show(answers) {
    const { kind } = page.chosen;
    const values = page.deployment[kind];
    const samples = samplesOf(page.deployment);
    if (drawn !== `${kind} ${values} ${samples}`) draw(kind, values, samples);
    let [outside, expected, known] = [0, 0, 0];
    for (const { value, sample, observed, usual, cell } of cells) {
      const predicate = { kind, value };
      const found = isCounted(sample)
        ? countOf(page.ledger.games, predicate, sample[1])
        : answers[sample.join(":")]?.data.data.results[labelOf(predicate)];
      if (!found) continue;
      const total = found.total ?? found.total_games;
      const p = page.chance(predicate);
      const { low, high, outside: chance } = band(total, p);
      const sign = found.count < low ? "▼ " : found.count > high ? "▲ " : "";
      tell(observed, `${sign}${words.count(found.count)}`);
      tell(usual, `${words.expected(total * p)} (${words.count(low)}–${words.count(high)})`);
      cell.classList.toggle("outside", sign !== "");
      outside += sign ? 1 : 0;
      expected += chance;
      known += total ? 1 : 0;
    }
    if (known) tell($("matrix-text"), `${outside} of ${known} lie outside their band (▲ above, ▼ below); by chance alone about ${words.rate(expected)} would`);
  }

  function draw(kind, values, samples) {
    drawn = `${kind} ${values} ${samples}`;
    $("matrix-head").replaceChildren(make("tr", {},
      make("th", { scope: "col" }, "Games"), ...samples.map((sample) => make("th", { scope: "col" }, sampleText(sample)))));
    cells = [];
    $("matrix").replaceChildren(...values.map((value) => make("tr", {},
      make("th", { scope: "row" }, words.predicate({ kind, value })),
      ...samples.map((sample) => {
        const [observed, usual] = [make("strong", {}, "–"), make("span", {}, "–")];
        const cell = make("td", {}, observed, usual);
        cells.push({ value, sample, observed, usual, cell });
        return cell;
      }))));
  }

  const games = () => Math.max(0, ...samplesOf(page.deployment).filter(isCounted).map(([, size]) => size));
  return { id: "matrix-card", games, questions, show };
}
