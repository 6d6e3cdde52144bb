"""The page's files, as they are served: nothing from elsewhere, nothing inline, and what the browser is held to."""

import gzip
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources

import pytest

from crashfold.engine import http
from crashfold.engine.http import page
from crashfold.engine.http.page import FILES, INDEX, PATHS, pages

VOID = {"meta", "link", "img", "input"}
VENDORED = {
    # uPlot 1.6.32 (MIT): dist/uPlot.iife.min.js, dist/uPlot.min.css and LICENSE of the package `uplot` on npm.
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
REFERENCE_VENDORED = {
    # Swagger UI 5.35.0 (Apache License 2.0): swagger-ui-bundle.js, swagger-ui.css, LICENSE and the licences of what the
    # bundle holds (swagger-ui-bundle.js.LICENSE.txt) of the package `swagger-ui-dist` on npm.
    "swagger-ui.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "swagger-ui.txt": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "swagger-ui-parts.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
}
FIRST_LOAD_BYTES = 80_000
"""What all files of the page may weigh, compressed: the rest of the first 150 KB is for games."""
TEXTS = {name: (resources.files(page) / name).read_text("utf-8") for name in FILES}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
NAMESPACE = "http://www.w3.org/2000/svg"


class Elements(HTMLParser):
    """Every element of a document, with its attributes; fails on one that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inline: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style") and data.strip():
            self.inline.append(data)

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


@pytest.fixture(scope="module")
def document() -> Elements:
    return Elements(TEXTS[INDEX])


@pytest.mark.parametrize("name", VENDORED)
def test_what_comes_from_elsewhere_is_what_was_published_there(name: str) -> None:
    assert hashlib.sha256((resources.files(page) / name).read_bytes()).hexdigest() == VENDORED[name]


@pytest.mark.parametrize("name", REFERENCE_VENDORED)
def test_the_reference_is_swagger_ui_as_it_was_published(name: str) -> None:
    assert (
        hashlib.sha256((resources.files(http) / "reference" / name).read_bytes()).hexdigest()
        == (REFERENCE_VENDORED[name])
    )


def test_all_files_together_are_light() -> None:
    assert sum(len(gzip.compress(text.encode(), 6)) for text in TEXTS.values()) < FIRST_LOAD_BYTES


@pytest.mark.parametrize("name", sorted(FILES.keys() - VENDORED.keys()))
def test_no_file_names_another_host(name: str) -> None:
    text = TEXTS[name].replace(NAMESPACE, "")
    assert re.findall(r"(?:https?|wss?):|[\"'(]//|@import", text) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_put_text_in_as_text(name: str) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc|setHTML"
    assert re.findall(forbidden, SCRIPTS[name]) == []


def test_the_document_has_no_inline_script_style_or_handler(document: Elements) -> None:
    assert document.inline == []
    for tag, attributes in document.found:
        assert tag != "style"
        assert "style" not in attributes
        assert [name for name in attributes if name.startswith("on")] == []


def test_everything_that_is_loaded_is_served_and_relative(document: Elements) -> None:
    loaded = [attributes.get("src") or attributes.get("href") for attributes in document.of("script", "link", "img")]
    imports = [name for text in SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', text)]
    assert loaded
    assert {f"page/{name}" for name in imports} | {path for path in loaded if path} <= {
        f"page/{name}" for name in FILES
    }


def test_every_name_that_a_script_looks_for_is_in_the_document(document: Elements) -> None:
    ids = [attributes["id"] for _, attributes in document.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {name for text in SCRIPTS.values() for name in re.findall(r'\$\("([^"]+)"\)', text)} <= set(ids)


def test_every_control_has_a_label_and_every_reference_a_target(document: Elements) -> None:
    ids = {attributes["id"] for _, attributes in document.found if "id" in attributes}
    labelled = {attributes["for"] for attributes in document.of("label")}
    assert {attributes["id"] for attributes in document.of("input", "select")} == labelled <= ids
    for section in document.of("section"):
        assert section.get("aria-label") or section["aria-labelledby"] in ids
    assert document.of("html")[0]["lang"] == "en"
    assert all("alt" in attributes for attributes in document.of("img"))


def test_the_page_says_that_rounds_are_independent() -> None:
    assert "Rounds are independent" in TEXTS[INDEX]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(name: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    subprocess.run([node, "--input-type=module", "--check"], input=SCRIPTS[name].encode(), check=True, timeout=30)


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_under_a_strict_policy(name: str) -> None:
    reply = pages()[PATHS[name]]
    headers = {field.decode(): value.decode() for field, value in reply.headers}
    assert reply.status == 200
    assert reply.body.decode() == TEXTS[name]
    assert headers["content-type"] == FILES[name]
    assert headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["img-src"] == "'self' data:"
    assert "unsafe" not in headers["content-security-policy"]


def test_a_file_that_is_known_is_not_sent_again() -> None:
    reply = pages()["/"]
    etag = (reply.etag or b"").decode()
    known = reply.unless_known(f'"other", W/{etag}')
    assert (known.status, known.body, dict(known.headers)[b"etag"]) == (304, b"", etag.encode())
    # A browser takes the headers of a 304 for those of the page: without the page's policy a reload would break it.
    policy = b"content-security-policy"
    assert dict(known.headers)[policy] == dict(reply.headers)[policy]
    assert b"content-length" not in dict(known.headers)
    assert reply.unless_known('"other"') is reply
