"""The meaning of each error of aiokafka: the broker is away, it refuses for good, or something is broken.

Imports aiokafka and the engine's errors. Always true: `VERDICTS` has every exception class of `aiokafka.errors`, which
a test keeps so when the library changes; and what is not known to be final is away, for nothing temporary may end a
process.

The connections that aiokafka makes fail in its own log alone: what it raises is "Unable to bootstrap". So the reason is
looked for by connecting once more (`reason`), and there TLS and SASL say what is wrong.
"""

import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec
from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from crashfold.engine.adapters import tls
from crashfold.engine.adapters.kafka.token import SETTING, NoToken, TokenRefused, TokenUnavailable
from crashfold.engine.errors import CrashfoldError, Defect, LogRefused, LogUnavailable

Connection = Mapping[str, Any]
"""Options that aiokafka's consumer, producer and admin client have in common, by aiokafka's names."""

PROBE_S: Final = 5.0
"""For one connection that looks for the reason of a failure."""


class KafkaVerdict(msgspec.Struct, frozen=True):
    """The exception for an error, and the advice in its message: none where waiting helps, for not every command
    waits."""

    kind: type[CrashfoldError]
    advice: str


AWAY: Final = KafkaVerdict(LogUnavailable, "")
BROKEN: Final = KafkaVerdict(Defect, "this should not happen: restart, and report it")


def _refused(advice: str) -> KafkaVerdict:
    return KafkaVerdict(LogRefused, advice)


_CREDENTIALS: Final = _refused("mend kafka.sasl_plain_username and kafka.sasl_plain_password")
_MECHANISM: Final = _refused("the broker does not offer this mechanism: mend kafka.sasl_mechanism")
_PROTOCOL: Final = _refused("the listener speaks another protocol: mend kafka.security_protocol or the port")
_VERSION: Final = _refused(
    "the broker does not know this request: update it; one that cannot number producers is written to with"
    " kafka.enable_idempotence = false"
)
_TOKEN: Final = _refused("delegation tokens are not used: mend kafka.sasl_mechanism")
_TOO_LARGE: Final = _refused(
    "the record is larger than is taken: raise max.message.bytes of the topic, or message.max.bytes of the broker"
)

