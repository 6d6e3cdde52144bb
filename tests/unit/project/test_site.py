"""The site of docs/ builds without a warning, every link in it leads somewhere, and a browser asks no other host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[3]
_OUTSIDE_CSS = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?https?:")


class Page(HTMLParser):
    """The ids of a page, what it links to, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("img", "script", "iframe", "source") and "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and "href" in values and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--site-dir", built],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return built


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_page_of_the_documentation_is_a_page_of_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / (name.with_name("index.html") if name.stem == "README" else name)).exists(), name
    assert (site / "index.html").exists()
    assert (site / "changelog.html").exists()


def test_every_link_of_the_site_leads_to_a_page_and_a_place_in_it(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            is_there = found.is_relative_to(site) and found.is_file()
            place = unquote(parts.fragment)
            if not is_there or (place and found in pages and place not in pages[found].ids):
                broken.append((path.name, link))
    assert broken == []


def test_a_browser_asks_no_other_host_for_a_page(site: Path, pages: dict[Path, Page]) -> None:
    outside = {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc}
    assert outside == set()
    assert [path for path in site.rglob("*.css") if _OUTSIDE_CSS.search(path.read_text())] == []


def test_pages_stand_under_tutorial_how_to_reference_and_explanation(site: Path) -> None:
    home = (site / "index.html").read_text()
    tabs = home[home.index('class="md-tabs"') :]
    places = [tabs.index(name) for name in ("Tutorial", "How-to", "Reference", "Explanation")]
    assert places == sorted(places)
