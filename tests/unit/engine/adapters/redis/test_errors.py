"""What each error of redis-py and each answer of Redis means: the tables are whole."""

import inspect
import ssl

import pytest
import redis.exceptions
from redis._parsers.base import BaseParser

from crashfold.engine.adapters.redis.errors import CODES, STRAYED, VERDICTS, translated
from crashfold.engine.errors import CrashfoldError, StateError, StoreForbidden, StoreRefused, StoreUnavailable

EXPECTED_KINDS: dict[str, type[CrashfoldError]] = {
    **dict.fromkeys(
        ("OOM", "READONLY", "LOADING", "BUSY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "CLUSTERDOWN", "TRYAGAIN"),
        StoreRefused,
    ),
    **dict.fromkeys(("EXECABORT", "UNKILLABLE", "NOSCRIPT"), StoreRefused),
    **dict.fromkeys(("NOAUTH", "WRONGPASS", "NOPERM", "MOVED", "ASK", "CROSSSLOT", "NOPROTO"), StoreForbidden),
    "DENIED": StoreForbidden,
    "WRONGTYPE": StateError,
}


def all_errors() -> set[type[BaseException]]:
    """Every exception class that the library defines."""
    found = {kind for _, kind in inspect.getmembers(redis.exceptions, inspect.isclass)}
    return {kind for kind in found if issubclass(kind, BaseException)}


def parsed(answer: str) -> Exception:
    """The client library's error for an error that Redis answers with."""
    error: Exception = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]  # the library's own gap
    return error


def test_the_table_has_every_error_of_the_client_and_no_other() -> None:
    assert len(all_errors()) > 30
    assert set(VERDICTS) == all_errors()


@pytest.mark.parametrize("kind", sorted(all_errors(), key=repr))
def test_every_error_of_the_client_comes_out_as_its_kind(kind: type[Exception]) -> None:
    assert type(translated(kind("1234 127.0.0.1:7000"))) is VERDICTS[kind].kind


@pytest.mark.parametrize("code", sorted({*EXPECTED_KINDS, *BaseParser.EXCEPTION_CLASSES} - {"ERR"}))
def test_every_code_that_redis_answers_with_is_mapped(code: str) -> None:
    assert type(translated(parsed(f"{code} 1234 127.0.0.1:7000"))) is EXPECTED_KINDS[code]


def test_the_tables_have_no_code_that_is_not_tested() -> None:
    assert CODES.keys() == EXPECTED_KINDS.keys()
    assert STRAYED.keys() < CODES.keys()


@pytest.mark.parametrize(
    ("answer", "kind", "named"),
    [
        ("ERR max number of clients reached", StoreRefused, "maxclients"),
        ("ERR DB index is out of range", StoreForbidden, "redis.url"),
        ("ERR unknown command 'FOO', with args beginning with: ", StoreForbidden, "FOO"),
        ("ERR Protocol error: invalid bulk length", StoreForbidden, "proto-max-bulk-len"),
        ("ERR This instance has cluster support disabled", StoreForbidden, "redis.cluster"),
        (
            "ERR AUTH <password> called without any password configured for the user",
            StoreForbidden,
            "redis.url",
        ),
        ("NOPERM User u has no permissions to run the 'evalsha' command", StoreForbidden, "evalsha"),
        (
            "EXECABORT Transaction discarded because of: NOPERM User u has no permissions to run the 'exec' command",
            StoreForbidden,
            "exec",
        ),
        ("EXECABORT Transaction discarded because of previous errors.", StoreRefused, "discarded"),
        ("ERR EXEC without MULTI", StoreForbidden, "MULTI"),
        ("ERR The user executing the script can't run this command or subcommand", StoreForbidden, "script"),
        ("ERR ACL failure in script: User u has no permissions to run the 'time' command", StoreForbidden, "time"),
        ("ERR something new", StateError, "something new"),
    ],
)
def test_an_answer_without_a_code_is_known_by_what_it_says(answer: str, kind: type[CrashfoldError], named: str) -> None:
    ours = translated(parsed(answer))
    assert type(ours) is kind
    assert named in str(ours)


@pytest.mark.parametrize("error", [OSError("x"), ConnectionResetError(), TimeoutError(), BrokenPipeError()])
def test_errors_of_the_operating_system_leave_the_outcome_unknown(error: OSError) -> None:
    assert type(translated(error)) is StoreUnavailable


def test_a_certificate_that_does_not_hold_is_refused_for_good_however_deep_the_client_hides_it() -> None:
    error = redis.exceptions.ConnectionError("Error 1 connecting to h:1.")
    error.__cause__ = ssl.SSLCertVerificationError(1, "certificate verify failed")
    assert type(translated(error)) is StoreForbidden


@pytest.mark.parametrize(
    "text", ["Command # 1 (GET x) of pipeline caused error: ('BUSY Redis is busy',)", "BUSY Redis is busy"]
)
def test_an_error_is_known_whether_or_not_the_client_wraps_it(text: str) -> None:
    assert type(translated(redis.exceptions.ResponseError(text))) is StoreRefused


def test_an_error_that_redis_6_wraps_is_known_by_its_own_code() -> None:
    wrapped = "ERR Error running script (call to f_ab12): @user_script:126: -OOM command not allowed when used memory"
    assert type(translated(parsed(wrapped))) is StoreRefused
