"""The projections of `examples/projections`, for tests that do not install the package."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from crashfold.projections import ProjectionSettings

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "projections"
OWN: Final = ("crashfold_examples.highest:Highest", "crashfold_examples.hours:Hours")
WITH_OWN: Final = ProjectionSettings(own=OWN)
OWN_FLAG: Final = f"--projections.own={','.join(OWN)}"


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Here and in processes that are started, what lies in these folders can be imported while the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        yield
