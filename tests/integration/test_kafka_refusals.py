"""What Apache Kafka refuses for good ends every command with 78 and the name of what to change, and `doctor` finds it.

One broker for the whole module, with a listener for each way of being refused.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.kafka.log import KafkaLog
from crashfold.engine.adapters.kafka.sink import KafkaDeadLetters, KafkaSink
from crashfold.engine.adapters.kafka.topics import ensure_topic
from crashfold.engine.errors import LogRefused, LogUnavailable
from crashfold.engine.publisher import open_sink
from crashfold.engine.settings import KafkaSettings
from tests.conftest import enter
from tests.contract.dead_letters import letter
from tests.support import acl, servers, tokens
from tests.support.acl import KafkaRight
from tests.support.certificates import Authority
from tests.support.deployment import Deployment, NewDeployment, chain, in_order
from tests.support.servers import KafkaBroker, RedisServer

# asyncio leaves the socket of a TLS handshake that failed to the garbage collector, now and then.
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVERY_RIGHT: Final = [
    KafkaRight(*words) for words in (("topic", "*", "Read"), ("topic", "*", "Write"), ("group", "*", "Read"))
]
USERS: Final = ("all",)

IMPORTABLE: Final = {"PYTHONPATH": str(Path(__file__).parents[2])}
"""Lets a command import the functions that give tokens."""


class Guarded:
    """The broker, and what its certificates are signed by."""

    def __init__(self, broker: KafkaBroker, authority: Authority) -> None:
        self.broker = broker
        self.authority = authority


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with ExitStack() as stack:
        try:
            authority = Authority(tmp_path_factory.mktemp("certificates") / "authority")
        except servers.Missing as missing:
            pytest.skip(str(missing))
        tls = {"TLS": authority.sign("IP:127.0.0.1"), "MUTUAL": authority.sign("IP:127.0.0.1")}
        tls |= {"ELSEWHERE": authority.sign("DNS:example.com"), "EXPIRED": authority.sign("IP:127.0.0.1", expired=True)}
        properties = acl.properties(USERS) | {
            "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
            "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.token.oauthbearer.sasl.jaas.config": (
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
                'unsecuredLoginStringClaim_sub="broker";'
            ),
            # A session by token lasts a second: aiokafka does not renew it, and the broker ends the connection.
            "listener.name.token.oauthbearer.connections.max.reauth.ms": "1000",
            "group.max.session.timeout.ms": "60000",
            "listener.name.mutual.ssl.client.auth": "required",
        }
        for name, pem in tls.items():
            prefix = f"listener.name.{name.lower()}.ssl"
            properties |= {f"{prefix}.keystore.type": "PEM", f"{prefix}.keystore.location": str(pem)}
            properties |= {f"{prefix}.truststore.type": "PEM", f"{prefix}.truststore.location": str(authority.pem)}
        listeners = {acl.LISTENER: "SASL_PLAINTEXT", "TOKEN": "SASL_PLAINTEXT"} | dict.fromkeys(tls, "SSL")
        cluster = enter(stack, servers.kafka_cluster(properties=properties, listeners=listeners))
        yield Guarded(cluster.brokers[0], authority)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a failed handshake left is collected here, and not in a test that has nothing to do with it."""
    yield
    gc.collect()


@pytest.fixture
def deployed(guarded: Guarded, new_deployment: NewDeployment, redis_url: str) -> Deployment:
    made = new_deployment(redis_url, bootstrap_servers=guarded.broker.address, partitions=1)
    (made.directory / "games.jsonl").write_text('{"game_id":1,"crash_point":2.0,"end_time":1}\n')
    return made


def login(guarded: Guarded, user: str, **more: object) -> dict[str, object]:
    """Settings of section kafka for that user."""
    return acl.login(guarded.broker.address_of(acl.LISTENER), user) | more


def tls(guarded: Guarded, listener: str, **more: object) -> dict[str, object]:
    """Settings of section kafka for that listener."""
    return {
        "bootstrap_servers": guarded.broker.address_of(listener),
        "security_protocol": "SSL",
        "ssl_cafile": str(guarded.authority.pem),
        **more,
    }


Unique = Callable[[str], str]
Refusal = Callable[[Guarded, Path], dict[str, object]]

