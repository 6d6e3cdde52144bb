// Runs of games below a threshold: the one under way, the longest, how long they are; and the records of the window.

import { Chart, lengths } from "./chart.js";
import { $, make, row, tell } from "./dom.js";
import { seriesWith } from "./ledger.js";
import { longestWait, waitOf } from "./odds.js";
import * as words from "./words.js";

const RUNS_SHOWN = 100;
const RUNS_ASKED = 1_200; // A bigger answer is not worth its weight.
const FRESH_MS = 300_000;
const BINS = 24;

export function seriesPanel(page) {
  let bins = [];
  const chart = new Chart($("lengths"), $("lengths-reading"), lengths, read);
  const sizes = () => [...new Set([100, 1_000, 10_000, page.deployment.window_games])].filter((size) => size <= page.deployment.window_games);
  const isLight = (size) => size * page.reaching(page.chosen.value) <= RUNS_ASKED;
  /** What was chosen, or the largest sample that is light enough. */
  const sizeOf = () => (isLight(Number(page.chosen.series)) ? Number(page.chosen.series) : sizes().findLast(isLight) ?? sizes()[0]);

  function offer() {
    $("series-sample").replaceChildren(...sizes().map((size) => make("option", { value: size }, `${words.count(size)} games`)));
    $("series-sort").value = page.chosen.sort;
  }

  function questions() {
    if (page.chosen.kind !== "min") return [];
    const path = `api/analytics/series/without-min-crash-point/${page.chosen.value}`;
    return [{ name: "series", path, parameters: { limit: sizeOf() }, freshMs: FRESH_MS }];
  }

  function show(answers) {
    for (const option of $("series-sample").options) option.disabled = !isLight(Number(option.value));
    $("series-sample").value = String(sizeOf());
    $("series-sort").value = page.chosen.sort;
    if (page.chosen.kind !== "min") {
      tell($("series-text"), "Runs are there for points of at least a threshold.");
      $("runs").replaceChildren();
      chart.show([[]], "No runs", "");
      return;
    }
    if (!answers.series) return;
    const { value } = page.chosen;
    let runs = answers.series.data.data.series;
    for (const game of page.ledger.games) {
      if (game.version > answers.series.version) runs = seriesWith(runs, game, value);
    }
    const p = page.reaching(value);
    const longest = runs.reduce((best, run) => Math.max(best, run.length), 0);
    const open = runs[0]?.crash_point === null ? runs[0] : null;
    const usual = [0.025, 0.975].map((u) => words.count(Math.floor(longestWait(sizeOf(), p, u)) + 1)).join(" to ");
    tell($("series-text"), runs.length
      ? `${open ? `Under way: ${words.games(open.length)}. ` : "None under way. "}${words.count(runs.length)} in the last ${words.count(sizeOf())} games, `
        + `the longest of ${words.count(longest)}; usual for the longest: ${usual}.`
      : "No games yet.");
    showRuns(runs, longest);
    showLengths(runs.filter((run) => run.crash_point !== null), p);
  }

  function showRuns(runs, longest) {
    const sorted = page.chosen.sort === "time" ? runs : runs.toSorted((one, other) => other.length - one.length);
    $("runs").replaceChildren(...sorted.slice(0, RUNS_SHOWN).map((run) => {
      const isOpen = run.crash_point === null;
      const bar = make("span", { class: isOpen ? "run open" : "run" });
      bar.style.width = `${(run.length / Math.max(1, longest)) * 100}%`;
      const at = words.moment(Date.parse(isOpen ? run.start_time : run.end_time), page.now());
      return row(words.count(run.length), bar, isOpen ? "under way" : words.point(run.crash_point), isOpen ? `since ${at}` : at);
    }));
  }

  /** Closed runs by length, beside n p (1 − p)^(length − 1), in at most 24 bins; the last one holds all longer ones. */
  function showLengths(runs, p) {
    const wide = Math.max(1, Math.ceil(waitOf(p, 0.99) / BINS));
    const howMany = Math.min(BINS, Math.ceil(waitOf(p, 0.99) / wide) + 1);
    bins = Array.from({ length: howMany }, (_, at) => {
      const [from, to] = [at * wide + 1, at === howMany - 1 ? Infinity : (at + 1) * wide];
      const found = runs.filter((run) => run.length >= from && run.length <= to).length;
      const share = (1 - p) ** (from - 1) - (to === Infinity ? 0 : (1 - p) ** to);
      return { from, to, found, expected: share * runs.length };
    });
    chart.show(runs.length ? [bins.map(({ from }) => from), bins.map(({ found }) => found), bins.map(({ expected }) => expected)] : [[]],
      `${runs.length} runs by length, beside what the odds say. Arrow keys read values.`, "No run has ended yet");
  }

  function read(at) {
    const { from, to, found, expected } = bins[at];
    const what = to === Infinity ? `${from} games or more` : from === to ? words.games(from) : `${from} to ${to} games`;
    return `${what}: ${words.count(found)} ${found === 1 ? "run" : "runs"}, the odds say ${words.expected(expected)}`;
  }

  $("series-sample").addEventListener("change", ({ target }) => page.choose({ series: target.value }));
  $("series-sort").addEventListener("change", ({ target }) => page.choose({ sort: target.value }));
  return { id: "series-card", offer, questions, show };
}

