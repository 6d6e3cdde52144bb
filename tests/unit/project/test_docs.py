"""The documentation is true where a program can tell: links, the file map, commands, settings, code, keys."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

from crashfold.engine import logs
from crashfold.engine.adapters.prometheus.api import ApiMetrics
from crashfold.engine.adapters.prometheus.engine import Metrics
from crashfold.engine.cli.main import app
from crashfold.engine.cli.options import with_settings_as_flags
from crashfold.engine.settings import settings_by_name
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas.keys import Keys
from tests.support import failures
from tests.support.games import sample_games

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CODE = sorted(
    path
    for folder in ("schemas", "projections", "engine", "benchmarks", "tests", "examples", "tools", "deploy")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".lua")
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_MAPPED = re.compile(r"^\| `((?:schemas|projections|engine)/[^`]*)` \|", re.MULTILINE)
_FILE = re.compile(r"`([\w./-]*\w\.(?:py|lua))[`:]")
_VARIABLE = re.compile(r"\bCRASHFOLD_[A-Z]+__[A-Z_]+[A-Z]\b")
_READS = frozenset({"GET", "HGET", "HGETALL", "HKEYS", "HLEN", "LRANGE", "LLEN", "ZCARD", "ZRANGE", "ZRANGEBYSCORE"})


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in _FENCE.findall(page.read_text()):
        if language in languages:
            yield text


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What links can point at: each heading in lower case, without punctuation, with hyphens for blanks."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(page: Path) -> Iterator[list[str]]:
    """Every command on the page, as words: lines of console blocks that begin with `$`."""
    for block in blocks(page, "console"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if line.startswith("$ "):
                yield shlex.split(line.removeprefix("$ "), comments=True)


def crashfold_words(words: list[str]) -> list[str] | None:
    """What follows `crashfold` in a command, up to a pipe; None when it is another command."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words or words[0].rpartition("/")[2] != "crashfold":
        return None
    end = next((at for at, word in enumerate(words) if word in ("|", "&", ">", "&&")), len(words))
    return words[1:end]


def refused(words: list[str]) -> str | None:
    """Why the command line would not take these words, or None."""
    try:
        _command, bound, _ignored = app.parse_args(
            with_settings_as_flags(words), exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        return str(error)
    common = bound.arguments.get("common")
    names = [assignment.partition("=")[0] for assignment in (common.set if common else ())]
    unknown = [name for name in names if name not in settings_by_name()]
    return f"no settings: {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert not broken


def test_every_page_is_linked_from_the_readme_or_a_page_it_links() -> None:
    reached = {ROOT / "README.md"}
    fresh = list(reached)
    while fresh:
        page = fresh.pop()
        for target in _LINK.findall(prose(page)):
            found = (page.parent / target.partition("#")[0]).resolve()
            if found.suffix == ".md" and found not in reached and found.exists():
                reached.add(found)
                fresh.append(found)
    assert [name_of(page) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_of_the_code_that_is_named_on_a_page_is_there(page: Path) -> None:
    """A name may leave out folders at its front: `runtime/service.py`, `commit.lua`."""
    named = set(_FILE.findall(prose(page)))
    assert {name for name in named if not any(str(path).endswith(f"/{name}") for path in CODE)} == set()


def test_the_file_map_names_every_module_and_nothing_else() -> None:
    mapped = _MAPPED.findall(ARCHITECTURE.read_text())
    there = {
        str(path.relative_to(ROOT))
        for package in ("schemas", "projections", "engine")
        for kind in ("*.py", "*.lua")
        for path in (ROOT / package).rglob(kind)
        if path.name != "__init__.py" or len(ast.parse(path.read_text()).body) > 1  # more than a docstring
    }
    assert len(mapped) == len(set(mapped))
    assert {"not in the map": there - set(mapped), "not there": set(mapped) - there} == {
        "not in the map": set(),
        "not there": set(),
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_on_a_page_is_one_that_the_command_line_takes(page: Path) -> None:
    faults = [
        (shlex.join(words), fault)
        for words in command_lines(page)
        if (ours := crashfold_words(words)) is not None and (fault := refused(ours)) is not None
    ]
    assert not faults


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_named_in_a_sentence_exists(page: Path) -> None:
    named = [span.split()[1] for span in _CODE_SPAN.findall(prose(page)) if re.match(r"crashfold [a-z]", span)]
    assert [command for command in named if command not in app] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [shlex.join(words) for words in command_lines(page)] + _CODE_SPAN.findall(prose(page))
    named = [found[1] for line in lines if (found := re.match(r"make ([a-z0-9-]+)", line))]
    assert [target for target in named if target not in targets] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_named_on_a_page_exists(page: Path) -> None:
    sections = {name.partition(".")[0] for name in settings_by_name()}
    variables = {setting.variable for setting in settings_by_name().values()}
    spans = [re.split(r"[ =]", span)[0].removeprefix("--") for span in _CODE_SPAN.findall(prose(page))]
    names = [span for span in spans if re.fullmatch(r"[a-z]+\.[a-z_]+", span) and span.partition(".")[0] in sections]
    files = {
        "crashfold.engine.core",
        "crashfold.engine.testing",
        "crashfold.engine.publisher",
        "crashfold.engine.http",
        "crashfold.engine.cli",
        "engine.testing",
        "engine.settings",
    }
    assert [name for name in names if name not in settings_by_name() and name not in files] == []
    unknown = [name for name in _VARIABLE.findall(page.read_text()) if name.removesuffix("_FILE") not in variables]
    assert [name for name in unknown if name != "CRASHFOLD_SECTION__NAME"] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "own-projection.md"], ids=name_of)
def test_the_python_on_a_page_runs(page: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, name_of(page), "exec"), {"__name__": "a page"})