REFUSALS: Final[dict[str, tuple[Refusal, str]]] = {
    "a wrong password": (
        lambda g, _: login(g, "all", sasl_plain_password="wrong-password"),
        "kafka.sasl_plain_password",
    ),
    "a mechanism that is off": (lambda g, _: login(g, "all", sasl_mechanism="SCRAM-SHA-256"), "kafka.sasl_mechanism"),
    "no login where one is asked for": (
        lambda g, _: {"bootstrap_servers": g.broker.address_of(acl.LISTENER)},
        "kafka.security_protocol",
    ),
    "no TLS where it is spoken": (
        lambda g, _: {"bootstrap_servers": g.broker.address_of("TLS")},
        "kafka.security_protocol",
    ),
    "TLS where it is not spoken": (
        lambda g, _: tls(g, "TLS", bootstrap_servers=g.broker.address),
        "kafka.security_protocol",
    ),
    "another authority": (
        lambda g, path: tls(g, "TLS", ssl_cafile=str(Authority(path / "other").pem)),
        "kafka.ssl_cafile",
    ),
    "a certificate of another host": (lambda g, _: tls(g, "ELSEWHERE"), "kafka.ssl_cafile"),
    "an expired certificate": (lambda g, _: tls(g, "EXPIRED"), "expired"),
    "no certificate where one is asked for": (lambda g, _: tls(g, "MUTUAL"), "kafka.ssl_certfile"),
    "a certificate of another authority where one is asked for": (
        lambda g, path: tls(g, "MUTUAL", ssl_certfile=str(Authority(path / "other").sign("DNS:client"))),
        "kafka.ssl_certfile",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_connection_that_is_refused_for_good_names_the_setting(
    guarded: Guarded, tmp_path: Path, name: str
) -> None:
    settings, named = REFUSALS[name]
    kafka = msgspec.convert(settings(guarded, tmp_path), KafkaSettings)
    with pytest.raises(LogRefused, match=named.replace(".", r"\.")) as raised:
        async with KafkaLog.from_settings(kafka):
            pass
    assert "wrong-password" not in str(raised.value)


async def test_a_broker_that_is_down_is_away() -> None:
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", request_timeout_ms=1_000)
    with pytest.raises(LogUnavailable):
        async with KafkaLog.from_settings(kafka):
            pass


@pytest.mark.fault(
    "Kafka refuses for good: password, mechanism, certificate",
    user="nothing new",
    operator="exit 78 names the setting",
)
@pytest.mark.parametrize(
    "command", [["run"], ["replay"], ["verify"], ["publish", "games.jsonl"], ["dead-letters", "list"]], ids=" ".join
)
def test_every_command_ends_with_78_when_kafka_refuses_for_good(
    guarded: Guarded, deployed: Deployment, command: list[str]
) -> None:
    deployed.configure({"kafka": login(guarded, "all", sasl_plain_password="wrong-password")})
    done = deployed.run(*command)
    assert done.code == 78, done.err
    assert "kafka.sasl_plain_password" in done.err
    assert "Traceback" not in done.err
    assert "wrong-password" not in done.err + done.out


def test_the_right_password_does(guarded: Guarded, deployed: Deployment) -> None:
    deployed.publish(in_order(chain(10)))
    deployed.configure({"kafka": login(guarded, "all")})
    deployed.caught_up()
    assert deployed.total() == 10


def by_token(guarded: Guarded, function: str) -> dict[str, object]:
    """Settings of section kafka for a login by what a function of `tests.support.tokens` gives."""
    return {
        "bootstrap_servers": guarded.broker.address_of("TOKEN"),
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_provider": f"tests.support.tokens:{function}",
    }


@pytest.mark.parametrize("function", ["good", "good_later"])
def test_a_token_that_the_broker_accepts_does(guarded: Guarded, deployed: Deployment, function: str) -> None:
    deployed.publish(in_order(chain(10)))
    deployed.configure({"kafka": by_token(guarded, function)})
    done = deployed.run("run", "--until-caught-up", env=IMPORTABLE)
    assert done.code == 0, done.err
    assert deployed.total() == 10


@pytest.mark.parametrize("function", ["expired", "garbage", "none"])
async def test_a_token_that_will_not_do_is_refused_and_never_shown(guarded: Guarded, function: str) -> None:
    kafka = msgspec.convert(by_token(guarded, function), KafkaSettings)
    with pytest.raises(LogRefused, match=r"kafka\.sasl_oauth_token_provider") as raised:
        async with KafkaLog.from_settings(kafka):
            pass
    assert "eyJ" not in str(raised.value)
    with pytest.raises(LogRefused, match=r"kafka\.sasl_oauth_token_provider"):
        async with open_sink(kafka):
            pass


def test_a_token_that_has_expired_ends_the_engine_with_78_and_doctor_finds_it(
    guarded: Guarded, deployed: Deployment
) -> None:
    deployed.configure({"kafka": by_token(guarded, "expired")})
    beforehand = deployed.run("doctor", "--json", env=IMPORTABLE)
    assert beforehand.code == 1, beforehand.err
    assert "kafka.sasl_oauth_token_provider" in beforehand.out
    done = deployed.run("run", env=IMPORTABLE)
    assert done.code == 78, done.err
    assert "invalid_token" in done.err
    assert "kafka.sasl_oauth_token_provider" in done.err
    assert "Traceback" not in done.err
    assert "eyJ" not in done.err + beforehand.out


async def test_a_token_that_cannot_be_had_now_is_away(guarded: Guarded) -> None:
    kafka = msgspec.convert(by_token(guarded, "fails"), KafkaSettings)
    with pytest.raises(LogUnavailable, match="the issuer is away"):
        async with KafkaLog.from_settings(kafka):
            pass


async def test_a_session_that_the_broker_ends_goes_on_with_a_new_token_and_not_with_a_bad_one(
    guarded: Guarded, deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = msgspec.convert({**deployed.settings["kafka"], **by_token(guarded, "counted")}, KafkaSettings)
    async with KafkaLog.from_settings(kafka) as log:

        async def next_record() -> None:
            await anyio.to_thread.run_sync(deployed.publish, in_order(chain(1)))
            while True:
                with suppress(LogUnavailable):
                    polled = await log.poll(10, 1.0)
                    for partition in polled.gained:
                        await log.seek(partition, 0)
                    if polled.records:
                        return

        async def read_on() -> None:
            while True:
                await next_record()

        with anyio.fail_after(60):
            await next_record()
            asked = len(tokens.counts)
            while len(tokens.counts) < asked + 2:
                await next_record()
            monkeypatch.setattr(tokens, "now", tokens.expired)
            with pytest.raises(LogRefused, match=r"kafka\.sasl_oauth_token_provider"):
                await read_on()


def test_engine_and_api_work_over_tls_with_certificates_of_their_own(
    guarded: Guarded, deployed: Deployment, new_redis: Callable[..., RedisServer]
) -> None:
    server, client = (str(guarded.authority.sign(name)) for name in ("IP:127.0.0.1", "DNS:client"))
    authority, port = str(guarded.authority.pem), str(free_port())
    files = {"tls-cert-file": server, "tls-key-file": server, "tls-ca-cert-file": authority}
    redis = new_redis({"tls-port": port, "tls-auth-clients": "yes", **files})
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}&ssl_certfile={client}&ssl_keyfile={client}"
    acl.allow(guarded.broker.address, {f"CN={Path(client).stem}": EVERY_RIGHT})  # the certificate says who it is
    deployed.configure({"kafka": tls(guarded, "MUTUAL", ssl_certfile=client), "redis": {"url": url}})
    deployed.publish(in_order(chain(10)))
    deployed.caught_up()
    with deployed.api() as api:
        api.until(lambda: api.is_ready, "it is ready")
        assert api.probe("/api/games")[1]["pagination"]["total_items"] == 10
        redis.kill()
        deployed.publish(in_order(chain(11)[-1:]))
        api.until(lambda: api.probe("/api/games")[1]["pagination"]["total_items"] == 11, "it follows the topic")


def test_a_session_time_out_beyond_the_bounds_of_the_broker_ends_with_78(deployed: Deployment) -> None:
    assert "failed" not in {one["verdict"] for one in deployed.done("doctor", "--json").json["findings"]}
    deployed.configure({"kafka": {"session_timeout_ms": 60_001}})
    beforehand = deployed.run("doctor", "--json")
    assert "kafka.session_timeout_ms" in beforehand.out
    done = deployed.run("run")
    assert done.code == 78, done.err
    assert "kafka.session_timeout_ms" in done.err


async def test_a_dead_letter_topic_whose_name_collides_is_refused(guarded: Guarded, unique: Unique) -> None:
    connection, name = {"bootstrap_servers": guarded.broker.address}, unique("games")
    await ensure_topic(connection, f"{name}_dead")
    async with KafkaDeadLetters(f"{name}.dead", connection) as letters:
        with pytest.raises(LogRefused, match=r"kafka\.dead_letter_topic"):
            await letters.put([letter(1)])


async def test_a_record_that_is_too_large_for_the_topic_is_refused(guarded: Guarded, unique: Unique) -> None:
    connection, name = {"bootstrap_servers": guarded.broker.address}, unique("games")
    await ensure_topic(connection, name, configs={"max.message.bytes": "2000"})
    async with KafkaSink(connection) as sink:
        await sink.send(name, b"crash", bytes(3000))
        with pytest.raises(LogRefused, match=r"max\.message\.bytes"):
            await sink.flush()


async def test_a_dead_letter_fits_however_large_its_record_was(guarded: Guarded, unique: Unique) -> None:
    connection, name = {"bootstrap_servers": guarded.broker.address}, unique("games.dead")
    await ensure_topic(connection, name, configs={"max.message.bytes": "16384"})
    async with KafkaDeadLetters(name, connection) as letters:
        await letters.put([letter(n, key=bytes(2 << 20), value=bytes(2 << 20), detail="x" * 9999) for n in range(50)])
        assert len(await letters.read()) == 50