VERDICTS: Final[Mapping[type[BaseException], KafkaVerdict]] = {
    # raised by the client itself
    errors.KafkaError: AWAY,  # a general one hides another, which `verdict_on` looks for
    errors.IllegalStateError: AWAY,  # a partition that the group has just taken back
    errors.IllegalOperation: AWAY,
    errors.IllegalArgumentError: BROKEN,
    errors.NoBrokersAvailable: AWAY,
    errors.NodeNotReadyError: AWAY,
    errors.KafkaProtocolError: AWAY,
    errors.CorrelationIdError: AWAY,
    errors.Cancelled: AWAY,
    errors.TooManyInFlightRequests: AWAY,
    errors.StaleMetadata: AWAY,
    errors.MetadataEmptyBrokerList: AWAY,
    errors.UnrecognizedBrokerVersion: _VERSION,
    errors.IncompatibleBrokerVersion: _VERSION,
    errors.CommitFailedError: AWAY,
    errors.AuthenticationMethodNotSupported: _MECHANISM,
    errors.AuthenticationFailedError: _CREDENTIALS,
    errors.KafkaUnavailableError: AWAY,
    errors.KafkaTimeoutError: AWAY,
    errors.KafkaConnectionError: AWAY,
    errors.UnsupportedCodecError: _refused("install the codec, or let producers use another compression.type"),
    errors.KafkaConfigurationError: _refused("mend the settings of section kafka"),
    errors.QuotaViolationError: AWAY,
    errors.ConsumerStoppedError: AWAY,
    errors.NoOffsetForPartitionError: BROKEN,
    errors.RecordTooLargeError: _refused("raise kafka.max_partition_fetch_bytes"),
    errors.ProducerClosed: AWAY,
    errors.ProducerFenced: AWAY,
    errors.BrokerResponseError: AWAY,
    # answered by the broker, in the order of their numbers
    errors.NoError: BROKEN,
    errors.UnknownError: AWAY,
    errors.OffsetOutOfRangeError: AWAY,
    errors.CorruptRecordException: AWAY,  # another replica may have it whole
    errors.UnknownTopicOrPartitionError: AWAY,
    errors.InvalidFetchRequestError: BROKEN,
    errors.LeaderNotAvailableError: AWAY,
    errors.NotLeaderForPartitionError: AWAY,
    errors.RequestTimedOutError: AWAY,
    errors.BrokerNotAvailableError: AWAY,
    errors.ReplicaNotAvailableError: AWAY,
    errors.MessageSizeTooLargeError: _TOO_LARGE,
    errors.StaleControllerEpochError: AWAY,
    errors.OffsetMetadataTooLargeError: BROKEN,
    errors.StaleLeaderEpochCodeError: AWAY,
    errors.GroupLoadInProgressError: AWAY,
    errors.GroupCoordinatorNotAvailableError: AWAY,
    errors.NotCoordinatorForGroupError: AWAY,
    errors.InvalidTopicError: _refused(
        "the broker takes no topic of this name, or it collides with another that differs by . and _ alone: mend"
        " kafka.topic or kafka.dead_letter_topic"
    ),
    errors.RecordListTooLargeError: _refused("the batch is larger than a segment: raise segment.bytes of the topic"),
    errors.NotEnoughReplicasError: AWAY,
    errors.NotEnoughReplicasAfterAppendError: AWAY,
    errors.InvalidRequiredAcksError: BROKEN,
    errors.IllegalGenerationError: AWAY,
    errors.InconsistentGroupProtocolError: _refused(
        "the group has members of another kind: set kafka.group_id to one of this engine's own"
    ),
    errors.InvalidGroupIdError: _refused("mend kafka.group_id"),
    errors.UnknownMemberIdError: AWAY,
    errors.InvalidSessionTimeoutError: _refused(
        "kafka.session_timeout_ms is outside the broker's group.min.session.timeout.ms and group.max.session.timeout.ms"
    ),
    errors.RebalanceInProgressError: AWAY,
    errors.InvalidCommitOffsetSizeError: BROKEN,
    errors.TopicAuthorizationFailedError: _refused(
        "the user lacks a right on the topic: reading takes READ, writing WRITE, making it CREATE; `run` needs READ on"
        " kafka.topic, and on kafka.dead_letter_topic WRITE and (to make it) CREATE"
    ),
    errors.GroupAuthorizationFailedError: _refused("the user lacks the right READ on the group kafka.group_id"),
    errors.ClusterAuthorizationFailedError: _refused(
        "the user may write to no topic: allow WRITE on the one to write to (before Kafka 2.8 also IDEMPOTENT_WRITE on"
        " the cluster, or set kafka.enable_idempotence = false), and CREATE where it is to be made"
    ),
    errors.InvalidTimestampError: _refused(
        "the broker takes no record of this time: mend this machine's clock, or the topic's message.timestamp settings"
    ),
    errors.UnsupportedSaslMechanismError: _MECHANISM,
    errors.IllegalSaslStateError: _PROTOCOL,
    errors.UnsupportedVersionError: _VERSION,
    errors.TopicAlreadyExistsError: AWAY,
    errors.InvalidPartitionsError: _refused("mend --partitions"),
    errors.InvalidReplicationFactorError: AWAY,  # so it is while too few brokers are there
    errors.InvalidReplicationAssignmentError: BROKEN,
    errors.InvalidConfigurationError: _refused("the broker takes no topic with these settings: make the topic by hand"),
    errors.NotControllerError: AWAY,
    errors.InvalidRequestError: BROKEN,
    errors.UnsupportedForMessageFormatError: _refused("the topic has an old message format: raise its version"),
    errors.PolicyViolationError: _refused("the cluster's policy forbids it: make the topic by hand"),
    errors.OutOfOrderSequenceNumber: AWAY,  # another producer is made
    errors.DuplicateSequenceNumber: AWAY,
    errors.InvalidProducerEpoch: AWAY,
    errors.InvalidTxnState: BROKEN,
    errors.InvalidProducerIdMapping: AWAY,
    errors.InvalidTransactionTimeout: BROKEN,
    errors.ConcurrentTransactions: AWAY,
    errors.TransactionCoordinatorFenced: AWAY,
    errors.TransactionalIdAuthorizationFailed: _refused("the user lacks the right WRITE on the transactional id"),
    errors.SecurityDisabled: _refused("the broker has no authorizer"),
    errors.OperationNotAttempted: AWAY,
    errors.KafkaStorageError: AWAY,
    errors.LogDirNotFound: AWAY,
    errors.SaslAuthenticationFailed: _CREDENTIALS,
    errors.UnknownProducerId: AWAY,
    errors.ReassignmentInProgress: AWAY,
    errors.DelegationTokenAuthDisabled: _TOKEN,
    errors.DelegationTokenNotFound: _TOKEN,
    errors.DelegationTokenOwnerMismatch: _TOKEN,
    errors.DelegationTokenRequestNotAllowed: _TOKEN,
    errors.DelegationTokenAuthorizationFailed: _TOKEN,
    errors.DelegationTokenExpired: _TOKEN,
    errors.InvalidPrincipalType: _TOKEN,
    errors.NonEmptyGroup: AWAY,
    errors.GroupIdNotFound: AWAY,
    errors.FetchSessionIdNotFound: AWAY,
    errors.InvalidFetchSessionEpoch: AWAY,
    errors.ListenerNotFound: AWAY,
    errors.MemberIdRequired: AWAY,
}
"""Every error of the client, and what it means. A new one of an update is missing here until it has been read about."""

