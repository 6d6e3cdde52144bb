"""Records that are gone: the operator accepts the gap (`--accept-gap`), or the engine ends and says what to do."""

import structlog

from crashfold.engine.core.start import Lost
from crashfold.engine.errors import LostRange, TopicCompacted, TopicRecreated

log = structlog.get_logger()


class LostRecords:
    """Accepts the gaps of a topic with a line in the log each, or raises."""

    def __init__(self, topic: str, *, accepted: bool) -> None:
        self._topic = topic
        self._accepted = accepted

    def accept_lost(self, number: int, lost: Lost) -> None:
        """Go on without the records that are lost. Raises LostRange unless gaps are accepted."""
        topic, first, begin, stream = self._topic, lost.first, lost.begin, lost.stream
        if not self._accepted:
            who = "the stored state" if stream is None else f"stream {stream}, whose keys are gone from Redis,"
            raise LostRange(
                (
                    f"{who} had games of an earlier topic {topic}, which nothing brings back."
                    if first < 0
                    else f"retention removed offsets {first} to {begin - 1} of {topic}/{number}, and {who} needs them."
                )
                + " Go on without them by `crashfold run --accept-gap`, or rebuild from what is left by `crashfold "
                "replay --accept-gap`."
            )
        log.warning("gap_accepted", topic=topic, partition=number, first=first, begin=begin, stream=stream)

    def accept_recreated(self, number: int, evidence: str, read_to: int) -> None:
        """Go on with a topic that is another one than was read up to that offset. Raises TopicRecreated unless gaps are
        accepted."""
        topic = self._topic
        if not self._accepted:
            raise TopicRecreated(
                f"{topic}/{number} is not the partition that was read up to offset {read_to}: {evidence}. What it had "
                "behind that is lost. Rebuild from what it has now by "
                "`crashfold replay --accept-gap`, or keep the state and go on with the new records by --accept-gap."
            )
        log.warning("gap_accepted", topic=topic, partition=number, evidence=evidence)

    def accept_compacted(self) -> None:
        """Go on though records go that a rebuild would need. Raises TopicCompacted unless gaps are accepted."""
        if not self._accepted:
            raise TopicCompacted.of(self._topic)
        log.warning("gap_accepted", topic=self._topic, evidence="it is compacted")
