// Shares over time and over sets of games, each bar beside the band in which 95 of 100 lie.

import { bars, Chart } from "./chart.js";
import { $, make, row } from "./dom.js";
import { intervalsWith, setsOf } from "./ledger.js";
import { band } from "./odds.js";
import * as words from "./words.js";

const BUCKETS = [[5, "5 min"], [10, "10 min"], [30, "30 min"], [60, "1 hour"], [240, "4 hours"], [1440, "1 day"]];
const SPANS = [["6", "6 hours"], ["24", "a day"], ["72", "3 days"], ["168", "a week"], ["dates", "dates"]];
const BARS_MAX = 400;
const FRESH_MS = 60_000;
const SETS_GAMES = 1_000;
const DAY_MS = 86_400_000;
const STEPS_MS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880].map((minutes) => minutes * 60_000);

export function intervalsPanel(page) {
  let items = [];
  const expected = () => page.reaching(page.chosen.value);
  const chart = new Chart($("intervals"), $("intervals-reading"), (colours) => bars(colours, { expected, xAxis: { values: times, incrs: STEPS_MS } }), read);

  function offer() {
    const { bucket, span, from, to } = page.chosen;
    $("bucket").replaceChildren(...BUCKETS.map(([minutes, text]) => make("option", { value: minutes }, text)));
    $("span").replaceChildren(...SPANS.map(([value, text]) => make("option", { value }, text)));
    $("bucket").value = bucket;
    $("span").value = span;
    $("from").value = from || words.day(page.now());
    $("to").value = to || words.day(page.now());
    fit();
  }

  /** Dates only where dates are chosen, and no more bars than can be told apart. */
  function fit() {
    const isDates = page.chosen.span === "dates";
    for (const place of document.querySelectorAll(".dates")) place.hidden = !isDates;
    const days = isDates ? (Date.parse($("to").value) - Date.parse($("from").value)) / DAY_MS + 1 : Number(page.chosen.span) / 24;
    for (const option of $("bucket").options) option.disabled = (days * 1440) / Number(option.value) > BARS_MAX;
    if ($("bucket").selectedOptions[0]?.disabled) {
      const first = [...$("bucket").options].find((option) => !option.disabled);
      if (first) page.choose({ bucket: first.value });
    }
  }

  function questions() {
    const { kind, value, bucket, span, from, to } = page.chosen;
    if (kind !== "min") return [];
    const path = `api/analytics/intervals/min-crash-point/${value}`;
    if (span !== "dates") return [{ name: "intervals", path, parameters: { interval_minutes: bucket, hours: span }, freshMs: 5 * FRESH_MS }];
    const parameters = { start_date: from || $("from").value, end_date: to || $("to").value, interval_minutes: bucket };
    return [{ name: "intervals", path: `${path}/date-range`, parameters, zone: words.zoneName(), freshMs: FRESH_MS }];
  }

  function show(answers) {
    const { kind, value, bucket, span } = page.chosen;
    $("bucket").value = bucket;
    $("span").value = span;
    if (kind !== "min") {
      items = [];
      chart.show([[]], "Intervals are kept of crash points of at least a threshold", "Intervals are there for points of at least a threshold");
      $("interval-rows").replaceChildren();
      return;
    }
    if (!answers.intervals) return;
    const minutes = Number(bucket);
    items = answers.intervals.data.data.intervals;
    if (span !== "dates") {
      for (const game of page.ledger.games) {
        if (game.version > answers.intervals.version) items = intervalsWith(items, game, value, minutes, Number(span));
      }
    }
    const p = expected();
    const bands = items.map((item) => band(item.total_games, p));
    const share = (number, at) => number / Math.max(1, items[at].total_games);
    const outside = items.filter((item, at) => item.count < bands[at].low || item.count > bands[at].high).length;
    chart.show([
      items.map((item) => Date.parse(item.interval_start) + minutes * 30_000),
      items.map((item, at) => share(item.count, at)),
      bands.map(({ low }, at) => share(low, at)), bands.map(({ high }, at) => share(high, at)),
    ], `Share of games of at least ${words.threshold(value)} in ${items.length} intervals of ${minutes} minutes; the odds say `
      + `${words.chance(p)}; ${outside} lie outside their band. Arrow keys choose an interval.`, "No games in this time");
    if ($("interval-rows").closest("details").open) showRows(bands);
  }

  function showRows(bands) {
    $("interval-rows").replaceChildren(...items.map((item, at) => row(
      words.moment(Date.parse(item.interval_start), page.now(), words.minute), words.minute(Date.parse(item.interval_end)),
      words.count(item.count), words.count(item.total_games), `${words.percent(item.count / Math.max(1, item.total_games))} %`, `${bands[at].low}–${bands[at].high}`,
    )).reverse());
  }

  function read(at) {
    const item = items[at];
    const { low, high } = band(item.total_games, expected());
    const from = words.moment(Date.parse(item.interval_start), page.now(), words.minute);
    return `${from}–${words.minute(Date.parse(item.interval_end))}: ${words.percent(item.count / Math.max(1, item.total_games))} %, `
      + `${words.count(item.count)} of ${words.games(item.total_games)}, usual ${low}–${high}`;
  }

  function times(plot, splits) {
    const wide = splits.length > 1 && splits[1] - splits[0] >= DAY_MS / 2;
    return splits.map((ms) => (wide ? words.day(ms).slice(5) : words.minute(ms)));
  }

  for (const name of ["bucket", "span", "from", "to"]) {
    $(name).addEventListener("change", ({ target }) => {
      page.choose({ [name]: target.value });
      fit();
    });
  }
  $("interval-rows").closest("details").addEventListener("toggle", () => page.show());
  return { id: "intervals-card", offer, questions, show };
}

export function setsPanel(page) {
  let sets = [];
  let size = 0;
  const expected = () => page.chance(page.chosen);
  const names = (plot, splits) => splits.map((at) => (Number.isInteger(at) && sets[at] ? String(sets[at].start) : ""));
  const chart = new Chart($("sets"), $("sets-reading"), (colours) => bars(colours, { expected, xAxis: { values: names, space: 90 } }), read);

  function offer() {
    $("set-size").replaceChildren(...[10, 20, 25, 50, 100].map((value) => make("option", { value }, `${value} games a set`)));
    $("set-size").value = page.chosen.set;
  }

  function show() {
    size = Number(page.chosen.set);
    sets = setsOf(page.ledger.games, page.chosen, size, SETS_GAMES).reverse();
    const bands = sets.map(({ total }) => band(total, expected()));
    const outside = sets.filter(({ count }, at) => count < bands[at].low || count > bands[at].high).length;
    chart.show([
      sets.map((_, at) => at), sets.map(({ count, total }) => count / total),
      bands.map(({ low }, at) => low / sets[at].total), bands.map(({ high }, at) => high / sets[at].total),
    ], `Share of games ${words.predicate(page.chosen)} in ${sets.length} sets of ${size} games; ${outside} lie outside their band. Arrow keys choose a set.`);
  }

  function read(at) {
    const { start, count, total } = sets[at];
    const { low, high } = band(total, expected());
    return `games ${start} to ${start + size - 1}: ${words.percent(count / total)} %, ${count} of ${words.games(total)}, usual ${low}–${high}`;
  }

  $("set-size").addEventListener("change", ({ target }) => page.choose({ set: target.value }));
  return { id: "sets-card", games: () => SETS_GAMES, offer, show };
}
