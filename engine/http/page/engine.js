// The operators' view: what engines tell of themselves.

import { make, row } from "./dom.js";
import { count, duration } from "./words.js";

let place;

/** Fill `element`, once. `api` asks. */
export function mount(element, api) {
  place = make("tbody");
  const names = ["Engine, partition", "Log begin", "Committed up to", "Log end", "Lag", "Freshness"];
  element.append(make("div", { class: "card wide" }, make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))), place)));
}

/** Show what is new. `state`: {stream, engine: the answer of /api/engine or null, streams: that of /api/streams or null,
 * head: {name, word, detail}}. Called about every five seconds while the view is seen. */
export function update({ engine }) {
  place.replaceChildren(...(engine?.engines ?? []).flatMap((one) => one.partitions.map((partition) => row(
    `${one.writer}, ${partition.partition}`, count(partition.log_begin), count(partition.next_offset),
    count(partition.log_end), count(partition.lag), duration(partition.freshness_seconds),
  ))));
}
