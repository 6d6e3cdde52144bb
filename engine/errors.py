"""Every exception that Crashfold raises on purpose, and the exit code each ends a command with.

    CrashfoldError                1   something failed
    ├── ConfigurationError       78   a setting is wrong: mend it
    ├── StateError               78   stored state does not fit the topic or the settings: the message names the way out
    │   ├── FingerprintMismatch       predicates, sizes or projections changed: rebuild
    │   ├── LostRange                 records that the checkpoint needs are gone: accept the gap or rebuild
    │   ├── TopicRecreated            the topic is not the one that was read: rebuild
    │   └── StreamMoved               a known stream turned up on another partition: rebuild
    └── Unavailable              75   a server cannot be reached or refuses for now: try again
        ├── StoreUnavailable          Redis: the outcome of what was asked may be unknown
        ├── StoreRefused              Redis answered, and did nothing: out of memory, read-only, loading
        └── LogUnavailable            Kafka

Each message says what happened and what the operator should do. Client libraries' own errors are turned into these at
the adapters and seen nowhere else.
"""


class CrashfoldError(Exception):
    """Something failed; the message says what to do."""

    exit_code = 1


class ConfigurationError(CrashfoldError):
    """A setting is unknown or has a bad value; the message names it, its source and what would do."""

    exit_code = 78


class StateError(CrashfoldError):
    """What is stored does not fit the topic or the settings. Going on would be wrong, so the engine stops."""

    exit_code = 78


class FingerprintMismatch(StateError):
    """The stored state was made with other predicates, sizes or projections."""


class LostRange(StateError):
    """Retention removed records that the checkpoint still needs."""


class TopicRecreated(StateError):
    """The topic holds other records than those that were read."""


class StreamMoved(StateError):
    """A stream that lives on one partition turned up on another."""


class Unavailable(CrashfoldError):
    """A server cannot be reached or refuses for now. Trying again is right."""

    exit_code = 75


class StoreUnavailable(Unavailable):
    """Redis did not answer. Whether a write was made is unknown; sending it again is safe."""


class StoreRefused(Unavailable):
    """Redis answered that it cannot write now. Nothing was written."""


class LogUnavailable(Unavailable):
    """Kafka did not answer."""