const RECORD_FRESH_MS = 600_000;
const HIGHEST = 5;
const LONG = [100, 1_000];

export function recordsPanel(page) {
  const sizeOf = () => Math.min(page.facts.total ?? 0, page.deployment.window_games);
  /** A point that about forty games of the window reach: the highest are certainly among them. */
  const levelOf = () => Math.max(1, Math.floor(sizeOf() / 40));

  function questions() {
    if (sizeOf() === 0) return [];
    const games = page.deployment.window_games;
    return [
      { name: "highest", path: `api/analytics/last-games/min-crash-point/${page.records.level ??= levelOf()}`, parameters: { limit: 200 }, freshMs: RECORD_FRESH_MS },
      ...LONG.map((x) => ({
        name: `longest:${x}`, path: `api/analytics/series/without-min-crash-point/${x}`, parameters: { limit: games, sort_by: "length" }, freshMs: RECORD_FRESH_MS,
      })),
    ];
  }

  function show(answers) {
    const n = sizeOf();
    if (!answers.highest || n === 0) return;
    tell($("records-text"), `of the last ${words.count(n)} games`);
    const seen = new Map([...answers.highest.data.data.games, ...page.ledger.games.map(({ shown }) => shown)].map((shown) => [shown.gameId, shown]));
    const highest = [...seen.values()].sort((one, other) => other.crashPoint - one.crashPoint).slice(0, HIGHEST);
    const middle = (1_000 * page.reaching(1_000) * n) / Math.LN2;
    $("records").replaceChildren(
      make("div", {}, make("dt", {}, "Highest points"), ...highest.map((game) => make("dd", {},
        make("strong", {}, words.point(game.crashPoint)), ` game ${game.gameId}, ${words.moment(Date.parse(game.endTime), page.now(), words.minute)}`)),
      make("dd", { class: "hint" }, `in half of all such windows the highest is under ${words.threshold(Math.round(middle))}`)),
      ...LONG.map((x) => {
        const run = longestOf(answers[`longest:${x}`], x);
        const usual = [0.025, 0.975].map((u) => words.count(Math.floor(longestWait(n, page.reaching(x), u)) + 1)).join(" to ");
        return make("div", {}, make("dt", {}, `Longest run below ${words.threshold(x)}`), ...(run ? [
          make("dd", {}, make("strong", {}, words.games(run.length)), ` from game ${run.start_game_id}, ${words.moment(Date.parse(run.start_time), page.now(), words.minute)}`),
          make("dd", { class: "hint" }, `usual: ${usual} games`),
        ] : [make("dd", {}, "–")]));
      }),
    );
  }

  /** The longest run of an answer, or of what has come since: the open one goes on. */
  function longestOf(answer, x) {
    if (!answer) return undefined;
    const runs = answer.data.data.series;
    const later = page.ledger.games.filter((game) => game.version > answer.version)
      .reduce((all, game) => seriesWith(all, game, x), runs.filter((run) => run.crash_point === null));
    return [...runs.slice(0, 1), ...later].reduce((best, run) => (run.length > (best?.length ?? 0) ? run : best), undefined);
  }

  return { id: "records-card", questions, show };
}
