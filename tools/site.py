"""What mkdocs needs beside docs/: README and changelog as pages, links to files of the repository, the order of pages.

A hook of mkdocs (mkdocs.yml). The one thing that is always true: pages stay as they read well in the repository; what
mkdocs wants otherwise is changed here, on the way to the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of the site."""
SOURCES = "source"
"""Where other files of the repository stand, as text."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^( *)```")

TUTORIAL = ["runbooks/tour.md", "own-projection.md"]
HOW_TO = ["rollout.md", "migrating.md", "operations.md", "tuning.md", "security.md", "extending.md"]
REFERENCE = ["api.md", "settings.md", "keys.md", "rules.md", "glossary.md", "changelog.md"]
MEASURED = ["performance.md", *(f"benchmarks-{name}.md" for name in ("api", "live", "capacity", "peers"))]
EXPLANATION = ["architecture.md", "roadmap.md"]
"""And every page that is on none of these lists."""


def on_config(config: Any) -> Any:
    """The order of the pages: tutorial, how-to, reference, explanation."""
    docs = Path(config["docs_dir"])
    there = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} | set(PAGES.values())
    alerts = sorted(page for page in there if page.startswith("runbooks/") and page not in TUTORIAL)
    alerts.remove("runbooks/README.md")
    tasks = [page for page in alerts if "/task-" in page]
    listed = {*TUTORIAL, *HOW_TO, *REFERENCE, *MEASURED, *EXPLANATION, *PAGES.values()}
    others = sorted(page for page in there - listed if "/" not in page)

    def known(pages: list[str]) -> list[str]:
        return [page for page in pages if page in there]

    config["nav"] = [
        {"Home": "index.md"},
        {"Tutorial": known(TUTORIAL)},
        {
            "How-to": [
                *known(HOW_TO),
                {"Runbooks": ["runbooks/README.md"]},
                {"When an alert fires": [page for page in alerts if page not in tasks]},
                {"Tasks": tasks},
            ]
        },
        {"Reference": [*known(REFERENCE), {"Measured": known(MEASURED)}]},
        {
            "Explanation": [
                *known(EXPLANATION),
                *others,
                {"Decisions": sorted(page for page in there if page.startswith("adr/"))},
            ]
        },
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand elsewhere, and every file of the repository that a page links to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    sources = set()
    for file in list(files.documentation_pages()):
        here = _repository_path(file.src_uri)
        for _, target, _ in _LINK.findall(_without_fences(file.content_string)):
            if (found := _source(here, target)) is not None:
                sources.add(found)
    for name in sorted(sources):
        content = (ROOT / name).read_bytes()
        files.append(File.generated(config, f"{SOURCES}/{_served(name)}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has them, and lists as Python-Markdown wants them indented."""
    here = _repository_path(page.file.src_uri)
    lines, fence = [], None
    for line in markdown.splitlines():
        if (found := _FENCE.match(line)) is not None:
            fence = None if fence is not None else found[1]
        if fence is None:
            line = _LINK.sub(lambda link: link[1] + _site_link(here, page.file.src_uri, link[2]) + link[3], line)
        lines.append(line if fence == "" else _deeper(line))
    return "\n".join(lines) + "\n"


def _deeper(line: str) -> str:
    """Two or three blanks, which continue an item of a list on the web, are four here."""
    return re.sub(r"^ {2,3}(?=[^ ])", "    ", line)


def _repository_path(src_uri: str) -> str:
    elsewhere = {page: name for name, page in PAGES.items()}
    return elsewhere.get(src_uri, f"docs/{src_uri}")


def _target(here: str, target: str) -> tuple[str, str] | None:
    """The file of the repository that a link leads to, and its anchor; None for addresses and anchors alone."""
    if re.match(r"[a-z]+:|#", target):
        return None
    path, hash_, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), path)), hash_ + anchor


def _source(here: str, target: str) -> str | None:
    """The file that a link leads to, when it is no page of the site."""
    found = _target(here, target)
    if found is None or found[0] in PAGES or found[0].startswith("docs/"):
        return None
    return found[0] if (ROOT / found[0]).is_file() else None


def _site_link(here: str, src_uri: str, target: str) -> str:
    found = _target(here, target)
    if found is None:
        return target
    name, anchor = found
    if name in PAGES:
        site = PAGES[name]
    elif name.startswith("docs/"):
        site = name.removeprefix("docs/")
    elif (ROOT / name).is_dir():
        site, anchor = "index.md", ""  # a folder: the home page says what is where
    else:
        site = f"{SOURCES}/{_served(name)}"
    return posixpath.relpath(site, posixpath.dirname(src_uri) or ".") + anchor


def _served(name: str) -> str:
    """A name under which a browser shows the file instead of running or saving it."""
    return name if name.endswith((".gz", ".svg", ".png")) else f"{name}.txt"


def _without_fences(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
