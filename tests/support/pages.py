"""What tests read from pages of the documentation, so that the two cannot differ. Imports `acl`."""

import re
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.acl import KafkaRight

SECURITY: Final = Path(__file__).parents[2] / "docs" / "security.md"


class RedisUser(NamedTuple):
    """A line of the page's ACL file."""

    line: str

    @property
    def name(self) -> str:
        return self.line.split()[1]

    @property
    def words(self) -> list[str]:
        """What follows the name."""
        return self.line.split()[2:]

    @property
    def commands(self) -> list[str]:
        """The commands that it may run."""
        return [word[1:] for word in self.words if word.startswith("+")]

    @property
    def places(self) -> list[str]:
        """The keys and channels that it may use."""
        return [word for word in self.words if word.startswith(("~", "%R~", "&"))]

    def words_for(self, key_prefix: str) -> list[str]:
        """The same under another `redis.key_prefix`, as the page says to change them."""
        prefix, _, has_streams = key_prefix.partition(":{stream}")
        assert not has_streams
        words = [word.replace("analytics", prefix) for word in self.words]
        many = key_prefix.endswith(":{stream}")
        return [f"~{prefix}:{{*}}:cache:*" if many and word == f"~{prefix}:cache:*" else word for word in words]


def redis_users() -> dict[str, RedisUser]:
    """The users by their commands."""
    users = [RedisUser(line) for block in _blocks("acl") for line in block.splitlines() if line.startswith("user ")]
    return {user.name.removeprefix("crashfold-"): user for user in users}


def kafka_users() -> dict[str, list[KafkaRight]]:
    """The rights on Kafka by the command that needs them."""
    rights: dict[str, list[KafkaRight]] = {}
    for user, kind, name, operations in re.findall(
        r"^allow crashfold-([a-z-]+) --(topic|group) (\S+)((?: --operation [A-Za-z]+)+)$",
        "".join(_blocks("sh")),
        re.MULTILINE,
    ):
        each = (KafkaRight(kind, name, word) for word in operations.split() if word != "--operation")
        rights.setdefault(user, []).extend(each)
    return rights


def table_below(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the page, row by row, without code marks and its head."""
    below = SECURITY.read_text("utf-8").partition(f"\n## {heading}\n")[2]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows is not None, heading
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECURITY.read_text("utf-8"), re.DOTALL | re.MULTILINE)
