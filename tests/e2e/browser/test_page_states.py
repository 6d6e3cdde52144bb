"""What the head of the page says, each state brought about for real: servers are ended and started while it is open."""

from collections.abc import Callable
from time import time

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser.conftest import NewSite, OpenPage, wider_than_the_window
from tests.support.site import Site, Watch

DAYS_300_MS = 300 * 86_400_000
SOON_MS = 10_000
SILENT_MS = 40_000
"""An engine's report expires after 15 s, and the page asks every few seconds."""
AGAIN_MS = 60_000
"""A Redis that comes back empty is filled from the topic, on a machine that has much else to do."""

PageWatch = Callable[[Page], Watch]


def expect_state(page: Page, state: str, word: str, within_ms: int = SOON_MS) -> None:
    head = page.locator("#status")
    expect(head).to_have_attribute("data-state", state, timeout=within_ms)
    expect(head).to_contain_text(word)


@pytest.fixture(scope="module")
def bare(new_site: NewSite) -> Site:
    """An engine that runs, and no game yet."""
    return new_site()


def test_without_a_game_it_says_so_and_how_to_bring_some_in(bare: Site, open_page: OpenPage) -> None:
    page = open_page(bare)
    expect_state(page, "empty", "no games yet")
    empty = page.locator("#empty")
    expect(empty).to_contain_text(bare.deployment.topic)
    expect(empty.locator(".command")).not_to_have_count(0)
    bare.play(20, ended_ms=int(time() * 1000) - DAYS_300_MS)
    expect(empty).to_be_hidden()
    page.reload()
    expect_state(page, "quiet", "quiet")
    expect(page.locator("#age")).to_have_text("300 days ago")
    page.set_viewport_size({"width": 320, "height": 700})  # a long date in the head, on the smallest of phones
    assert wider_than_the_window(page) == []
    page.locator("#to-engine").click()
    expect(page.locator("#engine")).to_be_visible()
    assert wider_than_the_window(page) == []
    page.locator("#to-players").click()
    bare.play()
    expect_state(page, "live", "live")


def test_an_engine_that_is_killed_is_silent_until_it_runs_again(
    site: Site, open_page: OpenPage, page_watch: PageWatch
) -> None:
    page = open_page(site)
    site.play()
    expect_state(page, "live", "live")
    assert site.engine is not None
    site.engine.kill()
    expect_state(page, "silent", "engine silent", SILENT_MS)
    page.goto(f"{site.url}#engine")
    expect(page.locator("#engine")).to_contain_text("crashfold run")
    site.start_engine()
    site.play()
    expect_state(page, "live", "live", AGAIN_MS)


def test_while_redis_is_away_it_says_how_old_the_answers_are(
    site: Site, open_page: OpenPage, page_watch: PageWatch
) -> None:
    page = open_page(site)
    site.play()
    expect_state(page, "live", "live")
    with page_watch(page).outage():
        site.redis.kill()
        expect_state(page, "replica", "Redis away", SILENT_MS)
        site.redis.start()
        expect(page.locator("#status")).not_to_have_attribute("data-state", "replica", timeout=AGAIN_MS)
    site.play()
    expect_state(page, "live", "live", AGAIN_MS)
    page.reload()  # a page that is opened now hears of the engine too, though Redis had lost its report
    expect_state(page, "live", "live", AGAIN_MS)


def test_an_api_that_is_restarted_is_found_again_at_once(
    new_site: NewSite, open_page: OpenPage, page_watch: PageWatch
) -> None:
    site = new_site(games=30)
    page = open_page(site)
    site.play()
    expect_state(page, "live", "live")
    assert site.api is not None
    with page_watch(page).outage():
        site.api.kill()
        expect_state(page, "offline", "disconnected")
        expect(page.locator("#status-detail")).to_contain_text("trying again")
        site.start_api()
        expect_state(page, "live", "live")
    (newest,) = site.play()
    expect(page.locator("#games .chip").first).to_contain_text(f"{newest.crash_point:,.2f}×")
