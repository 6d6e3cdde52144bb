"""An optional field is added to the event in one line: it is decoded, compared, stored and read from files everywhere.

The line is put into a copy of the packages, which a process of its own imports.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
LAST: Final = "    end_time: Annotated[int, Meta(ge=1, le=TIME_MAX_MS)]\n"
PLAYERS: Final = "    players: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None\n"

PROGRAM: Final = """
import random
from pathlib import Path

import msgspec
import numpy as np

from crashfold.engine.adapters.files.log import read_games_file
from crashfold.engine.games.history import FIELDS
from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.decoding import decode_cells
from crashfold.projections.delta import apply
from crashfold.projections.games import Bands, cells_of, games_of
from crashfold.projections.packed import Packed
from crashfold.schemas.game import decode, encode
from crashfold.schemas.record import Unreadable

chance = random.Random(1)
games = [game(n, round(1 + n / 50, 2), players=chance.choice([None, 0, n, 1_000_000])) for n in range(1, 600)]
settings = ProjectionSettings(window_games=200, samples_games=(10,), own=())

# The columns and the decoder by shape keep it.
bands = Bands(settings.predicates)
assert games_of(cells_of(bands, games)) == games
values = [encode(one) for one in games]
decoded = decode_cells(bands, Packed.of(values))
assert decoded.unreadable == [] and games_of(decoded.cells) == games
too_many = [value.replace(b'"players":0', b'"players":1000001') for value in values]
decoded = decode_cells(bands, Packed.of(too_many))
assert [row for row, _ in decoded.unreadable] == [row for row, one in enumerate(games) if one.players == 0]
assert isinstance(decode(b'{"game_id":1,"crash_point":2.0,"end_time":1,"players":-1}'), Unreadable)

# Another number of players is another game; a value without it is a game as before.
state = StreamState.empty(plan(settings)).fold(games[:10]).state
again = state.fold([games[4], msgspec.structs.replace(games[4], players=77)])
assert (again.duplicates, [one.reason for one in again.rejected]) == (1, ["conflict"])
assert decode(b'{"game_id":1,"crash_point":2.0,"end_time":1}').players is None

# It survives restarts, and stands in the read model.
state, model = StreamState.empty(plan(settings)), {}
for start in range(0, len(games), 70):
    folded = state.fold(games[start : start + 70])
    model = apply(model, folded.state.delta(state, folded.kept))
    state = StreamState.loads(plan(settings), folded.state.dump())
model.pop("checkpoint")
assert model == state.keys() == plain.read_model(settings, games)
assert b'"players":' in model["games"].members[games[-1].game_id] or games[-1].players is None
given(*games[:12]).expect("games", {one.game_id: one for one in games[:12]})

# Files have it too.
assert "players" in FIELDS
Path("games.csv").write_text("game_id,crash_point,end_time,players\\n1,2.0,1,42\\n2,2.0,2,\\n")
assert [decode(line.value).players for line in read_games_file("games.csv")] == [42, None]
print(plan(settings).fingerprint)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("engine", "projections", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / "crashfold" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "crashfold" / "__init__.py", tmp_path / "crashfold")
    return tmp_path


def run(copy: Path, program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def add(copy: Path, line: str) -> None:
    event = copy / "crashfold" / "schemas" / "game.py"
    text = event.read_text()
    assert LAST in text
    event.write_text(text.replace(LAST, LAST + line))


def test_an_optional_whole_number_is_one_line(copy: Path) -> None:
    fingerprint = "from crashfold.projections import ProjectionSettings, plan\n"
    fingerprint += "print(plan(ProjectionSettings(window_games=200, samples_games=(10,), own=())).fingerprint)"
    before = run(copy, fingerprint)
    assert before.returncode == 0, before.stderr
    add(copy, PLAYERS)
    done = run(copy, PROGRAM)
    assert done.returncode == 0, done.stderr
    assert done.stdout != before.stdout  # so that an engine asks for a rebuild instead of loading the old columns


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    table: str | None = None\n", "Game.table fits no column"),
        ("    players: int | None = None\n", "Game.players fits no column"),
        ("    players: Annotated[int, Meta(ge=0, le=9)]\n", "has to be optional"),
    ],
)
def test_a_field_that_the_columns_cannot_hold_is_told_when_the_package_is_imported(
    copy: Path, line: str, said: str
) -> None:
    add(copy, line)
    done = run(copy, "import crashfold.projections")
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]
