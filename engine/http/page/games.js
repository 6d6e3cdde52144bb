// The last games as chips, and what is known of the one that is chosen.

import { $, make } from "./dom.js";
import { previousHash } from "./fairness.js";
import { matches } from "./odds.js";
import * as words from "./words.js";

const SHOWN = 80;
const BANDS = [[1.2, "low"], [2, "plain"], [5, "good"], [20, "fine"], [100, "high"], [Infinity, "rare"]];

export function gamesPanel(page) {
  let open = null; // The id of the game whose detail is shown.
  let drawn = "";
  let told = ""; // What the detail was written from: it is not written, or read out, again without a reason.

  function show() {
    const games = page.ledger.games.slice(-SHOWN).reverse();
    const looks = JSON.stringify([page.chosen.kind, page.chosen.value, open, games[0]?.id, games.length, words.zoneName()]);
    if (looks === drawn) return;
    const newestDrawn = drawn === "" ? Infinity : JSON.parse(drawn)[3] ?? Infinity;
    drawn = looks;
    const focused = $("games").contains(document.activeElement) ? document.activeElement.value : null;
    $("games").replaceChildren(...games.map((game, at) => chip(game, at === 0, game.id > newestDrawn)));
    if (focused !== null) move($("games").querySelector(`[value="${Number(focused)}"]`) ?? $("games").querySelector("button"));
    showGame();
  }

  function chip(game, isFirst, isNew) {
    const classes = [
      "chip", `band-${BANDS.find(([below]) => game.point < below)[1]}`,
      matches(page.chosen, game.point) ? "matches" : "", isNew ? "new" : "",
    ];
    const button = make("button", {
      type: "button", class: classes.join(" "), value: game.id, tabindex: isFirst ? 0 : -1,
      "aria-expanded": String(game.id === open), "aria-controls": "game",
      title: `Game ${game.id}, ${words.moment(game.endMs, page.now())}`,
    }, words.point(game.point));
    return make("li", {}, button);
  }

  function move(button) {
    if (!button) return;
    for (const other of $("games").querySelectorAll("button")) other.tabIndex = other === button ? 0 : -1;
    button.focus({ preventScroll: true });
  }

  function showGame() {
    const found = open === null ? null : page.ledger.find(open);
    $("game").hidden = found === null;
    if (found === null) told = "";
    const tells = found && JSON.stringify([open, found.before?.id, words.zoneName()]);
    if (found === null || tells === told) return;
    told = tells;
    const { game, before } = found;
    const { shown } = game;
    const time = (iso) => (iso === null ? "not told" : words.moment(Date.parse(iso), page.now()));
    const close = make("button", { type: "button" }, "Close");
    close.addEventListener("click", () => choose(null));
    const check = make("button", { type: "button" }, "Check it below");
    check.addEventListener("click", () => page.check(shown.hashValue));
    $("game").replaceChildren(
      make("h3", {}, `Game ${shown.gameId}: ${words.point(game.point)}`),
      make("dl", {}, ...[
        ["Fair", fairness(shown)],
        ["Hash", shown.hashValue === null ? "none came with it" : make("code", {}, shown.hashValue)],
        ["Chain", link(shown, before)],
        ["Prepared", time(shown.prepareTime)], ["Begun", time(shown.beginTime)], ["Ended", time(shown.endTime)],
      ].map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      make("p", { class: "buttons" }, ...(shown.hashValue === null ? [close] : [check, close])),
    );
  }

  function choose(id) {
    open = open === id ? null : id;
    show();
  }

  $("games").addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) choose(Number(button.value));
  });
  $("games").addEventListener("keydown", (event) => {
    const buttons = [...$("games").querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (event.key === "Escape" && open !== null) choose(null);
    if (next === undefined) return;
    event.preventDefault();
    move(buttons[Math.max(0, Math.min(buttons.length - 1, next))]);
  });
  return { id: "games-card", isAlways: true, show };
}

function fairness({ hashValue, crashPoint, calculatedPoint }) {
  if (hashValue === null) return "cannot be checked without a hash";
  if (calculatedPoint === null) return "no: no point follows from the hash";
  return calculatedPoint === crashPoint
    ? `yes: ${words.point(calculatedPoint)} follows from the hash`
    : `no: ${words.point(calculatedPoint)} follows from the hash`;
}

function link(shown, before) {
  if (shown.hashValue === null) return "cannot be checked without a hash";
  if (before === null || before.id !== Number(shown.gameId) - 1) return "the game before is not here";
  if (before.shown.hashValue === null) return "the game before came without a hash";
  return previousHash(shown.hashValue) === before.shown.hashValue
    ? `holds: SHA-256 of this hash is that of game ${before.id}`
    : `broken: SHA-256 of this hash is not that of game ${before.id}`;
}
