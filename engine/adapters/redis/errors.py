"""The meaning of each error of redis-py and each answer of Redis: away, refused for good, or broken.

Imports redis and the engine's errors. Always true: `VERDICTS` has every exception class of `redis.exceptions`, which a
test keeps so when the library changes. An answer is known by its code, the first word that Redis says; those without
one (`ERR`) by what they say.
"""

import re
import ssl
from collections.abc import Mapping
from typing import Final

import msgspec
from redis import exceptions

from crashfold.engine.adapters import tls
from crashfold.engine.errors import CrashfoldError, Defect, StateError, StoreForbidden, StoreRefused, StoreUnavailable


class RedisVerdict(msgspec.Struct, frozen=True):
    """The exception to raise for an error, and the advice in its message."""

    kind: type[CrashfoldError]
    advice: str


def _refused_now(advice: str) -> RedisVerdict:
    return RedisVerdict(StoreRefused, advice)


def _forbidden(advice: str) -> RedisVerdict:
    return RedisVerdict(StoreForbidden, advice)


AWAY: Final = RedisVerdict(StoreUnavailable, "")
UNEXPECTED: Final = RedisVerdict(StateError, "check with `crashfold verify`")
BROKEN: Final = RedisVerdict(Defect, "this should not happen: restart, and report it")
TOO_LARGE: Final = _forbidden(
    "the commit is larger than Redis takes: raise proto-max-bulk-len and client-query-buffer-limit, or lower"
    " engine.batch_games_max"
)
_CREDENTIALS: Final = _forbidden("mend the user and password in redis.url, or redis.password")
_CLUSTER: Final = _forbidden("this is a Redis Cluster: set redis.cluster = true")
_DATABASE: Final = _forbidden("there is no such database: mend the number at the end of redis.url")

CODES: Final[Mapping[str, RedisVerdict]] = {
    "ASK": _CLUSTER,
    "BUSY": _refused_now("a script of somebody else runs for too long"),
    "CLUSTERDOWN": _refused_now("the cluster does not serve this slot"),
    "CROSSSLOT": _forbidden("the keys of a stream must share a slot: set redis.key_prefix to one with {stream} in it"),
    "DENIED": _forbidden("it is in protected mode: give it a password, and redis.url too"),
    "EXECABORT": _refused_now("the transaction was discarded"),
    "LOADING": _refused_now("it loads its data after a restart"),
    "MASTERDOWN": _refused_now("this replica has lost its primary"),
    "MISCONF": _refused_now("it cannot save to disk: look at its log and disk"),
    "MOVED": _CLUSTER,
    "NOAUTH": _forbidden("give redis.url a user and password"),
    "NOPERM": _forbidden(
        "the user in redis.url lacks the right to this command, or to keys or channels under redis.key_prefix"
    ),
    "NOPROTO": _forbidden("the server is older than Redis 6"),
    "NOREPLICAS": _refused_now("too few replicas are connected (min-replicas-to-write)"),
    "NOSCRIPT": _refused_now("it has forgotten a script"),
    "OOM": _refused_now("it is out of memory: raise maxmemory or free some"),
    "READONLY": _refused_now("this is a replica, there was a failover"),
    "TRYAGAIN": _refused_now("the cluster moves this slot"),
    "UNKILLABLE": _refused_now("a script of somebody else runs for too long"),
    "WRONGPASS": _CREDENTIALS,
    "WRONGTYPE": RedisVerdict(StateError, "a key of the read model has another type; `crashfold replay` rebuilds"),
}
"""By the code of an answer."""

STRAYED: Final = {
    "ASK": "this slot is on its way to another node",
    "MOVED": "another node has this slot; it is tried there",
    **{code: CODES[code].advice for code in ("CLUSTERDOWN", "EXECABORT", "MASTERDOWN", "READONLY")},
}
"""Codes with which a node of a cluster says that it did nothing, and that another node may have the slot."""

SAYINGS: Final[Mapping[str, RedisVerdict]] = {
    "max number of clients": _refused_now("it has as many clients as maxclients allows"),
    "without any password configured": _forbidden("it asks for no password: take it out of redis.url"),
    "no password is set": _forbidden("it asks for no password: take it out of redis.url"),
    "DB index": _DATABASE,
    "SELECT is not allowed": _DATABASE,
    "Invalid Database": _DATABASE,
    "cluster support disabled": _forbidden(
        "redis.cluster is true, but it is no node of a cluster: set that to false, or mend redis.url"
    ),
    "unknown command": _forbidden("it does not know this command: update it, or give it the command's name back"),
    "unknown subcommand": _forbidden("it does not know this command: update it"),
    "sentinels refuse the login": _forbidden("mend sentinel_username and sentinel_password in redis.url"),
    "sentinels know no service": _forbidden("mend the service in redis.url, or tell the sentinels of it"),
    "EXEC without MULTI": _forbidden("the user in redis.url may not run MULTI: grant it"),
    "ACL failure in script": _forbidden("the user in redis.url lacks a command that a script of ours runs"),
    "can't run this command": _forbidden("the user in redis.url lacks a command that a script of ours runs"),
    "invalid bulk length": TOO_LARGE,
    "invalid multibulk length": TOO_LARGE,
    "exceeds maximum allowed size": TOO_LARGE,
}
"""By what an answer without a code says."""

