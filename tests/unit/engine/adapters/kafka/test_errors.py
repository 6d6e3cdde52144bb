"""What each error of aiokafka means: the table is whole, and finds what the client hides."""

import inspect
import ssl

import pytest
from aiokafka import errors

from crashfold.engine.adapters.kafka.errors import AWAY, VERDICTS, kafka_errors, verdict_on
from crashfold.engine.errors import CrashfoldError, Defect, LogRefused, LogUnavailable


def all_errors() -> set[type[BaseException]]:
    """Every exception class that the library defines, the broker's numbered ones included."""
    known: set[type[BaseException]] = set(errors.kafka_errors.values())
    known |= {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BaseException)}
    return known


def test_the_table_has_every_error_of_the_client_and_no_other() -> None:
    assert len(all_errors()) > 100
    assert set(VERDICTS) == all_errors()


@pytest.mark.parametrize("kind", sorted(all_errors(), key=repr))
def test_every_error_of_the_client_comes_out_as_one_of_ours_and_says_what_to_do(kind: type[Exception]) -> None:
    with pytest.raises(CrashfoldError) as raised, kafka_errors("reading games"):
        raise kind("what the broker said")
    assert type(raised.value) in (LogUnavailable, LogRefused, Defect)
    assert str(raised.value).startswith(f"reading games: {kind.__name__}: ")
    assert VERDICTS[kind].advice in str(raised.value)


def test_what_the_client_calls_retriable_is_never_final() -> None:
    for kind, verdict in VERDICTS.items():
        if getattr(kind, "retriable", False):
            assert verdict is AWAY, kind


@pytest.mark.parametrize(
    "hidden",
    [
        errors.KafkaError(repr(errors.InvalidSessionTimeoutError())),
        errors.KafkaError("Unexpected error during coordination GroupAuthorizationFailedError('g')"),
    ],
)
def test_an_error_that_the_client_wraps_into_a_general_one_is_found(hidden: Exception) -> None:
    assert verdict_on(hidden).kind is LogRefused


def test_an_error_below_a_lost_connection_counts() -> None:
    lost = errors.KafkaConnectionError("Connection at h:1 closed")
    assert verdict_on(lost) is AWAY
    lost.__cause__ = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] required")
    assert verdict_on(lost).kind is LogRefused


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), ConnectionResetError(), ssl.SSLEOFError(8, "EOF")])
def test_a_connection_that_is_lost_is_away(error: Exception) -> None:
    with pytest.raises(LogUnavailable), kafka_errors("testing"):
        raise error


def test_a_certificate_that_does_not_hold_is_refused() -> None:
    with pytest.raises(LogRefused, match=r"kafka\.ssl_cafile"), kafka_errors("testing"):
        raise ssl.SSLCertVerificationError(1, "certificate has expired")
