"""What the page works out by itself: the odds' bands, the check of a game, and counts that the API gives as well."""

import hashlib
import hmac
import json
import re
from decimal import Decimal, localcontext
from math import comb
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from crashfold.schemas.fairness import Rule, chance_of_reaching, previous_hash
from tests.e2e.browser.conftest import OpenPage
from tests.support.site import Site

DATA: Final = Path(__file__).parents[2] / "data"
VECTORS: Final[list[dict[str, Any]]] = json.loads((DATA / "fairness_vectors.json").read_text())
FORMULAS: Final[list[dict[str, Any]]] = json.loads((DATA / "fairness_formulas.json").read_text())
TAIL: Final = Decimal("0.025")
expect.set_options(timeout=20_000)

SAMPLES: Final = [(1, 0.5), (5, 0.3), (20, 0.05), (100, 0.495), (1000, 0.00099), (1000, 1 - 0.99 / 1.01), (2000, 0.66)]


def of_module(page: Page, module: str, call: str, argument: Any = None) -> Any:
    """What `call`, an expression of the module `m` and the argument `a`, gives in the page."""
    return page.evaluate(f"async (a) => {{ const m = await import('./page/{module}.js'); return {call}; }}", argument)


def rule_of(one: dict[str, Any]) -> Rule:
    return Rule(one["salt"], one["variant"], one["house_edge_percent"])


def exact_band(n: int, p: float) -> tuple[int, int, float]:
    """The counts from the first whose tail below is over 2.5 % to the first that 97.5 % do not exceed; and the rest."""
    with localcontext() as context:
        context.prec = 60
        chance, below, low, low_tail = Decimal(p), Decimal(0), None, Decimal(0)
        for count in range(n + 1):
            mass = comb(n, count) * chance**count * (1 - chance) ** (n - count)
            if low is None and below + mass > TAIL:
                low, low_tail = count, below
            below += mass
            if low is not None and below >= 1 - TAIL:
                return low, count, float(low_tail + 1 - below)
    raise AssertionError("the masses sum up to less than 1")


