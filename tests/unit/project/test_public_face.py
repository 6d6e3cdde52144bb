"""The public face: what users import, and what a release may therefore not change unseen.

`tests/data/public_face.txt` has every public name of the modules that documents and examples import, with the
signatures of functions and methods and the fields of structs. After a change that is meant:
`python -m tests.unit.project.test_public_face`.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).parents[3]
PINNED: Final = ROOT / "tests" / "data" / "public_face.txt"
PACKAGES: Final = ("crashfold.engine", "crashfold.projections", "crashfold.schemas")
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.py")))
_IMPORTED: Final = re.compile(r"^\s*from (crashfold\.[\w.]+) import", re.MULTILINE)


def modules() -> list[str]:
    """The packages, and the modules that documents and examples import."""
    named = {name for page in PAGES for name in _IMPORTED.findall(page.read_text())}
    return sorted(named | {*PACKAGES, "crashfold.engine.ports"})


def face() -> Iterator[str]:
    """A line for each public name."""
    for name in modules():
        module = import_module(name)
        for exported in exported_of(module):
            yield from described(f"{name}.{exported}", getattr(module, exported))


def exported_of(module: ModuleType) -> list[str]:
    """`__all__`, or without it the public names that are made in the module."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    constants = {name for name in vars(module).get("__annotations__", {}) if not name.startswith("_")}
    made = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    return sorted(made | constants)


def described(name: str, value: Any) -> Iterator[str]:
    """The name; of a class its public members too."""
    if inspect.isclass(value):
        yield f"class {name}"
        fields = {field.name for field in msgspec.structs.fields(value)} if issubclass(value, msgspec.Struct) else ()
        for member in sorted({member for member in vars(value) if not member.startswith("_")} | {*fields}):
            yield f"  {member}{'' if member in fields else signature(inspect.getattr_static(value, member))}"
    elif inspect.isfunction(value):
        yield f"def {name}{signature(value)}"
    else:
        yield name


def signature(value: Any) -> str:
    """The parameters of something that can be called, by name and kind; nothing for anything else."""
    function = getattr(value, "__func__", value)
    if not inspect.isfunction(function):
        return ""
    parameters = inspect.signature(function).parameters.values()
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    return str(inspect.Signature([one.replace(default=...) if one.default is not one.empty else one for one in bare]))


def test_the_public_face_is_the_one_that_is_pinned() -> None:
    pinned, found = PINNED.read_text().splitlines(), list(face())
    assert found == pinned, "meant? run `python -m tests.unit.project.test_public_face`, and tell users in CHANGELOG.md"


def test_everything_that_a_package_exports_is_there_and_has_a_docstring() -> None:
    for name in modules():
        module = import_module(name)
        for exported in exported_of(module):
            value = getattr(module, exported)
            assert value.__doc__ or not inspect.isclass(value), f"{name}.{exported}"


def test_no_two_public_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for package in ("engine", "projections", "schemas"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


if __name__ == "__main__":
    PINNED.write_text("".join(f"{line}\n" for line in face()))
