"""The Kafka users of docs/security.md, as they stand there: each does for its command, and has no right too many.

One broker with an authorizer for the whole module, and on it a user for each command with all its rights, and one for
each right that is taken away. Nothing is given or taken while a test runs.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Final, NamedTuple

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.cli.main import exit_code
from crashfold.schemas.game import encode
from tests.conftest import enter
from tests.support import acl, servers
from tests.support.acl import KafkaRight
from tests.support.deployment import Deployment, Message, Service, chain, in_order
from tests.support.pages import kafka_users
from tests.support.proxy import Proxy
from tests.support.servers import KafkaBroker, RedisServer

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RIGHTS: Final = kafka_users()
GAMES: Final = 3
LETTERS: Final = 10
WORDS: Final = {
    "run": ["run", "--until-caught-up"],
    "doctor": ["doctor", "--json"],
    "publish": ["publish", "games.jsonl"],
    "list": ["dead-letters", "list"],
    "retry": ["dead-letters", "retry"],
    "discard": ["dead-letters", "discard"],
}
"""The words of a command, where they are not its name."""


class Case(NamedTuple):
    """A command, and the right of the page that its user lacks."""

    command: str
    lacks: KafkaRight | None = None

    @property
    def user(self) -> str:
        return "-".join(("crashfold", self.command, *(("without", *self.lacks) if self.lacks else ())))

    @property
    def rights(self) -> list[KafkaRight]:
        """Those that the user has."""
        kept = [right for right in RIGHTS[self.command] if right != self.lacks]
        return [right._replace(name=self.named(right.name)) for right in kept]

    def named(self, name: str) -> str:
        """What a name of the page is called here: a topic that the command has to make has a name of its own."""
        makes = next((right.name for right in RIGHTS[self.command] if right.operation == "Create"), None)
        is_made = self.lacks is None or self.lacks.operation == "Create"
        return f"{self.user}.made" if is_made and name == makes else name


WHOLE: Final = [Case(command) for command in RIGHTS]
LACKING: Final = [Case(command, right) for command, rights in RIGHTS.items() for right in rights]
NewDeployment = Callable[[Case], Deployment]


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    with ExitStack() as stack:
        cases = [*WHOLE, *LACKING]
        properties = acl.properties(case.user for case in cases)
        (broker,) = enter(
            stack, servers.kafka_cluster(properties=properties, listeners={acl.LISTENER: "SASL_PLAINTEXT"})
        ).brokers
        acl.allow(broker.address, {case.user: case.rights for case in cases})
        yield broker


@pytest.fixture(scope="module")
def deployed(broker: KafkaBroker, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> NewDeployment:
    """The deployment as the user of a case has it; a state and dead letters stand there."""
    redis_server.flush()
    projections = {"min": [2], "max": [1.2], "floor": [1]}

    def deployment(topic: str, **kafka: object) -> Deployment:
        made = Deployment(
            tmp_path_factory.mktemp("deployment"),
            broker.address,
            redis_server.url,
            topic,
            settings={"kafka": {"group_id": "crashfold", **kafka}, "projections": projections},
        )
        (made.directory / "games.jsonl").write_bytes(encode(chain(1)[0]) + b"\n")
        return made

    def deployment_of(case: Case) -> Deployment:
        dead = {"dead_letter_topic": case.named("games.dead")}
        made = deployment(case.named("games"), **dead, **acl.login(broker.address_of(acl.LISTENER), case.user))
        if case.command == "run":  # begins with the first record
            made.configure({"redis": {"key_prefix": case.user}})
        return made

    whole = deployment("games")
    whole.create_topic()
    whole.publish([*in_order(chain(GAMES)), *[Message(0, b"crash", b"no game")] * LETTERS])
    whole.caught_up()
    return deployment_of


@pytest.fixture(scope="module")
def letters() -> Iterator[int]:
    """The offsets of records that are dead letters, each once."""
    return count(GAMES)


@pytest.fixture
def run(
    deployed: NewDeployment, letters: Iterator[int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Case], tuple[int, str]]:
    """Run a command in this process as the user of its case: the exit code, and all that it says."""

    def run(case: Case) -> tuple[int, str]:
        deployment = deployed(case)
        monkeypatch.chdir(deployment.directory)
        words = WORDS.get(case.command, [case.command])
        if case.command in ("retry", "discard"):
            words = [*words, f"0:{next(letters)}"]
        code = exit_code([*words, "--config", str(deployment.config)])
        return code, " ".join(" ".join(capfd.readouterr()).split())

    return run


@pytest.mark.parametrize("case", [case for case in WHOLE if case.command != "serve"], ids=lambda case: case.command)
def test_a_user_of_the_page_is_enough_for_its_command(run: Callable[[Case], tuple[int, str]], case: Case) -> None:
    code, said = run(case)
    assert code == 0, said


@pytest.mark.fault(
    "A right in Kafka is missing",
    user="nothing new",
    operator="exit 78 names the right and the topic or group; `doctor` says it beforehand",
)
@pytest.mark.parametrize("case", [case for case in LACKING if case.command != "serve"], ids=lambda case: case.user)
def test_each_right_of_the_page_is_needed_and_its_lack_is_named(
    run: Callable[[Case], tuple[int, str]], case: Case
) -> None:
    assert case.lacks is not None
    code, said = run(case)
    assert code == (1 if case.command == "doctor" else 78), said
    assert case.lacks.operation.upper() in said
    assert case.named(case.lacks.name) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "case", [case for case in (*WHOLE, *LACKING) if case.command == "serve"], ids=lambda case: case.user
)
def test_serve_does_without_a_right_what_it_can_and_says_what_it_cannot(
    deployed: NewDeployment, redis_server: RedisServer, case: Case
) -> None:
    lacks = None if case.lacks is None else case.lacks.name
    deployment = deployed(case)
    with Proxy(redis_server.port) as proxy:
        deployment.configure({"redis": {"url": f"redis://{proxy.address}/0"}})
        with deployment.api() as api:
            api.until(lambda: api.is_ready, "it is ready")
            assert api.probe("/api/dead-letters")[0] == (503 if lacks == "games.dead" else 200)
            proxy.lead_to(free_port())
            api.until(lambda: notes_of(api), "Redis is away")
            if lacks == "games":
                api.until(lambda: "nor is the topic followed" in notes_of(api), "it says why")
                assert re.search(r"nor is the topic followed: .*\bgames\b.*\bREAD\b", notes_of(api))
            else:
                games = api.probe("/api/games")[1]["pagination"]["total_items"]
                deployment.publish(in_order(chain(games + 1)[-1:]))
                api.until(lambda: api.probe("/api/games")[1]["pagination"]["total_items"] > games, "it follows")
        assert "Traceback" not in api.said


def notes_of(api: Service) -> str:
    """What `/readyz` notes of the replica; nothing while Redis answers."""
    return " ".join(api.probe("/readyz")[1]["notes"])