def test_the_bands_are_those_of_the_binomial_distribution(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    told = of_module(page, "odds", "a.map(([n, p]) => m.band(n, p))", SAMPLES)
    for (n, p), band in zip(SAMPLES, told, strict=True):
        low, high, outside = exact_band(n, p)
        assert (band["low"], band["high"]) == (low, high)
        assert band["outside"] == pytest.approx(outside, rel=1e-6, abs=1e-12)
    assert of_module(page, "odds", "[m.band(0, 0.5), m.band(7, 1)]") == [
        {"low": 0, "high": 0, "outside": 0},
        {"low": 7, "high": 7, "outside": 0},
    ]


def test_the_page_calculates_crash_points_as_the_engine_does(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    for variant, field in (("exact", "crash_point"), ("nine_digits", "nine_digits")):
        rules = [[one["hash"], {"salt": one["salt"], "variant": variant, "house_edge_percent": 1}] for one in VECTORS]
        told = of_module(page, "fairness", "a.map(([hash, rule]) => m.crashPoint(hash, rule))", rules)
        assert told == [one[field] for one in VECTORS]
    told = of_module(page, "fairness", "a.map((one) => m.crashPoint(one.hash, one))", FORMULAS)
    assert told == [one["crash_point"] for one in FORMULAS]
    chances = [(value, one) for value in (1, 1.01, 2, 100.5) for one in FORMULAS]
    told = of_module(page, "odds", "a.map(([value, rule]) => m.reaching(value, rule))", chances)
    assert told == pytest.approx([chance_of_reaching(value, rule_of(one)) for value, one in chances], rel=1e-12)
    hashes = [one["hash"] for one in VECTORS]
    assert of_module(page, "fairness", "a.map(m.previousHash)", hashes) == [previous_hash(digits) for digits in hashes]
    messages = [bytes(range(length)) for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 200)]
    digests = "a.map((bytes) => new Uint8Array(bytes)).map((one) => [[...m.sha256(one)], [...m.hmac(one, one)]])"
    told = of_module(page, "fairness", digests, [[*message] for message in messages])
    for message, (digest, mac) in zip(messages, told, strict=True):
        assert bytes(digest) == hashlib.sha256(message).digest()
        assert bytes(mac) == hmac.digest(message, message, "sha256")


COUNTED: Final = """async () => {
  const m = await import("./page/ledger.js");
  const get = async (path) => (await (await fetch(path)).json()).data;
  const ledger = new m.Ledger();
  ledger.add((await get("api/analytics/last-games/min-crash-point/1?limit=1000")).games);
  const { games } = ledger;
  const times = (set) => [Date.parse(set.start_time ?? set.interval_start), set.count, set.total_games];
  return {
    games: games.length,
    counts: [
      await get("api/analytics/occurrences/min-crash-point/2?games=500").then((one) => one.occurrences.count),
      m.countOf(games, { kind: "min", value: 2 }, 500).count,
      await get("api/analytics/occurrences/max-crash-point/1.01?games=500").then((one) => one.occurrences.count),
      m.countOf(games, { kind: "max", value: 1.01 }, 500).count,
      await get("api/analytics/occurrences/exact-floor/3?games=500").then((one) => one.occurrences.count),
      m.countOf(games, { kind: "floor", value: 3 }, 500).count,
    ],
    since: [
      await get("api/analytics/last-game/min-crash-point/10").then((one) => one.games_since),
      m.waitSince(games, { kind: "min", value: 10 }).since,
    ],
    sets: [
      (await get("api/analytics/intervals/min-crash-point/2/game-sets?games_per_set=25&total_games=900")).intervals
        .map((one) => [one.start_game, one.count, one.total_games]).filter(([, , total]) => total > 0),
      m.setsOf(games, { kind: "min", value: 2 }, 25, 900).map((one) => [one.start, one.count, one.total]),
    ],
    series: [
      (await get("api/analytics/series/without-min-crash-point/3?limit=900")).series,
      games.reduce((runs, game) => m.seriesWith(runs, game, 3), []),
    ],
    intervals: [
      (await get("api/analytics/intervals/min-crash-point/2?hours=2&interval_minutes=10")).intervals.map(times),
      games.reduce((all, game) => m.intervalsWith(all, game, 2, 10, 2), []).map(times),
    ],
  };
}"""


def test_the_page_counts_as_the_api_does(site: Site, open_page: OpenPage) -> None:
    told = open_page(site).evaluate(COUNTED)
    assert told["games"] == 1_000
    assert told["counts"][::2] == told["counts"][1::2]
    assert told["since"][0] == told["since"][1]
    assert told["sets"][0] == told["sets"][1]
    of_api, counted = told["series"]
    assert len(of_api) > 200
    assert counted[: len(of_api)] == of_api
    assert told["intervals"][0] == told["intervals"][1]


NOW_MS: Final = 1_800_000_000_000
LIVE: Final[dict[str, Any]] = {
    "link": "live",
    "retryAtMs": 0,
    "offlineSinceMs": 0,
    "total": 5,
    "newestEndMs": NOW_MS - 9_000,
    "arrivedMs": None,
    "gapMs": 20_000,
    "replicaAgeS": None,
    "engine": {"isThere": True, "seenMs": NOW_MS, "lag": 1, "freshnessS": 0.2, "gamesPerSecond": 100},
}
SILENT: Final = {"isThere": False, "seenMs": NOW_MS - 60_000}
BEHIND: Final = {**LIVE["engine"], "lag": 90_000, "freshnessS": 900}
DAY_MS: Final = 86_400_000
STATES: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({}, "live", ""),
    ({"engine": None}, "live", ""),
    ({"link": "connecting", "total": None}, "connecting", ""),
    (
        {"link": "offline", "retryAtMs": NOW_MS + 1_200, "offlineSinceMs": NOW_MS, "engine": SILENT},
        *("disconnected", "trying again in 2 s"),
    ),
    ({"replicaAgeS": 12, "engine": SILENT}, "Redis away", "12 s old"),
    ({"total": 0, "newestEndMs": None, "engine": SILENT}, "no games yet", ""),
    ({"engine": SILENT, "newestEndMs": NOW_MS - DAY_MS}, "engine silent", "since 07:59:00"),
    ({"engine": {**SILENT, "seenMs": None}}, "engine silent", "not heard since this page is open"),
    ({"engine": BEHIND, "newestEndMs": NOW_MS - DAY_MS}, "catching up", "90,000 games behind, 15 min left"),
    ({"engine": {**BEHIND, "lag": 1, "gamesPerSecond": 0}}, "catching up", "1 game behind"),
    ({"newestEndMs": NOW_MS - 99_000}, "live", ""),
    ({"newestEndMs": NOW_MS - 101_000}, "quiet", "no game since 07:58:19"),
    ({"newestEndMs": NOW_MS - 316 * DAY_MS}, "quiet", "no game since 2026-03-05 08:00:00"),
    ({"newestEndMs": NOW_MS - 316 * DAY_MS, "arrivedMs": NOW_MS - 1_000}, "old games", "the newest ended 2026-03-05"),
    ({"link": "polling"}, "asking", "no live stream"),
]