@pytest.fixture(scope="module")
def sample_model() -> dict[str, Value]:
    """The keys of the sample data, by their whole names."""
    model = StreamState.empty(plan(ProjectionSettings())).fold(sample_games()).state.keys()
    return {Keys.of("analytics", "crash").key(name): value for name, value in model.items()}


def printed(model: dict[str, Value], command: str, key: str, *args: str) -> list[str]:
    """What redis-cli prints into a pipe for a command that reads one key."""
    value: Any = model.get(key, {} if command.startswith("H") else [])
    found: list[bytes | int]
    match command:
        case "GET":
            found = [value]
        case "HGET":
            found = [value[args[0]]]
        case "HGETALL":
            found = [part for field, content in value.items() for part in (field.encode(), content)]
        case "HKEYS":
            found = [field.encode() for field in value]
        case "HLEN" | "LLEN":
            found = [len(value)]
        case "ZCARD":
            found = [len(value.members)]
        case "LRANGE":
            found = value[int(args[0]) : int(args[1]) + 1]
        case "ZRANGE":
            assert isinstance(value, SortedSet)
            members = list(value.members.values())
            found = [*members[int(args[0]) : (int(args[1]) + 1) or None]]
        case "ZRANGEBYSCORE":
            found = [member for score, member in value.members.items() if int(args[0]) <= score <= int(args[1])]
        case _:
            raise AssertionError(f"this test cannot read {command}")
    return [part.decode() if isinstance(part, bytes) else str(part) for part in found]


def redis_examples(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Each `$ redis-cli …` with the lines below it."""
    for block in blocks(page, "console"):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *output = example.splitlines()
            words = shlex.split(line, comments=True)
            if words and words[0] == "redis-cli" and output:
                yield words[3:] if words[1] == "-n" else words[1:], output


SAMPLE_EXAMPLES = [
    pytest.param(words, output, id=f"{name_of(page)}: {' '.join(words)}")
    for page in PAGES
    for words, output in redis_examples(page)
    if words[0] in _READS and not words[1].endswith((":version", ":checkpoint")) and ":manifest:" not in words[1]
]


@pytest.mark.parametrize(("words", "output"), SAMPLE_EXAMPLES)
def test_what_a_page_shows_of_a_key_is_what_the_sample_data_make_of_it(
    words: list[str], output: list[str], sample_model: dict[str, Value]
) -> None:
    found = printed(sample_model, *words)
    if words[0] in ("HGETALL", "HKEYS"):  # the order of a hash's fields is nobody's promise
        step = 2 if words[0] == "HGETALL" else 1
        found, output = sorted(rows(found, step)), sorted(rows(output, step))
    assert output == found


def rows(lines: list[str], step: int) -> list[str]:
    return [" ".join(lines[at : at + step]) for at in range(0, len(lines), step)]


def test_there_are_examples_of_keys() -> None:
    assert len(SAMPLE_EXAMPLES) >= 10


def test_the_runbook_names_the_events_that_an_engine_logs() -> None:
    packages = ("core", "games", "runtime", "adapters", "read", "http", "cli")
    sources = "".join(path.read_text() for name in packages for path in (ROOT / "engine" / name).rglob("*.py"))
    logged = set(re.findall(r'log\.(?:info|warning|error|exception)\(\s*"(\w+)"', sources)) | {logs.LIBRARY_EVENT}
    runbook = prose(ROOT / "docs" / "operations.md")
    table = runbook.partition("## Log events")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(logged)


@pytest.mark.parametrize(("section", "metrics"), [("Metrics", Metrics()), ("The API", ApiMetrics())])
def test_the_runbook_names_the_metrics_that_are_served(section: str, metrics: Metrics | ApiMetrics) -> None:
    served = {
        family.name + "_total" * (family.type == "counter")
        for family in metrics.registry.collect()
        if family.name.startswith("crashfold_")
    }
    runbook = prose(ROOT / "docs" / "operations.md").partition(f"## {section}\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(crashfold_\w+)", runbook, re.MULTILINE)) == served


def test_the_page_of_failures_is_that_of_the_marked_tests_and_their_last_results() -> None:
    """`make failures` makes it."""
    results = failures.read_results()
    assert failures.PAGE.read_text() == failures.page(results)
    names = [fault.test for fault in failures.marked()]
    assert len(names) == len(set(names)) >= 60
    assert set(results["tests"]) <= set(names)
    assert all(found["passed"] and not found["failed"] for found in results["tests"].values())
