"""Which build this is.

Imports the standard library. An image or a package says its revision by `CRASHFOLD_REVISION`; a checkout asks git.
"""

import os
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

VERSION: Final = version("crashfold")

GIT_DEADLINE_S: Final = 2.0


@cache
def revision() -> str:
    """The commit this was built from, as `CRASHFOLD_REVISION` or git says; `unknown` when neither does."""
    if said := os.environ.get("CRASHFOLD_REVISION"):
        return said
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=GIT_DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return asked.stdout.strip() or "unknown"