def test_the_head_says_what_is_worst(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    asked = [[{**LIVE, **facts}, NOW_MS] for facts, _, _ in STATES]
    told = page.evaluate(
        """async (asked) => {
          const [m, words] = await Promise.all([import("./page/state.js"), import("./page/words.js")]);
          const whole = (facts) => ({ ...facts, newestEndMs: facts.newestEndMs ?? NaN });
          return asked.map(([facts, now]) => m.stateOf(whole(facts), now, words));
        }""",
        asked,
    )
    for (facts, word, detail), state in zip(STATES, told, strict=True):
        assert state["word"] == word, facts
        assert detail in state["detail"], facts


def test_a_hash_that_is_pasted_shows_its_point_and_its_place(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    vector = VECTORS[6]
    page.get_by_label("Hash of the game").fill(f" {vector['hash'].upper()} ")
    expect(page.locator("#check-point")).to_have_text(f"{vector['crash_point']:,.2f}×")
    page.get_by_label("Variant").select_option("nine_digits")
    expect(page.locator("#check-point")).to_have_text(f"{vector['nine_digits']:,.2f}×")
    page.get_by_label("Variant").select_option("exact")
    page.get_by_label("Hash of the game").fill("12ab")
    expect(page.locator("#check-fault")).to_have_text("A hash is 64 hex digits.")
    newest = site.play(3)
    (oldest, middle, last) = (game.hash or "" for game in newest)
    expect(page.locator("#games button").first).to_have_text(f"{newest[-1].crash_point:,.2f}×")
    page.get_by_label("Hash of the game").fill(middle)
    expect(page.locator("#check-place")).to_have_text(f"It is game {newest[1].game_id}, with that very point.")
    page.get_by_label("Hash of the game").fill(oldest[::-1])
    expect(page.locator("#check-place")).to_contain_text("It is not within", timeout=60_000)
    assert last != middle
    expect(page.locator("#check-card")).to_contain_text("nothing here predicts")


def test_a_game_opens_by_key_and_shows_that_it_is_fair(site: Site, open_page: OpenPage) -> None:
    newest = site.play(2)
    page = open_page(site)
    chips = page.locator("#games button")
    expect(chips.first).to_have_text(f"{newest[-1].crash_point:,.2f}×")
    chips.first.focus()
    page.keyboard.press("ArrowRight")
    expect(chips.nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    detail = page.locator("#game")
    expect(detail).to_contain_text(newest[-1].hash or "")
    expect(detail).to_contain_text(f"yes: {newest[-1].crash_point:,.2f}× follows from the hash")
    expect(detail).to_contain_text(f"holds: SHA-256 of this hash is that of game {newest[0].game_id}")
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()


def test_what_is_chosen_stands_in_the_address_and_is_found_again(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    page.get_by_label("Games with a point").select_option("max")
    page.get_by_label("Crash point", exact=True).fill("1.5")
    page.get_by_label("Times in").select_option("Asia/Tokyo")
    page.locator("#sample").select_option("games:500")
    expect(page).to_have_url(re.compile(r"kind=max.*sample=games%3A500.*x=1\.5.*zone=Asia%2FTokyo"))
    page.reload()
    expect(page.get_by_label("Crash point", exact=True)).to_have_value("1.5")
    expect(page.get_by_label("Times in")).to_have_value("Asia/Tokyo")
    expect(page.locator("#often-title")).to_have_text("How often ≤ 1.5×")
    expect(page.locator("#often-text")).to_contain_text("of 500 games")


def test_a_chart_is_read_by_key(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    for chart, words in (
        ("intervals", r"\d+ of \d+ games, usual"),
        ("points", r"game \d+: "),
        ("survival", "the odds say"),
    ):
        page.locator(f"#{chart}").scroll_into_view_if_needed()
        expect(page.locator(f"#{chart} canvas")).to_be_visible()
        page.locator(f"#{chart}").focus()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        expect(page.locator(f"#{chart}-reading")).to_contain_text(re.compile(words))
        expect(page.locator(f"#{chart}-reading")).to_have_attribute("aria-live", "polite")


def test_what_is_in_sight_at_once_reaches_back_as_far_as_it_needs(site: Site, open_page: OpenPage) -> None:
    page = open_page(site, width=1280)
    page.set_viewport_size({"width": 1280, "height": 6_000})
    expect(page.locator("#survival canvas")).to_be_visible()
    expect(page.locator("#matrix tr").first).to_contain_text("(630–689)")  # 95 of 100 samples of 1,000 games
