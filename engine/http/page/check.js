// Check a game: the crash point that follows from a hash, and where the hash stands in the chain of known games.

import { sleep } from "./api.js";
import { $, tell } from "./dom.js";
import { crashPoint, HASH, previousHash } from "./fairness.js";
import { reaching } from "./odds.js";
import * as words from "./words.js";

const STEPS = 100_000; // About a second of work.
const STEPS_AT_ONCE = 2_000;

export function checkPanel(page) {
  let turn = 0; // Counts what was asked: an answer to an older question is dropped.

  function offer() {
    if ($("hash").value) return;
    const rule = page.rule();
    $("salt").value = rule.salt;
    $("variant").value = rule.variant;
    $("edge").value = String(rule.house_edge_percent);
  }

  async function work() {
    const now = turn += 1;
    const hash = $("hash").value.trim().toLowerCase();
    const salt = $("salt").value;
    const rule = { salt, variant: $("variant").value, house_edge_percent: $("edge").valueAsNumber };
    const fault = faultOf(hash, rule);
    tell($("check-fault"), fault);
    $("hash").setAttribute("aria-invalid", String(fault !== "" && !HASH.test(hash)));
    if (fault || hash === "") {
      tell($("check-point"), "–");
      tell($("check-text"), "The crash point that follows from the hash shows here, worked out in this browser.");
      tell($("check-place"), "");
      return;
    }
    const found = crashPoint(hash, rule);
    tell($("check-point"), found === null ? "no point" : words.point(found));
    tell($("check-text"), found === null
      ? "Rounded to nine digits X is 1, and no point follows."
      : `follows from this hash; ${words.chance(reaching(found, rule))} of all games get as far.`);
    tell($("check-place"), "Looking for its place in the chain …");
    const place = await placeOf(hash, found, () => now === turn);
    if (now === turn) tell($("check-place"), place);
  }

  /** Where the hash stands. A link leads from a game to the one before: known games are found from later ones. */
  async function placeOf(hash, found, isWanted) {
    const games = page.ledger.games.filter((game) => game.shown.hashValue !== null);
    const byHash = new Map(games.map((game) => [game.shown.hashValue, game]));
    const own = byHash.get(hash);
    if (own) {
      const fits = own.point === found ? "with that very point" : `which ended at ${words.point(own.point)}: that does not fit`;
      return `It is game ${own.id}, ${fits}.`;
    }
    if (games.length === 0) return "No game here has a hash to compare it with.";
    const down = await walk(hash, (digits) => byHash.get(digits), isWanted);
    if (down) return `${words.games(down.steps)} after game ${down.found.id}, the newest of the chain that is known here.`;
    const oldest = games[0];
    const up = await walk(oldest.shown.hashValue, (digits) => digits === hash, isWanted);
    if (up) return `${words.games(up.steps)} before game ${oldest.id}, the oldest that is known here.`;
    return `It is not within ${words.count(STEPS)} games before or after those that are known here, or of another chain.`;
  }

  async function walk(digits, find, isWanted) {
    for (let steps = 1; steps <= STEPS && isWanted(); steps += 1) {
      digits = previousHash(digits);
      const found = find(digits);
      if (found) return { steps, found };
      if (steps % STEPS_AT_ONCE === 0) await sleep(0);
    }
    return null;
  }

  $("check").addEventListener("input", work);
  $("check").addEventListener("submit", (event) => event.preventDefault());
  page.check = (hash) => {
    $("hash").value = hash;
    $("check-card").scrollIntoView({ block: "center" });
    $("hash").focus({ preventScroll: true });
    work();
  };
  return { id: "check-card", offer, show: () => {} };
}

function faultOf(hash, { salt, house_edge_percent: edge }) {
  if (hash !== "" && !HASH.test(hash)) return "A hash is 64 hex digits.";
  if (!/^[\x20-\x7e]*$/.test(salt)) return "The salt is ASCII text.";
  return edge >= 0 && edge < 100 ? "" : "The house edge is a number from 0 to less than 100.";
}
