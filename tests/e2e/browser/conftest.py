"""Fixtures: the page in a real browser, on a real deployment.

- `browser`: the machine's Chromium, one a file.
- `new_site`: a function that makes a deployment with a topic, a Redis and an API of its own, and ends it with the file:
  `new_site(games=…, engine=True, partitions=1, key_prefix=…, settings={…})`.
- `site`: one with a thousand recent games, an engine that runs and an API, shared by the tests of a file.
- `open_page`: a function that opens a path of a site: `open_page(site, "?x=3", width=360, theme="dark")`, or of
  `origin`, where a proxy serves it. When the test ends, each page must have written no error on its console, broken no
  policy and asked no other host. A test that ends servers wraps that in `page_watch(page).outage()`.
- `faults_of`: `faults_of(page)` has axe look at the page; the serious and critical faults that it found.
- `picture`: `picture(page, "name")` keeps a screenshot when `CRASHFOLD_SCREENSHOTS` names a directory, as `make e2e`
  does.

A test that needs a browser is skipped where there is none, and fails with `CI=true`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import enter
from tests.support import servers
from tests.support.deployment import Deployment
from tests.support.servers import KafkaCluster
from tests.support.site import Site, Watch

PATIENCE_MS: Final = 20_000
"""Two tests at a time, each with servers and a browser: a page may take seconds to show what it has."""
GAMES: Final = 1_000
AXE: Final = Path(servers.__file__).parent / "vendor" / "axe.min.js"
"""axe-core 4.14.1 as it is published, under the Mozilla Public License 2.0."""
HEIGHTS: Final = {360: 740, 768: 1024, 1440: 900}

OpenPage = Callable[..., Page]
NewSite = Callable[..., Site]
Picture = Callable[[Page, str], None]
FaultsOf = Callable[[Page], list[str]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: it holds an event loop in this thread, and other files have coroutines to run in theirs.
    with ExitStack() as stack:
        expect.set_options(timeout=PATIENCE_MS)
        yield enter(stack, servers.chromium())


@pytest.fixture(scope="module")
def new_site(browser: Browser, kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewSite]:
    with ExitStack() as stack:

        def new(
            *,
            games: int = 0,
            engine: bool = True,
            api: bool = True,
            partitions: int = 1,
            key_prefix: str = "analytics",
            settings: Mapping[str, Mapping[str, object]] | None = None,
        ) -> Site:
            redis = enter(stack, servers.redis_server())
            directory = tmp_path_factory.mktemp("site")
            topic = f"games-{directory.name}-{os.getpid()}"
            made = Deployment(directory, kafka.bootstrap_servers, redis.url, topic, key_prefix=key_prefix)
            made.configure(settings or {})
            made.create_topic(partitions)
            site = Site(made, redis, stack)
            if engine:
                site.start_engine()
            if games:
                site.play(games)
            if api:
                site.start_api()
            return site

        yield new


@pytest.fixture(scope="module")
def site(new_site: NewSite) -> Site:
    return new_site(games=GAMES)


@pytest.fixture
def watches() -> dict[Page, Watch]:
    return {}


@pytest.fixture
def open_page(browser: Browser, watches: dict[Page, Watch]) -> Iterator[OpenPage]:
    with ExitStack() as stack:

        def open_it(
            site: Site,
            path: str = "",
            *,
            width: int = 1440,
            theme: Literal["light", "dark"] = "light",
            origin: str | None = None,
            **options: Any,
        ) -> Page:
            size: Any = {"width": width, "height": HEIGHTS.get(width, 900)}
            context = browser.new_context(
                viewport=size, color_scheme=theme, locale="en-GB", timezone_id="UTC", reduced_motion="reduce", **options
            )
            stack.callback(context.close)
            watch = Watch(context, origin or site.url)
            page = context.new_page()
            watches[page] = watch
            page.goto(f"{origin or site.url}{path}")
            return page

        yield open_it
    assert [fault for watch in watches.values() for fault in watch.faults] == []


@pytest.fixture
def page_watch(watches: dict[Page, Watch]) -> Callable[[Page], Watch]:
    return watches.__getitem__


@pytest.fixture
def faults_of() -> FaultsOf:
    def look(page: Page) -> list[str]:
        page.evaluate(AXE.read_text("utf-8"))  # through the debugger, which the page's policy does not hold
        found = page.evaluate("axe.run()")
        return [
            f"{fault['id']} ({fault['impact']}): {node['html'][:200]} {node['failureSummary']}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    return look


@pytest.fixture
def picture() -> Picture:
    directory = os.environ.get("CRASHFOLD_SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if directory:
            page.screenshot(path=Path(directory, f"{name}.png"), full_page=True)

    return take


def wider_than_the_window(page: Page) -> list[str]:
    """The elements for which the page has to be scrolled sideways."""
    found: list[str] = page.evaluate("""() => {
      const width = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= width) return [];
      return [...document.querySelectorAll("body *")]
        .filter((element) => element.getBoundingClientRect().right > width)
        .map((one) => `${one.localName}#${one.id}.${one.className} ${one.textContent.slice(0, 40)}`);
    }""")
    return found
