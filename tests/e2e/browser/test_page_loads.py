"""The page in a browser: it loads, shows what there is, follows the games, and looks right at every width."""

from typing import Literal

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import GAMES, OpenPage, Picture, wider_than_the_window
from tests.support.site import Site

THEMES: list[Literal["light", "dark"]] = ["light", "dark"]


def test_it_shows_the_newest_games_and_the_total(site: Site, open_page: OpenPage) -> None:
    (newest,) = site.play()
    page = open_page(site)
    expect(page.locator("#games > li").first).to_have_text(f"{newest.crash_point:.2f}×")
    expect(page.locator("body")).to_contain_text(f"{GAMES + 1:,}")


def test_a_game_that_is_published_appears_by_itself(site: Site, open_page: OpenPage) -> None:
    page = open_page(site)
    expect(page.locator("#games > li").first).to_be_visible()
    (newest,) = site.play()
    expect(page.locator("#games > li").first).to_have_text(f"{newest.crash_point:.2f}×")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_nothing_is_wider_than_the_window(
    site: Site, open_page: OpenPage, picture: Picture, width: int, theme: Literal["light", "dark"]
) -> None:
    page = open_page(site, width=width, theme=theme)
    expect(page.locator("#games > li").first).to_be_visible()
    assert wider_than_the_window(page) == []
    picture(page, f"page-{width}-{theme}")
