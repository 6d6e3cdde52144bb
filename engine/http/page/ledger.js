// The ledger: the newest games of the stream, kept by the live events, and what can be counted of them without asking
// anybody. Pure. A game is {id, point, endMs, shown, version}: `shown` as the API has it, `version` the one it came with.
// Games are oldest first.

import { matches } from "./odds.js";

export const LEDGER_GAMES = 1_000;

export class Ledger {
  games = [];

  /** Take games as the API shows them, in any order; the games that were not known, oldest first. */
  add(shown) {
    const known = new Set(this.games.map((game) => game.id));
    const fresh = shown.map(gameOf).filter((game) => !known.has(game.id)).sort(byId);
    if (fresh.length) this.games = [...this.games, ...fresh].sort(byId).slice(-LEDGER_GAMES);
    return fresh;
  }

  replace(shown) {
    this.games = shown.map(gameOf).sort(byId).slice(-LEDGER_GAMES);
  }

  get newest() {
    return this.games.at(-1) ?? null;
  }

  has(id) {
    return this.games.some((game) => game.id === Number(id));
  }

  /** The game of that id, and the one right before it where that is known: {game, before}. */
  find(id) {
    const at = this.games.findIndex((game) => game.id === id);
    return at < 0 ? null : { game: this.games[at], before: this.games[at - 1] ?? null };
  }
}

function gameOf(shown) {
  return { id: Number(shown.gameId), point: shown.crashPoint, endMs: Date.parse(shown.endTime), shown };
}

function byId(one, other) {
  return one.id - other.id;
}

/** How many of the newest `n` games match: {count, total}. */
export function countOf(games, predicate, n) {
  const sample = games.slice(-n);
  return { count: sample.filter((game) => matches(predicate, game.point)).length, total: sample.length };
}

/** How many games came after the newest match, and that match: {since, game}; null when none matches. */
export function waitSince(games, predicate) {
  for (let at = games.length - 1; at >= 0; at -= 1) {
    if (matches(predicate, games[at].point)) return { since: games.length - 1 - at, game: games[at] };
  }
  return null;
}

/** What nine in ten games take, end to end, of the newest hundred; 0 when there is no telling. */
export function gapOf(games) {
  const ends = games.slice(-101).map((game) => game.endMs);
  const gaps = ends.slice(1).map((end, at) => end - ends[at]).sort((one, other) => one - other);
  return gaps[Math.floor(gaps.length * 0.9)] ?? 0;
}

/** Sets of games by id, as the API has them (game-sets): newest first, {start, count, total}. Holes make empty sets. */
export function setsOf(games, predicate, size, n) {
  const sets = new Map();
  for (const game of games.slice(-n)) {
    const start = Math.floor(game.id / size) * size;
    const set = sets.get(start) ?? { start, count: 0, total: 0, firstMs: game.endMs, lastMs: game.endMs };
    set.total += 1;
    set.count += matches(predicate, game.point) ? 1 : 0;
    set.lastMs = game.endMs;
    sets.set(start, set);
  }
  return [...sets.values()].reverse();
}

/**
 * Series go on with a game (API: newest first, each counts the game that ends it, the open one has crash_point null).
 * Returns the list with the game in it.
 */
export function seriesWith(series, game, x) {
  const isEnd = game.point >= x;
  const open = series[0]?.crash_point === null ? series[0] : null;
  const run = {
    start_game_id: open?.start_game_id ?? game.shown.gameId,
    start_time: open?.start_time ?? game.shown.endTime,
    end_game_id: game.shown.gameId,
    end_time: game.shown.endTime,
    length: (open?.length ?? 0) + 1,
    crash_point: isEnd ? game.point : null,
  };
  return [run, ...(open ? series.slice(1) : series)];
}

/** Intervals go on with a game (API: oldest first, on the UTC grid). Returns those of the last `hours`. */
export function intervalsWith(intervals, game, x, minutes, hours) {
  const stepMs = minutes * 60_000;
  const startMs = Math.floor(game.endMs / stepMs) * stepMs;
  const isMatch = game.point >= x ? 1 : 0;
  const at = intervals.findLastIndex((one) => Date.parse(one.interval_start) === startMs);
  const before = at < 0 ? { count: 0, total_games: 0 } : intervals[at];
  const now = {
    interval_start: new Date(startMs).toISOString(),
    interval_end: new Date(startMs + stepMs).toISOString(),
    count: before.count + isMatch,
    total_games: before.total_games + 1,
  };
  const others = at < 0 ? intervals : intervals.toSpliced(at, 1);
  const firstMs = Math.floor((startMs - hours * 3_600_000) / stepMs) * stepMs;
  return [...others, now]
    .sort((one, other) => Date.parse(one.interval_start) - Date.parse(other.interval_start))
    .filter((one) => Date.parse(one.interval_start) >= firstMs);
}
