// Curves: how many games reach a point beside the odds, and the newest points themselves.

import { Chart, points, survival } from "./chart.js";
import { $, make } from "./dom.js";
import { countOf, LEDGER_GAMES } from "./ledger.js";
import { band, matches } from "./odds.js";
import * as words from "./words.js";

const POINTS = 500;
const WINDOW_FRESH_MS = 300_000;
const HOLDS = 6; // Of so few games a share says nothing, and the curve ends.

/** Sixty points between 1.01 and `max`, as far from each other on a log scale. */
function gridTo(max) {
  const steps = Array.from({ length: 60 }, (_, at) => Math.round(100 * 1.01 * (max / 1.01) ** (at / 59)) / 100);
  return [...new Set(steps.map((x) => (x > 20 ? Math.round(x) : x > 5 ? Math.round(x * 10) / 10 : x)))];
}

export function survivalPanel(page) {
  let data = [[]];
  let n = 0;
  const chart = new Chart($("survival"), $("survival-reading"),
    (colours) => survival(colours, { floor: () => 0.5 / Math.max(n, 100) }), read);
  const sizeOf = () => Number(page.chosen.survival);
  const gridOf = () => gridTo(Math.max(20, sizeOf() / HOLDS));

  function offer() {
    const sizes = [100, LEDGER_GAMES, 10_000, page.deployment.window_games].filter((size) => size <= page.deployment.window_games);
    $("survival-sample").replaceChildren(...[...new Set(sizes)].map((size) => make("option", { value: size }, `last ${words.count(size)} games`)));
    $("survival-sample").value = page.chosen.survival;
    if ($("survival-sample").selectedIndex < 0) page.choose({ survival: String(sizes[0]) });
  }

  function questions() {
    if (sizeOf() <= LEDGER_GAMES) return [];
    const body = { values: gridOf(), games: sizeOf(), comparison: false };
    return [{ name: "survival", path: "api/analytics/occurrences/min-crash-points/batch", body, freshMs: WINDOW_FRESH_MS }];
  }

  function show(answers) {
    const grid = gridOf();
    let counts;
    if (sizeOf() <= LEDGER_GAMES) {
      counts = grid.map((value) => countOf(page.ledger.games, { kind: "min", value }, sizeOf()));
    } else {
      if (!answers.survival) return;
      counts = Object.values(answers.survival.data.data.results).map((one) => ({ count: one.count, total: one.total_games }));
    }
    n = counts[0].total;
    const share = (number) => (number > 0 ? number / n : null);
    const bands = grid.map((x) => band(n, page.reaching(x)));
    data = n === 0 ? [[]] : [
      grid, counts.map(({ count }) => share(count)), grid.map(page.reaching),
      bands.map(({ low }) => Math.max(0.4, low) / n), bands.map(({ high }) => share(high)),
    ];
    const outside = counts.filter(({ count }, at) => count < bands[at].low || count > bands[at].high).length;
    chart.show(data, `Share of the last ${words.count(n)} games that reach a crash point, on log scales, beside the odds: `
      + `${outside} of ${grid.length} points lie outside the band of 95 in 100. Arrow keys read values.`);
  }

  function read(at) {
    const [xs, shares, odds] = data;
    const { low, high } = band(n, odds[at]);
    const count = Math.round((shares[at] ?? 0) * n);
    return `≥ ${words.threshold(xs[at])}: ${words.count(count)} of ${words.count(n)}, the odds say ${words.expected(odds[at] * n)} (${low}–${high})`;
  }

  $("survival-sample").addEventListener("change", ({ target }) => page.choose({ survival: target.value }));
  const games = () => (sizeOf() <= LEDGER_GAMES ? sizeOf() : 0);
  return { id: "survival-card", games, offer, questions, show };
}

export function pointsPanel(page) {
  let games = [];
  let levels = "";
  const chart = new Chart($("points"), $("points-reading"), (colours) => points(colours, { level: () => page.chosen.value }), read);

  function show() {
    games = page.ledger.games.slice(-POINTS);
    const isMatch = (game) => matches(page.chosen, game.point);
    const ago = games.map((_, at) => at - games.length + 1);
    if (levels !== `${page.chosen.kind} ${page.chosen.value}`) {
      levels = `${page.chosen.kind} ${page.chosen.value}`;
      chart.redraw();
    }
    const highest = games.reduce((best, game) => (game.point > (best?.point ?? 0) ? game : best), null);
    chart.show([ago, games.map((game) => (isMatch(game) ? null : game.point)), games.map((game) => (isMatch(game) ? game.point : null))],
      `The newest ${games.length} crash points on a log scale; the highest is ${highest ? words.point(highest.point) : "not known"}. Arrow keys read values.`);
  }

  function read(at) {
    const game = games[at];
    return `game ${game.id}: ${words.point(game.point)}, ended ${words.moment(game.endMs, page.now())}`;
  }

  return { id: "points-card", games: () => POINTS, show };
}
