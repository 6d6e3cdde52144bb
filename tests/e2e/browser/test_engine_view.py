"""The operators' view in a browser, on a deployment of two streams that a careless producer writes to."""

from typing import Literal

import msgspec
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser.conftest import FaultsOf, NewSite, OpenPage, Picture, wider_than_the_window
from tests.support.deployment import Message, Service, chain, in_order
from tests.support.site import Site

THEMES: list[Literal["light", "dark"]] = ["light", "dark"]
MARKUP = "<img src=x onerror=document.title='stolen'>"
HOSTILE = MARKUP.encode() + b"\x1b[31m\x00\xff" + "\u202egnp.exe".encode()
SHOWN = MARKUP + r"\u001b[31m\u0000\xff\u202egnp.exe"
GAMES = 300


@pytest.fixture(scope="module")
def site(new_site: NewSite) -> Site:
    made = new_site(partitions=2, key_prefix="analytics:{stream}")
    games = chain(GAMES)
    records = [
        *in_order([*games[:100], *games[110:]]),  # a hole of ten ids
        *in_order(games[:50], "other.table", 1),
        *in_order([msgspec.structs.replace(games[0], end_time=games[0].end_time - 1)]),
        Message(1, HOSTILE, HOSTILE),
        Message(1, b"other.table", b"[" * 3_000),
        Message(1, b"other.table", None),
    ]
    made.deployment.publish(records)
    engine = made.engine
    assert engine is not None
    engine.until(lambda: made.deployment.total() + made.deployment.total("other.table") == GAMES + 40, "all is folded")
    engine.until(lambda: len(made.deployment.dead_letters()) == 4, "all is put aside")
    assert made.deployment.run("verify").code == 0
    api = made.api
    assert api is not None
    api.until(lambda: committed(api) == {0: 291, 1: 53}, "the engine has reported its commits")
    return made


def committed(api: Service) -> dict[int, int]:
    """Per partition, the offset below which the engine says that all is committed."""
    status, told = api.probe("/api/engine")
    engines = told["data"]["engines"] if status == 200 else []
    return {one["partition"]: one["next_offset"] for engine in engines for one in engine["partitions"]}


@pytest.fixture
def view(site: Site, open_page: OpenPage) -> Page:
    return open_page(site, "#engine")


def rows_of(page: Page, title: str) -> list[list[str]]:
    """The rows of the first table in the card with that title."""
    card = page.locator("#engine section").filter(has=page.get_by_role("heading", name=title, exact=True))
    expect(card.locator("tbody tr").first).to_be_visible()
    return [row.locator("th, td").all_inner_texts() for row in card.locator("table").first.locator("tbody tr").all()]


def test_each_partition_stands_with_its_log_and_how_far_it_is_committed(view: Page) -> None:
    expect(view.locator("#engine")).to_contain_text("ago")
    rows = rows_of(view, "Partitions")
    assert [[row[0], *row[2:6]] for row in rows] == [["0", "0", "291", "291", "0"], ["1", "0", "53", "53", "0"]]
    assert all(row[1] and row[7].endswith(" ago") for row in rows)


def test_commits_rejects_redis_and_the_last_verify_are_told(view: Page) -> None:
    assert rows_of(view, "Commits")[0][0] == "applied"
    assert [row[:2] for row in rows_of(view, "Records put aside")] == [["unreadable", "3"], ["conflict", "1"]]
    verified = rows_of(view, "Verify")
    assert [(row[0], row[2], row[4]) for row in verified] == [("crash", "equal", "0"), ("other.table", "equal", "0")]
    (redis,) = rows_of(view, "Redis")
    assert redis[1].endswith("MiB")
    assert redis[4].partition(" ")[2].startswith("% of ")


def test_streams_and_missing_ids_are_listed(view: Page) -> None:
    streams = rows_of(view, "Streams")
    assert [(row[0], row[1], row[2], row[7]) for row in streams] == [
        ("crash", "0", "290", "10"),
        ("other.table", "1", "50", "0"),
    ]
    assert rows_of(view, "Ids that are missing") == [["101", "110", "10"]]
    view.get_by_role("link", name="other.table").click()
    expect(view.locator("#stream")).to_have_value("other.table")
    assert view.url.endswith("?stream=other.table#engine")


def test_hostile_texts_in_dead_letters_are_shown_as_text(view: Page) -> None:
    rows = rows_of(view, "Dead letters")
    assert len(rows) == 4
    by_origin = {row[2]: row for row in rows}
    assert by_origin["1:50"][4:] == [SHOWN, SHOWN]
    assert by_origin["1:52"][5] == "none"
    assert by_origin["0:290"][1] == "conflict"
    assert view.locator("#engine img").count() == 0
    assert "stolen" not in view.title()
    long = view.locator("#engine details").filter(has_text="[[[")
    long.locator("summary").click()
    expect(long.locator("> code")).to_have_text("[" * 3_000)


def test_every_link_leads_somewhere(view: Page) -> None:
    expect(view.locator("#engine section").last).to_be_visible()
    links = {str(anchor.evaluate("anchor => anchor.href")) for anchor in view.locator("#engine a").all()}
    assert len(links) >= 8
    for address in links:
        assert view.request.get(address).status == 200, address


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_it_fits_and_axe_finds_no_serious_fault(
    site: Site, open_page: OpenPage, picture: Picture, faults_of: FaultsOf, width: int, theme: Literal["light", "dark"]
) -> None:
    page = open_page(site, "#engine", width=width, theme=theme)
    rows_of(page, "Dead letters")
    rows_of(page, "Redis")
    assert wider_than_the_window(page) == []
    picture(page, f"engine-{width}-{theme}")
    if width != 768:
        assert faults_of(page) == []
