"""The simulation's own proof: with a safeguard of the engine taken out, some seed fails, and says what is wrong.

Each mutation is made in this process alone and undone after it. The seeds are tried in order, so a mutation that is
caught early costs little; how early is what the simulation is worth.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import pytest

from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.core import start
from crashfold.engine.errors import Unavailable
from crashfold.engine.ports import (
    Applied,
    Checkpoint,
    Commit,
    Cursor,
    DeadLetter,
    Duplicate,
    Outcome,
    Position,
    Standing,
)
from crashfold.engine.read.live import Backlog, Frame
from crashfold.engine.runtime import live_states, placement, streams, upkeep
from crashfold.engine.runtime.letters import LetterPublisher
from crashfold.engine.runtime.partitions import Partition
from crashfold.engine.runtime.placement import Placement
from crashfold.engine.runtime.service import Service
from crashfold.projections import stream as projections_stream
from crashfold.projections.sift import sift
from tests.simulation import schedule
from tests.simulation.play import Failed, play

SEEDS_MAX: Final = 300

Patch = pytest.MonkeyPatch


def _without_the_id_of_a_commit(patch: Patch) -> None:
    """The fencing token is a generation and an offset."""
    patch.setattr(Checkpoint, "position", property(lambda self: Position(self.generation, self.next_offset, "")))


def _without_the_fencing_token(patch: Patch) -> None:
    """A commit is made wherever the stream stands."""
    commit = MemoryStore._commit

    def made(self: MemoryStore, new: Commit) -> Outcome:
        kept = self._streams.get(new.stream)
        stored = None if kept is None else kept.checkpoint.position
        return commit(self, msgspec.structs.replace(new, expected=stored))

    patch.setattr(MemoryStore, "_commit", made)


def _a_commit_sent_again_is_made_again(patch: Patch) -> None:
    """A commit that was made already is a new version of the same content."""
    commit = MemoryStore._commit

    def made(self: MemoryStore, new: Commit) -> Outcome:
        outcome = commit(self, new)
        if isinstance(outcome, Duplicate):
            kept = self._streams[new.stream]
            self._streams[new.stream] = msgspec.structs.replace(kept, total_games=kept.total_games + 1)
            return Applied(kept.version + 1)
        return outcome

    patch.setattr(MemoryStore, "_commit", made)


def _a_load_proves_nothing(patch: Patch) -> None:
    """What is stored is taken as it is."""
    patch.setattr(streams, "restored", lambda name, folding, stored: folding.load(stored.state, stored.window))


def _a_manifest_is_noted_before_the_commits(patch: Patch) -> None:
    """It says that everything below its low-water offset is committed."""
    settle = Service.settle

    async def note_and_settle(self: Service) -> None:
        self._partitions.commit()
        with suppress(Unavailable):
            await self._upkeep.note_manifests()
        await settle(self)

    patch.setattr(Service, "settle", note_and_settle)


def _a_manifest_forgets_its_streams(patch: Patch) -> None:
    """A stream that has fallen behind it is not noticed."""
    manifest = Partition.manifest
    patch.setattr(
        Partition,
        "manifest",
        lambda self, low_water: msgspec.structs.replace(manifest(self, low_water), streams={}),
    )


def _dead_letters_come_after_the_commit(patch: Patch) -> None:
    """Whoever crashes in between has lost them."""
    publish, settle = LetterPublisher.publish, Service.settle
    waiting: list[DeadLetter] = []

    async def wait(self: LetterPublisher, letters: Sequence[DeadLetter]) -> None:
        waiting.extend(letters)

    async def settle_and_publish(self: Service) -> None:
        await settle(self)
        await publish(self._letters, waiting)
        waiting.clear()

    patch.setattr(LetterPublisher, "publish", wait)
    patch.setattr(Service, "settle", settle_and_publish)


def _no_game_is_too_late(patch: Patch) -> None:
    """Games below a full window are folded as well."""
    patch.setattr(projections_stream, "sift", lambda window, window_games, arrived: sift(window, 2**40, arrived))


def _a_conflict_is_not_read_again(patch: Patch) -> None:
    """The stream is loaded again, and the partition read on from where it was."""

    async def reconcile(self: Placement, conflicts: list[Any]) -> None:
        for conflict in conflicts:
            self._streams.use(await self._streams.load(conflict.stream, conflict.partition))

    patch.setattr(Placement, "reconcile", reconcile)


def _a_topic_has_no_identity(patch: Patch) -> None:
    """A topic that was made anew is read on as if it were the old one."""
    for module in (start, placement, upkeep, live_states):
        patch.setattr(module, "was_recreated", lambda *known: None)


def _a_cursor_without_its_commit(patch: Patch) -> None:
    """Tags and event ids are a generation and a version."""
    patch.setattr(
        Standing, "cursor", property(lambda self: Cursor(self.generation, self.version, "0" * 16, self.next_offset))
    )


def _a_backlog_goes_on_over_a_restart(patch: Patch) -> None:
    """What comes after a store has lost writes is told as if it built on what came before."""
    add = Backlog.add
    patch.setattr(Backlog, "add", lambda self, change: add(self, msgspec.structs.replace(change, is_restart=False)))


def _a_client_that_comes_back_misses_a_change(patch: Patch) -> None:
    """The backlog begins one change too late."""
    after = Backlog.after

    def later(self: Backlog, known: Cursor) -> Sequence[Frame] | None:
        frames = after(self, known)
        return frames[1:] if frames else frames

    patch.setattr(Backlog, "after", later)


MUTATIONS: Final[dict[Callable[[Patch], None], str]] = {
    _without_the_id_of_a_commit: "remember fork",
    _without_the_fencing_token: "kill trouble",
    _a_commit_sent_again_is_made_again: "kill trouble slow",
    _a_load_proves_nothing: "spoil",
    _a_manifest_is_noted_before_the_commits: "kill trouble",
    _a_manifest_forgets_its_streams: "remember roll-back kill",
    _dead_letters_come_after_the_commit: "kill",
    _no_game_is_too_late: "kill",
    _a_conflict_is_not_read_again: "remember roll-back",
    _a_topic_has_no_identity: "recreate",
    _a_cursor_without_its_commit: "read end-reader remember fork roll-back",
    _a_backlog_goes_on_over_a_restart: "read end-reader remember fork roll-back",
    _a_client_that_comes_back_misses_a_change: "read end-reader",
}
"""Each with the kinds of faults that show it soonest; with all of them it is found as well, but later."""


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__.strip("_"))
def test_an_engine_without_a_safeguard_fails_a_seed(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    kinds = frozenset((*schedule.WORK, *MUTATIONS[mutate].split()))
    mutate(monkeypatch)
    for seed in range(1, SEEDS_MAX + 1):
        try:
            play(seed, kinds)
        except Failed as failed:
            print(str(failed).splitlines()[-2])
            return
    pytest.fail(f"{SEEDS_MAX} seeds went through")
