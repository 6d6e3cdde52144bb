// What the head says: one state out of everything that is known. Pure, so each state can be tried without a server.

/** Behind by less than this is how every pipeline is at every moment. */
const LAG_S = 5;
const LAG_GAMES = 50;
/** No game for this many times what nine in ten games take is quiet. */
const QUIET_TIMES = 5;
const QUIET_MIN_MS = 30_000;

/**
 * The state of what is shown: {name, word, detail}. The worst fault is named first. `facts`:
 *
 * link "connecting", "live", "polling" or "offline" · retryAtMs, offlineSinceMs while there is no stream ·
 * total games of the stream, null when not known · newestEndMs, when the newest game ended · arrivedMs, when a game last
 * came in while this page looked · gapMs, what nine in ten games take · replicaAgeS, null unless Redis is away ·
 * engine: null when not known, else {isThere, seenMs, lag, freshnessS, gamesPerSecond} of the stream's partition.
 *
 * `nowMs` is the server's clock. `words` writes durations and times.
 */
export function stateOf(facts, nowMs, { duration, moment }) {
  const { link, engine } = facts;
  const since = (ms) => `since ${moment(ms, nowMs)}`;
  if (link === "connecting") return { name: "connecting", word: "connecting", detail: "" };
  if (link === "offline") {
    const left = Math.max(0, Math.ceil((facts.retryAtMs - nowMs) / 1_000));
    return { name: "offline", word: "disconnected", detail: `${since(facts.offlineSinceMs)}, trying again ${left ? `in ${left} s` : "now"}` };
  }
  if (facts.replicaAgeS !== null) {
    const age = Math.round(facts.replicaAgeS);
    return { name: "replica", word: "Redis away", detail: `answering from memory, ${age < 2 ? "up to date by the topic" : `${duration(age)} old`}` };
  }
  if (facts.total === 0) return { name: "empty", word: "no games yet", detail: "" };
  if (engine !== null && !engine.isThere) {
    return { name: "silent", word: "engine silent", detail: engine.seenMs === null ? "not heard since this page is open" : since(engine.seenMs) };
  }
  if (engine !== null && engine.lag > 0 && (engine.lag >= LAG_GAMES || engine.freshnessS >= LAG_S)) {
    return { name: "behind", word: "catching up", detail: `${lagText(engine, duration)}` };
  }
  const quietMs = Math.max(QUIET_MIN_MS, QUIET_TIMES * facts.gapMs);
  if (nowMs - facts.newestEndMs > quietMs) {
    const comes = facts.arrivedMs !== null && nowMs - facts.arrivedMs <= quietMs;
    return comes
      ? { name: "old", word: "old games", detail: `the newest ended ${moment(facts.newestEndMs, nowMs)}` }
      : { name: "quiet", word: "quiet", detail: `no game ${since(facts.newestEndMs)}` };
  }
  if (link === "polling") return { name: "polling", word: "asking", detail: "no live stream, asking every 3 s" };
  return { name: "live", word: "live", detail: "" };
}

function lagText({ lag, gamesPerSecond }, duration) {
  const games = `${lag.toLocaleString("en")} ${lag === 1 ? "game" : "games"} behind`;
  return gamesPerSecond > 0 ? `${games}, ${duration(Math.ceil(lag / gamesPerSecond))} left` : games;
}
