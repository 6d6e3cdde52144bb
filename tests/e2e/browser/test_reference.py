"""The API reference in a browser: it shows every route with its prose, and tries them."""

from playwright.sync_api import expect

from tests.e2e.browser.conftest import NewSite, OpenPage, Picture
from tests.support.site import Site


def test_it_shows_every_route_with_its_prose_and_tries_one(site: Site, open_page: OpenPage, picture: Picture) -> None:
    page = open_page(site, "docs")
    described = page.request.get(f"{site.url}schema/openapi.json").json()
    operations = sum(len(methods) for methods in described["paths"].values())
    expect(page.locator(".opblock")).to_have_count(operations)
    expect(page.locator(".info code").first).to_be_visible()
    assert "`" not in page.locator("#reference").inner_text()
    picture(page, "docs-1440-light")
    block = page.locator(".opblock").filter(has=page.locator("[data-path='/api/games']"))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("200")
    expect(answer).to_contain_text('"total_items": 1000')


def test_it_works_under_a_prefix(new_site: NewSite, open_page: OpenPage) -> None:
    site = new_site(games=20, settings={"api": {"root_path": "/stats"}})
    page = open_page(site, "stats/docs")
    expect(page.locator(".opblock").first).to_be_visible(timeout=20_000)
    page.goto(f"{site.url}stats/")
    expect(page.locator("#games .chip").first).to_be_visible(timeout=20_000)