_OF_TOKENS: Final[Mapping[type[BaseException], KafkaVerdict]] = {
    TokenUnavailable: AWAY,
    NoToken: _refused(f"mend the function that {SETTING} names"),
    TokenRefused: _refused(f"mend the token that the function of {SETTING} returns: its issuer, scope or time"),
}

_BY_NAME: Final = {kind.__name__: kind for kind in VERDICTS}


def verdict_on(error: BaseException) -> KafkaVerdict:
    """Return the meaning of an error of the client, or of the connection below it.

    aiokafka wraps some errors into a general one, as its cause or as the text of its name: then that counts.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        said = getattr(error, "verify_message", None) or error
        return _refused(f"the broker's certificate does not hold ({said}): mend kafka.ssl_cafile, the name, or it")
    if isinstance(error, ssl.SSLError) and not isinstance(error, tls.AWAY):
        return _refused(
            "TLS with the broker fails: mend kafka.security_protocol, kafka.ssl_cafile, kafka.ssl_certfile and"
            " kafka.ssl_keyfile"
        )
    verdict = _OF_TOKENS.get(type(error)) or VERDICTS.get(type(error), AWAY)
    if verdict is AWAY and isinstance(error, errors.KafkaError):
        if error.__cause__ is not None:
            verdict = verdict_on(error.__cause__)
        for name in re.findall(r"\w+", " ".join(map(str, error.args)) if type(error) is errors.KafkaError else ""):
            if verdict is AWAY and name in _BY_NAME:
                verdict = VERDICTS[_BY_NAME[name]]
    return verdict


def translated(doing: str, error: BaseException) -> CrashfoldError:
    """Our error for one of the client's, or of the operating system's."""
    verdict = verdict_on(error)
    said = ": ".join([type(error).__name__, *map(str, error.args)])
    return verdict.kind(f"{doing}: {said}; {verdict.advice}" if verdict.advice else f"{doing}: {said}")


@contextmanager
def kafka_errors(doing: str) -> Iterator[None]:
    """Turn every error of the client, and of the connections below it, into one of ours.

    Among them is the RuntimeError that uvloop makes of a write to a connection that has just been lost.
    """
    try:
        yield
    except (errors.KafkaError, errors.ConsumerStoppedError, errors.IllegalOperation, OSError, TimeoutError) as error:
        raise translated(doing, error) from error
    except RuntimeError as error:
        if "the handler is closed" not in str(error):
            raise
        raise translated(doing, error) from error


class Probe:
    """Looks for the reason why brokers cannot be reached, at most once in `every_s`: each look makes connections."""

    def __init__(self, connection: Connection, every_s: float = PROBE_S) -> None:
        self._connection = connection
        self._every_s = every_s
        self._due_s = 0.0

    async def look(self, doing: str, brokers: Iterable[tuple[str, int]] = ()) -> None:
        """Raise the reason when one is found, at those brokers too: LogRefused, or LogUnavailable."""
        if time.monotonic() < self._due_s:
            return
        found = await reason(self._connection, brokers)
        self._due_s = time.monotonic() + self._every_s
        if found is not None:
            raise translated(doing, found) from found


async def reason(connection: Connection, brokers: Iterable[tuple[str, int]] = ()) -> BaseException | None:
    """The error with which a broker refuses a connection for good, or for which there is no token to log in with; None
    when there is no such error."""
    first = [(host, port) for host, port, _ in collect_hosts(connection["bootstrap_servers"])]
    for host, port in dict.fromkeys([*first, *brokers]):
        error: BaseException | None = None
        with anyio.move_on_after(PROBE_S):
            error = await _reason_of(host, port, connection)
        if error is not None:
            return error
    return None


async def _reason_of(host: str, port: int, connection: Connection) -> BaseException | None:
    failure: BaseException
    protocol = connection.get("security_protocol", "PLAINTEXT")
    try:
        async with _connected(host, port, connection) as broker:
            await broker.send(MetadataRequest([]))
            return None
    except (errors.KafkaError, OSError, TimeoutError) as error:
        failure = error
        if isinstance(error, TokenUnavailable) or verdict_on(failure).kind is LogRefused:
            return failure
        if isinstance(error, OSError) and not isinstance(error, ConnectionResetError | TimeoutError | ssl.SSLError):
            return None  # nobody is there
    if protocol.endswith("SSL"):
        alert = await anyio.to_thread.run_sync(tls.alert_of, host, port, connection["ssl_context"])
        if alert is not None:
            return alert
    for other in ("PLAINTEXT", "SASL_PLAINTEXT", "SSL"):
        if other != protocol and await _speaks(host, port, other, connection):
            failure = errors.IllegalSaslStateError(f"{host}:{port} speaks {other}, not {protocol}")
            return failure
    return None


async def _speaks(host: str, port: int, protocol: str, connection: Connection) -> bool:
    """Whether the listener speaks that protocol; no password is sent."""
    context = None
    if protocol == "SSL":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    bare = {
        "request_timeout_ms": 1000,
        "security_protocol": "SSL" if context else "PLAINTEXT",
        "ssl_context": context,
    }
    with suppress(errors.KafkaError, OSError, TimeoutError):
        async with _connected(host, port, bare) as broker:
            if protocol == "SSL":
                return True
            answer = await broker.send(SaslHandShakeRequest("PLAIN"))
            asks_for_login: bool = answer.error_code != errors.IllegalSaslStateError.errno
            return asks_for_login == (protocol == "SASL_PLAINTEXT")
    return False


@asynccontextmanager
async def _connected(host: str, port: int, connection: Connection) -> AsyncIterator[AIOKafkaConnection]:
    known = ("client_id", "request_timeout_ms", "security_protocol", "ssl_context")
    sasl = ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password", "sasl_oauth_token_provider")
    broker = await create_conn(host, port, **{name: connection[name] for name in known + sasl if name in connection})
    try:
        yield broker
    finally:
        broker.close()
