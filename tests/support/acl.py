"""Users of Apache Kafka with passwords and rights: the broker's properties, and the rights that are given.

Blocks. Always true: what was given before a topic was made is in force when the topic has its leader, for a broker
learns of both in one order.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple

import anyio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

LISTENER: Final = "LOGIN"
"""The listener that asks for a user; it speaks SASL_PLAINTEXT."""

_KINDS: Final = {"topic": 2, "group": 3, "cluster": 4}
_OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10, "IdempotentWrite": 12}
_LITERAL, _ALLOW = 3, 3


class KafkaRight(NamedTuple):
    """One operation on one thing, by the words of kafka-acls.sh: `topic`, `games`, `Read`; the name * is every one."""

    kind: str
    name: str
    operation: str


def properties(users: Iterable[str]) -> dict[str, str]:
    """The properties of brokers with an authorizer that these users log in to; nobody else has any right on LISTENER,
    and the plain listener has all."""
    logins = " ".join(f'user_{user}="{password(user)}"' for user in users)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:all",
        "sasl.enabled.mechanisms": "PLAIN",
        f"listener.name.{LISTENER.lower()}.plain.sasl.jaas.config": f"{module} required {logins};",
    }


def login(address: str, user: str) -> dict[str, object]:
    """Settings of section kafka for that user at the listener's address."""
    return {
        "bootstrap_servers": address,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_plain_username": user,
        "sasl_plain_password": password(user),
    }


def password(user: str) -> str:
    """The user's password."""
    return f"right-{user}"


def allow(bootstrap_servers: str, rights: Mapping[str, Iterable[KafkaRight]]) -> None:
    """Give users rights."""
    anyio.run(partial(_allow, bootstrap_servers, rights))


async def _allow(bootstrap_servers: str, rights: Mapping[str, Iterable[KafkaRight]]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        for user, each in rights.items():
            for kind, name, operation in each:
                request = CreateAclsRequest(
                    *(_KINDS[kind], name, _LITERAL, f"User:{user}", "*", _OPERATIONS[operation], _ALLOW)
                )
                answer = await admin._send_request(request)
                assert answer.creation_responses[0][0] == 0, answer
    finally:
        await admin.close()
