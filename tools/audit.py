"""What is known of the packages that are shipped: an SBOM, their licences, their vulnerabilities. `make audit` runs it.

Shipped is what `uv.lock` has without the development groups, all extras included. Exit code 0: nothing against them; 1:
a licence that is not on the list below, or a known vulnerability; 75: not every package could be looked up.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

UV: Final = ".cache/uv/bin/uv"
SBOM: Final = Path("build/sbom.cdx.json")
TRY_AGAIN: Final = 75
SHIPPED: Final = ("--locked", "--quiet", "--no-dev", "--no-default-groups", "--all-extras", "--no-emit-project")

ALLOWED: Final = re.compile(
    r"MIT|BSD|Apache|ISC|\bPSF|Python Software Foundation|MPL.2|Mozilla Public License 2|CC0|Unlicense|Zlib|0BSD",
    re.IGNORECASE,
)
"""Permissive licences, and the MPL for files that are used as they are."""


def main() -> int:
    """Write the SBOM, look at licences and vulnerabilities; the exit code."""
    components = write_sbom()
    print(f"SBOM: {SBOM}, CycloneDX 1.5, {len(components)} packages")
    bad = [one for one in components if not ALLOWED.search(one["licence"])]
    print(f"licences: {', '.join(sorted({one['licence'] for one in components if one['licence']}))}")
    for one in bad:
        print(f"licence not allowed: {one['name']} {one['version']}: {one['licence'] or 'none is told'}")
    code = vulnerabilities()
    return 1 if bad else code


def write_sbom() -> list[dict[str, str]]:
    """Write the SBOM, with a licence to every package that is installed; name, version and licence of each."""
    bom: dict[str, Any] = json.loads(exported("cyclonedx1.5"))
    found = {}
    for component in bom["components"]:
        name = component["name"]
        licence = licence_of(name)
        if licence is None:
            continue  # for another platform
        component["licenses"] = [{"license": {"name": licence}}]
        found[name] = {"name": name, "version": component["version"], "licence": licence}
    SBOM.parent.mkdir(exist_ok=True)
    SBOM.write_text(json.dumps(bom, indent=2) + "\n")
    return list(found.values())


def licence_of(package: str) -> str | None:
    """What the package says of its licence, in a line; empty when it says nothing, None when it is not installed."""
    try:
        told = metadata(package)
    except PackageNotFoundError:
        return None
    classifiers = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier", []) if one.startswith("License ::")]
    text = told.get("License-Expression") or " and ".join(classifiers) or told.get("License") or ""
    return text.strip().partition("\n")[0][:100]


def vulnerabilities() -> int:
    """Ask for known vulnerabilities of exactly the locked versions; 0, 1, or 75 when not all could be looked up."""
    with TemporaryDirectory() as directory:
        requirements = Path(directory, "requirements.txt")
        requirements.write_text(exported("requirements.txt"))
        command = ["--requirement", str(requirements), "--disable-pip", "--require-hashes", "--format", "json"]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("pip-audit")), *command, "--progress-spinner", "off"],
            capture_output=True,
            text=True,
            check=False,
        )
    return judged(done.stdout, done.stderr)


def judged(told: str, said: str) -> int:
    """What the auditor's JSON and its messages come to; a package that it skipped counts as not looked up."""
    try:
        packages = json.loads(told)["dependencies"]
    except ValueError:
        print(f"vulnerabilities: NOT LOOKED UP, nothing is known: {(said.strip() or 'no answer').splitlines()[-1]}")
        return TRY_AGAIN
    found = [(one, fault) for one in packages for fault in one.get("vulns", ())]
    for one, fault in found:
        print(f"vulnerable: {one['name']} {one['version']}: {fault['id']}, mended in {fault['fix_versions'] or 'none'}")
    skipped = [one for one in packages if "skip_reason" in one]
    if skipped:
        print(
            f"vulnerabilities: NOT LOOKED UP for {len(skipped)} of {len(packages)} packages, nothing is known of them:"
            f" {skipped[0]['skip_reason']}"
        )
    if found:
        return 1
    if skipped:
        return TRY_AGAIN
    print(f"vulnerabilities: none known of {len(packages)} packages")
    return 0


def exported(form: str) -> str:
    """The lock file in another form."""
    return subprocess.run([UV, "export", *SHIPPED, "--format", form], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
