"""Every exception that Crashfold raises on purpose, and the exit code each ends a command with.

    CrashfoldError                1   something failed
    ├── Defect                    1   this program or a client library met what cannot be: report it
    ├── ConfigurationError       78   a setting is wrong: mend it
    │   └── Refused                   a server refuses for good: mend the setting, the right or the size that is named
    │       ├── LogRefused            Kafka
    │       └── StoreForbidden        Redis
    ├── StateError               78   stored state does not fit the topic or the settings: the message names the way out
    │   ├── FingerprintMismatch       predicates, sizes or projections changed: rebuild
    │   ├── LostRange                 records that the checkpoint needs are gone: accept the gap or rebuild
    │   ├── TopicRecreated            the topic is not the one that was read: rebuild
    │   ├── FewerGames                a rebuild would bring fewer games than the live state has: accept the gap
    │   ├── DroppedKeys               a rebuild would drop the keys of a projection: install it, or say so
    │   ├── TopicCompacted            the topic drops records that a rebuild would need: mend its settings
    │   └── StreamMoved               a known stream turned up on another partition: rebuild
    └── Unavailable              75   a server cannot be reached or refuses for now: try again
        ├── StoreUnavailable          Redis: the outcome of what was asked may be unknown
        ├── StoreRefused              Redis answered, and did nothing: out of memory, read-only, loading
        └── LogUnavailable            Kafka

An adapter maps each error of its client to one of three kinds, in one table (`kafka_errors.py`, `redis_errors.py`):
*away* (`Unavailable`: retried with backoff and jitter), *refused* (`Refused`: a human has to change something, so it is
never retried), *broken* (`StateError` or `Defect`). Each message says what happened and what the operator should do.
Client libraries' own errors are seen nowhere but in the adapters.
"""


class CrashfoldError(Exception):
    """Base of all errors that Crashfold raises on purpose; the message says what to do."""

    exit_code = 1


class Defect(CrashfoldError):
    """A defect of this program or of a client library: a case that should not exist. A restart may help; a report mends
    it."""


class ConfigurationError(CrashfoldError):
    """A setting is unknown or has a bad value; the message names it, its source and what would do."""

    exit_code = 78


class Refused(ConfigurationError):
    """A server refuses for good; the message names the setting, the right or the size that a human has to change."""


class LogRefused(Refused):
    """Kafka refuses for good: credentials, a certificate, a right, a name, a size."""


class StoreForbidden(Refused):
    """Redis refuses for good: credentials, a certificate, a right, a mode, a size."""


class StateError(CrashfoldError):
    """The stored state does not fit the topic or the settings. Going on would be wrong, so the engine stops."""

    exit_code = 78


class FingerprintMismatch(StateError):
    """The stored state was made with other predicates, sizes or projections."""


class LostRange(StateError):
    """Retention removed records that the checkpoint still needs."""


class TopicRecreated(StateError):
    """The topic holds other records than those that were read."""


class FewerGames(StateError):
    """A rebuild would bring fewer games than the live state has, or none at all."""


class DroppedKeys(StateError):
    """A rebuild would drop keys of a projection that these settings do not have."""


class TopicCompacted(StateError):
    """The topic drops records that a rebuild would need."""

    @classmethod
    def of(cls, topic: str) -> "TopicCompacted":
        """Make the error for that topic."""
        return cls(
            f"the topic {topic} is compacted (its cleanup.policy has `compact`): of the records of a stream only the "
            "newest stay, so the state could never be rebuilt. Set cleanup.policy=delete on it, or go on with what it "
            "has by --accept-gap."
        )


class StreamMoved(StateError):
    """A stream that lives on one partition turned up on another."""


class Unavailable(CrashfoldError):
    """A server cannot be reached or refuses for now; the same call may succeed later. Trying again is right."""

    exit_code = 75


class StoreUnavailable(Unavailable):
    """Redis did not answer. Whether a write was made is unknown; sending it again is safe."""


class StoreRefused(Unavailable):
    """Redis answered that it cannot write now. Nothing was written."""


class LogUnavailable(Unavailable):
    """Kafka did not answer."""
