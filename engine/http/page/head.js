// The head: the state of what is shown, the pickers of stream and zone, and the facts beside them.

import { $, make, tell } from "./dom.js";
import { stateOf } from "./state.js";
import * as words from "./words.js";

const TITLE = document.title;

/** Everything that the state follows from; the page keeps it up to date. */
export const facts = {
  link: "connecting", retryAtMs: 0, offlineSinceMs: 0,
  total: null, version: null, newestEndMs: NaN, arrivedMs: null, gapMs: 0,
  replicaAgeS: null, engine: null,
};

/** The link to the server is another one now. */
export function setLink(link, nowMs, retryAtMs = 0) {
  if (link === "offline" && facts.link !== "offline") facts.offlineSinceMs = nowMs;
  facts.link = link;
  facts.retryAtMs = retryAtMs;
}

/** What engines tell, of the partition of the stream; `answer` is null when nothing could be learnt. */
export function setEngine(answer, partition, nowMs) {
  if (answer === null) return;
  const held = answer.engines.flatMap((one) => one.partitions
    .filter((each) => partition === null || each.partition === partition)
    .map((each) => ({ ...each, gamesPerSecond: one.games_per_second })));
  const seenMs = facts.engine?.seenMs ?? null;
  facts.engine = held.length
    ? {
      isThere: true, seenMs: nowMs,
      lag: Math.max(...held.map((each) => each.lag)),
      freshnessS: Math.max(...held.map((each) => each.freshness_seconds)),
      gamesPerSecond: Math.max(...held.map((each) => each.gamesPerSecond)),
    }
    : { isThere: false, seenMs, lag: null, freshnessS: null, gamesPerSecond: null };
}

/** Write the state and the facts; every second, since times go by. Returns the state. */
export function showHead(nowMs) {
  const state = stateOf(facts, nowMs, words);
  const { engine } = facts;
  $("status").dataset.state = state.name;
  tell($("status-word"), state.word);
  tell($("status-detail"), state.detail);
  const title = state.name === "live" || state.name === "connecting" ? TITLE : `${state.word} · ${TITLE}`;
  if (document.title !== title) document.title = title;
  const ageS = Math.max(0, nowMs - facts.newestEndMs) / 1_000;
  tell($("age"), Number.isNaN(ageS) ? "–" : `${words.duration(Math.floor(ageS))} ago`);
  tell($("total"), facts.total === null ? "–" : words.count(facts.total));
  tell($("version"), facts.version === null ? "–" : words.count(facts.version));
  tell($("rate"), engine?.isThere ? words.rate(engine.gamesPerSecond) : "–");
  tell($("lag"), engine?.isThere ? words.games(engine.lag) : "–");
  tell($("freshness"), engine?.isThere ? words.duration(engine.freshnessS) : "–");
  return state;
}

/** Offer the streams; the one that is shown is offered in any case. */
export function offerStreams(names, chosen) {
  const all = [...new Set([chosen, ...names].filter(Boolean))].sort();
  const known = [...$("stream").options].map((option) => option.value);
  if (all.join("\n") !== known.join("\n")) {
    $("stream").replaceChildren(...all.map((name) => make("option", { value: name }, name)));
  }
  $("stream").value = chosen;
}

/** Offer all time zones by region, first UTC, the reader's own and the one that is chosen, which may go by another name. */
export function offerZones(own, chosen) {
  const regions = new Map();
  for (const name of Intl.supportedValuesOf("timeZone")) {
    const region = name.includes("/") ? name.split("/")[0] : "Other";
    regions.set(region, [...(regions.get(region) ?? []), name]);
  }
  $("zone").replaceChildren(
    ...[...new Set(["UTC", own, chosen])].map((name) => make("option", { value: name }, name)),
    ...[...regions].map(([region, names]) => make("optgroup", { label: region },
      ...names.filter((name) => ![own, chosen, "UTC"].includes(name)).map((name) => make("option", { value: name }, name.replaceAll("_", " "))))),
  );
  $("zone").value = chosen;
}
