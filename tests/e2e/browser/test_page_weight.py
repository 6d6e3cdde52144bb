"""What the page costs its reader: how much comes over the wire, and whether everybody can use it."""

from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser.conftest import FaultsOf, OpenPage
from tests.support.site import Site

FIRST_BYTES = 150_000
MINUTE_BYTES = 60_000
GAMES_A_MINUTE = 24
GAMES = 12


class Wire:
    """The bytes that a page received, as they came: compressed, with headers; those of its live stream as they are."""

    def __init__(self, page: Page) -> None:
        self._arrived: dict[str, int] = {}
        session = page.context.new_cdp_session(page)
        session.on("Network.dataReceived", self._add)
        session.on("Network.loadingFinished", self._finish)
        session.send("Network.enable")

    @property
    def bytes(self) -> int:
        return sum(self._arrived.values())

    def _add(self, event: Any) -> None:
        self._arrived[event["requestId"]] = self._arrived.get(event["requestId"], 0) + int(event["dataLength"])

    def _finish(self, event: Any) -> None:
        self._arrived[event["requestId"]] = int(event["encodedDataLength"])


def test_it_is_light_to_load_and_to_leave_open(site: Site, open_page: OpenPage) -> None:
    page = open_page(site, "docs")
    wire = Wire(page)
    page.goto(site.url)
    expect(page.locator("#status")).to_have_attribute("data-state", "live")
    expect(page.locator("#games .chip").first).to_be_visible()
    assert wire.bytes < FIRST_BYTES
    loaded = wire.bytes
    for _ in range(GAMES):
        (newest,) = site.play()
        expect(page.locator("#games .chip").first).to_contain_text(f"{newest.crash_point:,.2f}×")
    assert wire.bytes > loaded
    assert (wire.bytes - loaded) / GAMES * GAMES_A_MINUTE < MINUTE_BYTES


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_no_serious_fault(
    site: Site, open_page: OpenPage, faults_of: FaultsOf, width: int, theme: Literal["light", "dark"]
) -> None:
    page = open_page(site, width=width, theme=theme)
    expect(page.locator("#games .chip").first).to_be_visible()
    assert faults_of(page) == []


def test_every_control_is_reached_by_the_keyboard_alone(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    expect(page.locator("#games .chip").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    reached: list[str] = []
    for _ in range(200):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        if reached and name == reached[0]:
            break
        reached.append(name)
    for name in ("stream", "zone", "Engine", "threshold", "hash", "salt"):
        assert any(name in one for one in reached), (name, reached)
    page.locator("#to-engine").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#engine")).to_be_visible()
    expect(page.locator("#players")).to_be_hidden()
