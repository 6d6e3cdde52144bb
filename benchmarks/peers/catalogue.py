"""The peers: what each is, how it is run, and what is known of it that a run does not show."""

from typing import Literal

import msgspec

from benchmarks.peers.result import AGGREGATES

Kind = Literal["floor", "peer", "own"]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer. `variants` are the ways its user code holds the state; a floor and Crashfold have one, without a name.

    `share` of the games is what it is given: less when it is slow, more when it takes long to start. When it is to be
    killed it writes every `kill_write_every_s`. `aggregates` are those that it makes. `exactly_once` says whether what
    stands in Redis counts each game once whatever happens, and what that rests on.
    """

    name: str
    kind: Kind
    what: str
    variants: tuple[str, ...] = ("plain", "best")
    share: float = 1.0
    kill_write_every_s: float = 0.05
    aggregates: tuple[str, ...] = AGGREGATES
    exactly_once: str = "–"


PEERS = (
    Peer(name="bare", kind="floor", what="aiokafka getmany + msgspec decode: the reference", variants=("",)),
    Peer(name="confluent", kind="floor", what="confluent-kafka consume + msgspec decode", variants=("",)),
    Peer(name="batches", kind="floor", what="Crashfold's fetch path + its decoder, no fold", variants=("",)),
    Peer(
        name="replay",
        kind="own",
        what="crashfold replay",
        variants=("",),
        share=5,
        exactly_once="yes: swaps at once or not at all",
    ),
    Peer(
        name="run",
        kind="own",
        what="crashfold run --until-caught-up",
        variants=("",),
        share=5,
        exactly_once="yes: compare-and-set of state and offset (tests/soak)",
    ),
    Peer(
        name="handrolled",
        kind="peer",
        what="aiokafka + redis by hand",
        exactly_once="of one process: state and offset in one MSET, nothing fences a second",
    ),
    Peer(
        name="per_event",
        kind="peer",
        what="the roadmap's plan: a MULTI/EXEC for every game",
        variants=("",),
        share=0.01,
        exactly_once="of one process: state and offset in one transaction, nothing fences a second",
    ),
    Peer(
        name="faststream",
        kind="peer",
        what="FastStream, batch subscriber",
        exactly_once="no: state in memory, offsets in the group",
    ),
    Peer(
        name="bytewax",
        kind="peer",
        what="bytewax, stateful_batch, recovery on",
        exactly_once="no: state and offset of one epoch, output since then is repeated",
    ),
    Peer(
        name="pathway",
        kind="peer",
        what="Pathway, JSON parsed by its engine, subscriber",
        exactly_once="no: state in memory, reads from the start",
    ),
    Peer(
        name="pathway_native",
        kind="peer",
        what="Pathway, its own tables and reducers, no series",
        variants=("",),
        aggregates=tuple(name for name in AGGREGATES if name != "series"),
        exactly_once="no: state in memory, reads from the start",
    ),
    Peer(
        name="kafka_streams",
        kind="peer",
        what="Kafka Streams (Java), processor with a logged store, exactly_once_v2",
        share=5,
        kill_write_every_s=1.0,
        exactly_once="no: state and offset of one transaction, output since then is repeated",
    ),
    Peer(
        name="flink",
        kind="peer",
        what="Apache Flink (Java), one function chained to the source, checkpoints on",
        share=5,
        kill_write_every_s=1.0,
        exactly_once="of one process: what is sent was completed by a checkpoint, nothing fences a second",
    ),
    Peer(
        name="flink_native",
        kind="peer",
        what="Apache Flink (Java), keyed state of each predicate, timers, checkpoints on",
        variants=("",),
        kill_write_every_s=1.0,
        exactly_once="no: state and offset of one checkpoint, output since then is repeated",
    ),
    Peer(
        name="quixstreams",
        kind="peer",
        what="Quix Streams, batching sink",
        exactly_once="no: state in memory, offsets in the group",
    ),
    Peer(
        name="faust",
        kind="peer",
        what="faust-streaming, an agent over events",
        share=0.25,
        exactly_once="no: state in memory, offsets in the group",
    ),
)


def chosen(names: str) -> list[Peer]:
    """The peers of these names, separated by commas; all when there are none. Raises ValueError.

    The reference is always among them, and first.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()] or [peer.name for peer in PEERS]
    unknown = set(wanted) - {peer.name for peer in PEERS}
    if unknown:
        raise ValueError(f"no such peers: {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in PEERS)}")
    return [peer for peer in PEERS if peer.name in {"bare", *wanted}]