VERDICTS: Final[Mapping[type[BaseException], RedisVerdict]] = {
    exceptions.RedisError: UNEXPECTED,
    exceptions.ConnectionError: AWAY,
    exceptions.TimeoutError: AWAY,
    exceptions.AuthenticationError: _CREDENTIALS,
    exceptions.AuthorizationError: _CREDENTIALS,
    exceptions.BusyLoadingError: CODES["LOADING"],
    exceptions.InvalidResponse: RedisVerdict(
        StoreUnavailable, "what answers may be no Redis, or speak TLS: mend redis.url if so"
    ),
    exceptions.ResponseError: UNEXPECTED,
    exceptions.DataError: BROKEN,
    exceptions.PubSubError: BROKEN,
    exceptions.WatchError: BROKEN,
    exceptions.NoScriptError: CODES["NOSCRIPT"],
    exceptions.OutOfMemoryError: CODES["OOM"],
    exceptions.ExecAbortError: CODES["EXECABORT"],
    exceptions.ReadOnlyError: CODES["READONLY"],
    exceptions.NoPermissionError: CODES["NOPERM"],
    exceptions.ModuleError: BROKEN,
    exceptions.NoSuchFieldsetError: BROKEN,
    exceptions.LockError: BROKEN,
    exceptions.LockNotOwnedError: BROKEN,
    exceptions.ChildDeadlockedError: BROKEN,
    exceptions.AuthenticationWrongNumberOfArgsError: CODES["NOPROTO"],
    exceptions.RedisClusterException: BROKEN,
    exceptions.ClusterError: BROKEN,
    exceptions.ClusterDownError: CODES["CLUSTERDOWN"],
    exceptions.AskError: _CLUSTER,
    exceptions.TryAgainError: CODES["TRYAGAIN"],
    exceptions.ClusterCrossSlotError: CODES["CROSSSLOT"],
    exceptions.MovedError: _CLUSTER,
    exceptions.MasterDownError: CODES["MASTERDOWN"],
    exceptions.SlotNotCoveredError: BROKEN,
    exceptions.MaxConnectionsError: AWAY,
    exceptions.CrossSlotTransactionError: BROKEN,
    exceptions.InvalidPipelineStack: BROKEN,
    exceptions.ExternalAuthProviderError: _refused_now("it cannot ask who the user is"),
    exceptions.IncorrectPolicyType: BROKEN,
}
"""Every error of the client, and what it means where no code says more."""

_CODE: Final = re.compile(r"-?([A-Z]{2,})\b")
_COMMAND_INSIDE: Final = re.compile(r"^Command # \d+ \([A-Z]+ (\S+?)[ )]")
"""The key of the command of a pipeline that an error is about, as the client tells it."""
_CODE_INSIDE: Final = re.compile(r"(?:: -|because of: |caused error: \(['\"])([A-Z]{2,})\b")
"""Redis 6 wraps an error raised in a script into one of its own, and the client one raised in a pipeline; an aborted
transaction may say why it was aborted."""

_ABOUT_OURS: Final = re.compile("ALERT.*(CERTIFICATE|UNKNOWN_CA)")
"""An alert of the server about the client's certificate, or the lack of one."""


def code_of(error: BaseException) -> str | None:
    """The code that Redis put in front of an error it answered with; None when it is none of Redis's."""
    if not isinstance(error, exceptions.RedisError):
        return None
    code: str | None = error.status_code
    if code and code not in ("ERR", "EXECABORT"):
        return code
    if not isinstance(error, exceptions.ResponseError):
        return None
    text = str(error)
    if "unauthenticated" in text:  # a protocol error: what an unknown client may send is limited
        return "NOAUTH"
    inside, first = _CODE_INSIDE.search(text), _CODE.match(text)
    own = None if code == "ERR" else code
    return inside[1] if inside else own or (first[1] if first else None)


def verdict_on(error: BaseException) -> RedisVerdict:
    """Return the meaning of an error of the client or of the operating system."""
    if (fault := _tls_fault(error)) is not None:
        said = getattr(fault, "verify_message", None) or fault
        if _ABOUT_OURS.search(getattr(fault, "reason", None) or ""):
            return _forbidden("TLS: the server refuses ours: mend ssl_certfile and ssl_keyfile in redis.url")
        return _forbidden(f"TLS: {said}: mend redis.url, its ssl_ca_certs, or the server's certificate")
    code, text = code_of(error), str(error)
    if code is not None and code in CODES:
        return CODES[code]
    if isinstance(error, exceptions.RedisError):
        for saying, verdict in SAYINGS.items():
            if saying in text:
                return verdict
    return VERDICTS.get(type(error), AWAY if isinstance(error, OSError) else UNEXPECTED)


def translated(error: BaseException) -> CrashfoldError:
    """Our error for one of the client's, or of the operating system's."""
    verdict, code, text = verdict_on(error), code_of(error), str(error) or type(error).__name__
    if verdict.kind is StateError and verdict is not UNEXPECTED:
        command = _COMMAND_INSIDE.search(text)
        return StateError(f"{command[1]}: {verdict.advice}" if command else verdict.advice)
    if verdict.kind in (StoreRefused, StoreForbidden):
        told = f" ({code})" if code in CODES else ""
        named = f": {text}" if verdict.kind is StoreForbidden else ""
        return verdict.kind(f"Redis refused{told}{named}: {verdict.advice}")
    what = {StoreUnavailable: "Redis did not answer", StateError: "Redis answered what was not expected"}
    said = f"{what.get(verdict.kind, 'the Redis client failed')} ({text})"
    return verdict.kind(f"{said}; {verdict.advice}" if verdict.advice else said)


def unexpected(reply: object) -> StateError:
    """The error for a script's reply that this version does not know."""
    return StateError(f"a script answered {reply!r}: the server runs another version of it")


def _tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """The reason of TLS why a connection could not be made, which the client wraps; None for another."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return None if isinstance(error, tls.AWAY) else error
        error = error.__cause__ or error.__context__
    return None
