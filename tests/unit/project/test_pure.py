"""`projections` and `schemas` need numpy, msgspec and the standard library, and nothing else that is installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

FOLD = """
import sys
from importlib.abc import MetaPathFinder


class Forbidden(MetaPathFinder):
    allowed = sys.stdlib_module_names | {"numpy", "msgspec", "crashfold"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ImportError(f"{name} is not allowed here")


sys.meta_path.insert(0, Forbidden())

try:
    import hypothesis
except ImportError:
    pass
else:
    raise SystemExit("the finder lets everything through")

from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import apply
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import decode, encode

games = [decode(encode(game)) for game in chain_of_games(1, 300)]
settings = ProjectionSettings(window_games=100, samples_games=(10,))
state, model = StreamState.empty(plan(settings)), {}
for start in range(0, len(games), 50):
    folded = state.fold(games[start : start + 50])
    model = apply(model, folded.state.delta(state, folded.kept))
    state = StreamState.loads(plan(settings), folded.state.dump())
model.pop("checkpoint")
assert model == state.keys() == plain.read_model(settings, games)

unwanted = {"asyncio", "logging", "crashfold.engine"} & sys.modules.keys()
print(state.totals.games, sorted(unwanted))
"""


def test_a_fold_needs_numpy_and_msgspec_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOLD], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "300 []\n"
