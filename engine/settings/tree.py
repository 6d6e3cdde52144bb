"""The tree of settings: their names, defaults and rules.

May import schemas and projections. The one thing that is always true: a value that breaks a rule raises ValueError with
a message that begins with the field's name, as in `ProjectionSettings`, so that `load` can name its source. Bounds of
single values stand in their annotations and are checked by `load`.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, UnsetType

from crashfold.engine.settings.addresses import MASK, host_of, is_host, is_loopback, masked_url, redis_address
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.fairness import (
    DEFAULT_HOUSE_EDGE_PERCENT,
    DEFAULT_SALT,
    DEFAULT_VARIANT,
    Rule,
    RuleBook,
    TableRules,
    Variant,
)
from crashfold.schemas.game import GAME_ID_MAX
from crashfold.schemas.keys import STREAM_PLACE
from crashfold.schemas.record import DEFAULT_STREAM, is_stream_name

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_KEY_PREFIX: Final = re.compile(r"([A-Za-z0-9._:-]|\{stream\}){1,128}", re.ASCII)
_ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)
_OWN_PATHS: Final = frozenset(("api", "docs", "livez", "metrics", "page", "readyz", "schema", "startupz", "ws"))
_TOKEN_CHARACTERS_MIN: Final = 16
_SECRET: Final = {"secret": True}
_URL: Final = {"url": True}
_TOPIC_WANTS: Final = {"wants": "1 to 249 of A-Z a-z 0-9 . _ -"}

AnswerSource = Literal["precomputed", "computed", "shadow"]


def masked(value: Any, kind: Any) -> Any:
    """The value of a field of that type as it may be shown."""
    extra = meta_of(kind).extra or {}
    if extra.get("secret"):
        return MASK if value else ""
    return masked_url(value) if extra.get("url") else value


def meta_of(kind: Any) -> Meta:
    """The bounds and words of a field's type."""
    return next((arg for arg in get_args(kind) if isinstance(arg, Meta)), Meta())


def plain_type(kind: Any) -> Any:
    """A field's type without them."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _masked_fields(section: msgspec.Struct) -> list[tuple[str, Any]]:
    """Names and values with secrets masked, for a section may end up in a log or a traceback."""
    fields = msgspec.structs.fields(section)
    return [(field.name, masked(getattr(section, field.name), field.type)) for field in fields]


def _masked_repr(section: msgspec.Struct) -> str:
    return f"{type(section).__name__}({', '.join(f'{name}={value!r}' for name, value in _masked_fields(section))})"


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the topic and of the connection to Kafka: the section `[kafka]`.

    Names beyond the first few are aiokafka's own.

    Raises ValueError, naming the field, for addresses, topics and combinations that cannot work.
    """

    bootstrap_servers: Annotated[
        str,
        Meta(
            description="Brokers to ask first, as `host:port`, separated by commas.",
            extra={"wants": "host:port, or several separated by commas"},
        ),
    ] = "127.0.0.1:9092"
    topic: Annotated[str, Meta(description="The topic that games are read from.", extra=_TOPIC_WANTS)] = "games"
    group_id: Annotated[
        str, Meta(min_length=1, max_length=255, description="The consumer group that shares out the partitions.")
    ] = "crashfold"
    group_instance_id: Annotated[
        str,
        Meta(
            max_length=249,
            description="This engine's name in the group, the same after a restart (static membership), so that its"
            " partitions are its own again at once; empty: none. Each engine needs another one.",
        ),
    ] = ""
    assignment: Annotated[
        Literal["group", "all"],
        Meta(
            description="`group`: engines share the partitions. `all`: this engine reads all of them and joins no"
            " group, for deployments of one engine."
        ),
    ] = "group"
    dead_letter_topic: Annotated[
        str, Meta(description="The topic for records that cannot be folded; empty: `<topic>.dead`.", extra=_TOPIC_WANTS)
    ] = ""
    client_id: Annotated[
        str, Meta(min_length=1, max_length=255, description="How this process names itself to the brokers.")
    ] = "crashfold"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        Meta(description="How to talk to the brokers."),
    ] = "PLAINTEXT"
    allow_plaintext: Annotated[
        bool, Meta(description="Allow a connection without TLS to a host that is not loopback.")
    ] = False
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
        Meta(description="How to log in, with a `SASL_…` protocol."),
    ] = "PLAIN"
    sasl_plain_username: Annotated[str, Meta(description="User name for every SASL mechanism but OAUTHBEARER.")] = ""
    sasl_plain_password: Annotated[str, Meta(description="Password that goes with it.", extra=_SECRET)] = ""
    sasl_oauth_token_provider: Annotated[
        str,
        Meta(
            description="Python function that returns a token for OAUTHBEARER, called for each connection.",
            extra={"wants": "`package.module:function`"},
        ),
    ] = ""
    ssl_cafile: Annotated[
        str, Meta(description="PEM file of the authorities to trust; empty: those of the system.")
    ] = ""
    ssl_certfile: Annotated[str, Meta(description="PEM file of the client's certificate.")] = ""
    ssl_keyfile: Annotated[str, Meta(description="PEM file of the client's private key.")] = ""
    ssl_password: Annotated[str, Meta(description="Password of the private key.", extra=_SECRET)] = ""
    enable_idempotence: Annotated[
        bool,
        Meta(description="Let the broker recognise a record sent twice. Only for brokers that cannot: false."),
    ] = True
    request_timeout_ms: Annotated[
        int, Meta(ge=100, le=600_000, description="Deadline of each request to a broker, in ms.")
    ] = 40_000
    metadata_max_age_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="How often to look for new partitions and brokers, in ms.")
    ] = 300_000
    session_timeout_ms: Annotated[
        int, Meta(ge=1_000, le=1_800_000, description="Silence after which the group gives up a member, in ms.")
    ] = 10_000
    heartbeat_interval_ms: Annotated[
        int, Meta(ge=100, le=600_000, description="Time between two heartbeats to the group, in ms.")
    ] = 3_000
    max_poll_interval_ms: Annotated[
        int, Meta(ge=1_000, le=86_400_000, description="Time between two polls after which the member leaves, in ms.")
    ] = 300_000
    rebalance_timeout_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=1_800_000,
            description="Time a member has to join again in a rebalance, in ms; 0: as `session_timeout_ms`.",
        ),
    ] = 0
    fetch_min_bytes: Annotated[
        int, Meta(ge=1, le=1 << 30, description="Bytes a broker waits for before it answers a fetch.")
    ] = 1
    fetch_max_bytes: Annotated[
        int, Meta(ge=1_024, le=(1 << 31) - 1, description="Bytes of one fetch over all its partitions, at most.")
    ] = 52_428_800
    fetch_max_wait_ms: Annotated[
        int, Meta(ge=0, le=60_000, description="Longest that a broker waits for `fetch_min_bytes`, in ms.")
    ] = 500
    max_partition_fetch_bytes: Annotated[
        int, Meta(ge=1_024, le=(1 << 31) - 1, description="Bytes of one fetch from one partition, at most.")
    ] = 1_048_576

    __repr__ = _masked_repr
    __rich_repr__ = _masked_fields

    def __post_init__(self) -> None:
        hosts = [host_of(server) for server in self.bootstrap_servers.split(",")]
        _require(all(hosts), "bootstrap_servers", "has an address that is not host:port")
        _require(_is_topic(self.topic), "topic", "is no topic name: 1 to 249 of A-Z a-z 0-9 . _ -")
        _require(
            _is_topic(self.dead_letters),
            "dead_letter_topic",
            f"({self.dead_letters!r}) is no topic name: 1 to 249 of A-Z a-z 0-9 . _ -",
        )
        _require(
            not self.group_instance_id or _is_topic(self.group_instance_id),
            "group_instance_id",
            f"({self.group_instance_id!r}) is no name of a member: 1 to 249 of A-Z a-z 0-9 . _ -",
        )
        _require(
            not self.group_instance_id or self.assignment == "group",
            "group_instance_id",
            "names a member of a group, and kafka.assignment = all joins none",
        )
        _require(self.dead_letters != self.topic, "dead_letter_topic", "is the topic that games are read from")
        _require(
            self.heartbeat_interval_ms < self.session_timeout_ms,
            "heartbeat_interval_ms",
            f"must be less than kafka.session_timeout_ms ({self.session_timeout_ms}); a third of it is usual",
        )
        _require(
            not self.ssl_keyfile or bool(self.ssl_certfile),
            "ssl_keyfile",
            "needs the certificate that belongs to it: set kafka.ssl_certfile",
        )
        is_by_token = self.sasl_mechanism == "OAUTHBEARER"
        _require(
            not self.sasl_oauth_token_provider or _FUNCTION.fullmatch(self.sasl_oauth_token_provider) is not None,
            "sasl_oauth_token_provider",
            f"{self.sasl_oauth_token_provider!r} is not package.module:function",
        )
        _require(
            bool(self.sasl_oauth_token_provider) == is_by_token,
            "sasl_oauth_token_provider",
            "is empty, and kafka.sasl_mechanism = OAUTHBEARER needs it"
            if is_by_token
            else f"gives tokens, and kafka.sasl_mechanism = {self.sasl_mechanism} takes none: set it to OAUTHBEARER",
        )
        for field in () if is_by_token else ("sasl_plain_username", "sasl_plain_password"):
            _require(
                not self.security_protocol.startswith("SASL_") or getattr(self, field) != "",
                field,
                f"is empty, and kafka.security_protocol = {self.security_protocol} needs it",
            )
        far = next((host for host in hosts if host is not None and not is_loopback(host)), None)
        _require(
            far is None or self.security_protocol.endswith("SSL") or self.allow_plaintext,
            "bootstrap_servers",
            f"has {far}, which is not loopback, without TLS: set kafka.security_protocol to SSL or SASL_SSL, or say"
            " kafka.allow_plaintext = true",
        )

    @property
    def dead_letters(self) -> str:
        """The topic that dead letters go to."""
        return self.dead_letter_topic or f"{self.topic}.dead"


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the connection to Redis: the section `[redis]`.

    Raises ValueError, naming the field, for an address or a prefix that cannot work.
    """

    url: Annotated[
        str,
        Meta(
            description="Where Redis or Valkey is: `redis://`, `rediss://` (TLS), `unix://`, or"
            " `redis+sentinel://host:port,host:port/service`.",
            extra=_URL | {"wants": "redis://, rediss://, redis+sentinel:// or unix://"},
        ),
    ] = "redis://127.0.0.1:6379/0"
    password: Annotated[str, Meta(description="The password; goes before one in `url`.", extra=_SECRET)] = ""
    cluster: Annotated[
        bool, Meta(description="It is a Redis Cluster, and `url` leads to any of its nodes; needs `{stream}` below.")
    ] = False
    allow_plaintext: Annotated[bool, Meta(description="Allow `redis://` to a host that is not loopback.")] = False
    key_prefix: Annotated[
        str,
        Meta(
            description="What every key begins with; with `{stream}` in it, keys for many streams.",
            extra={"wants": "1 to 128 of A-Z a-z 0-9 . _ : - and `{stream}` at most once"},
        ),
    ] = "analytics"
    timeout_ms: Annotated[int, Meta(ge=10, le=600_000, description="Deadline of each call, in ms.")] = 5_000
    slow_ms: Annotated[
        int, Meta(ge=0, le=600_000, description="A call that takes so many ms is logged as a warning; 0: none is.")
    ] = 250

    __repr__ = _masked_repr
    __rich_repr__ = _masked_fields

    def __post_init__(self) -> None:
        _require(
            _KEY_PREFIX.fullmatch(self.key_prefix) is not None and self.key_prefix.count(STREAM_PLACE) <= 1,
            "key_prefix",
            f"{self.key_prefix!r} may have 1 to 128 of A-Z a-z 0-9 . _ : - and {STREAM_PLACE} once",
        )
        try:
            address = redis_address(self.url)
        except ValueError as error:
            raise ValueError(f"url {error}") from None
        _require(
            not address.username or bool(address.password or self.password),
            "url",
            "has a user without a password; a password alone is written redis://:password@host",
        )
        _require(
            not self.cluster or not address.sentinels,
            "url",
            "leads to sentinels, and redis.cluster is true: a cluster fails over by itself, name one of its nodes",
        )
        _require(
            not self.cluster or (not address.path and address.db == 0),
            "url",
            "must lead to a node of the cluster by redis:// or rediss://, and to its only database, 0",
        )
        _require(
            not self.cluster or STREAM_PLACE in self.key_prefix,
            "key_prefix",
            f"must have {STREAM_PLACE} in it with redis.cluster, such as analytics:{STREAM_PLACE}: the keys of a stream"
            " have to share a slot",
        )
        hosts = [host for host, _ in address.sentinels] or [address.host]
        far = next((host for host in hosts if not is_loopback(host)), "")
        _require(
            address.tls or bool(address.path) or not far or self.allow_plaintext,
            "url",
            f"leads to {far}, which is not loopback, without TLS: use rediss:// (or rediss+sentinel://), or say"
            " redis.allow_plaintext = true",
        )

    @property
    def many_streams(self) -> bool:
        """Whether keys carry the name of their stream, so that there may be many."""
        return STREAM_PLACE in self.key_prefix


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the engine: the section `[engine]`.

    Raises ValueError, naming the field.
    """

    stream: Annotated[
        str,
        Meta(
            description="The only stream, unless `redis.key_prefix` has `{stream}` in it.",
            extra={"wants": "1 to 64 of A-Z a-z 0-9 . _ -"},
        ),
    ] = DEFAULT_STREAM
    batch_games_max: Annotated[int, Meta(ge=1, le=100_000, description="Games folded in one step, at most.")] = 20_000
    linger_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="How long a step may wait for a fuller batch, in ms: fewer commits, later answers.",
        ),
    ] = 0
    games_held_max: Annotated[
        int,
        Meta(
            ge=1_000,
            le=10**9,
            description="Memory for streams, in games of 88 bytes; beyond it those not used for long are let go.",
        ),
    ] = 10_000_000
    shutdown_timeout_s: Annotated[
        float, Meta(ge=0.1, le=600, description="Time that an orderly end may take, in s.")
    ] = 8.0
    host: Annotated[
        str, Meta(min_length=1, max_length=255, description="Where the engine serves metrics and probes.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="The port for metrics and probes; 0: any free one.")] = 9464

    def __post_init__(self) -> None:
        _require(is_host(self.host), "host", "is no name or address of a host")
        _require(is_stream_name(self.stream), "stream", "is no stream name: 1 to 64 of A-Z a-z 0-9 . _ -")


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the HTTP API: the section `[api]`.

    Raises ValueError, naming the field.
    """

    host: Annotated[str, Meta(min_length=1, max_length=255, description="Where the API listens.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="Its port; 0: any free one.")] = 8000
    workers: Annotated[int, Meta(ge=1, le=64, description="Processes that answer side by side.")] = 1
    token: Annotated[
        str,
        Meta(
            description="What clients send as bearer token; empty: none is asked for.",
            extra=_SECRET | {"wants": f"{_TOKEN_CHARACTERS_MIN} characters or more"},
        ),
    ] = ""
    allow_anonymous: Annotated[bool, Meta(description="Allow a host that is not loopback without a token.")] = False
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins whose pages may ask, as `https://host`; `*`: all.",
            extra={"wants": "a list of https://host"},
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Names that requests may use for this host; none named: all.",
            extra={"wants": "a list of host names"},
        ),
    ] = ()
    rate_limit_per_minute: Annotated[
        int, Meta(ge=0, le=10_000_000, description="Requests of one client per minute; 0: no limit.")
    ] = 0
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks of proxies whose `X-Forwarded-For` names the client; none named: nobody's does.",
            extra={"wants": "a list of addresses and networks, as 10.0.0.0/8"},
        ),
    ] = ()
    root_path: Annotated[
        str,
        Meta(
            description="The prefix under which a proxy serves the API, taken off or not; empty: none.",
            extra={"wants": "a path such as /crash, without a slash at its end"},
        ),
    ] = ""
    connections_max: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="Connections of one process; a newcomer then gets the place of whoever has waited longest.",
        ),
    ] = 10_000
    unsent_bytes_max: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Bytes of answers that wait for their readers in one process; beyond it the answer is 503.",
        ),
    ] = 256 << 20
    live_clients_max: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="Live clients of one process, by SSE and WebSocket together; each takes an open file.",
        ),
    ] = 4_000
    source_occurrences: Annotated[
        AnswerSource,
        Meta(description="Where occurrences come from; `shadow`: computed, and compared with precomputed."),
    ] = "precomputed"
    source_intervals: Annotated[AnswerSource, Meta(description="The same for intervals.")] = "precomputed"
    source_series: Annotated[
        AnswerSource,
        Meta(description="The same for series. `computed` is the quicker one for the default of 1,000 games."),
    ] = "computed"
    source_last_games: Annotated[AnswerSource, Meta(description="The same for last games.")] = "precomputed"
    cache_ttl_s: Annotated[
        int, Meta(ge=0, le=86_400, description="How long a computed answer is kept in Redis, in s; 0: not at all.")
    ] = 60

    __repr__ = _masked_repr
    __rich_repr__ = _masked_fields

    def __post_init__(self) -> None:
        _require(is_host(self.host), "host", "is no name or address of a host")
        _require(
            not self.token or len(self.token) >= _TOKEN_CHARACTERS_MIN,
            "token",
            f"is shorter than {_TOKEN_CHARACTERS_MIN} characters",
        )
        _require(
            bool(self.token) or self.allow_anonymous or is_loopback(self.host),
            "host",
            f"{self.host} is not loopback, and there is no token: set api.token, or say api.allow_anonymous = true",
        )
        for network in self.trusted_proxies:
            _require(_is_network(network), "trusted_proxies", f"has {network!r}, which is no address and no network")
        _require(
            not self.root_path or _ROOT_PATH.fullmatch(self.root_path) is not None,
            "root_path",
            f"{self.root_path!r} is no path such as /crash, of A-Z a-z 0-9 . _ ~ - and slashes, without one at its end",
        )
        _require(
            self.root_path.split("/")[1 if self.root_path else 0] not in _OWN_PATHS,
            "root_path",
            f"{self.root_path!r} begins as a path of the API's own: whether a proxy takes it off could not be told",
        )
        for origin in self.cors_origins:
            _require(origin == "*" or _is_origin(origin), "cors_origins", f"has {origin!r}, which is not https://host")


Salt = Annotated[
    str,
    Meta(
        pattern=r"^[\x21-\x7e]{1,1024}\Z",
        description="The salt that the table has published.",
        extra={"wants": "1 to 1024 ASCII characters without blanks"},
    ),
]
HouseEdge = Annotated[
    float,
    Meta(
        ge=0,
        lt=100,
        description="Of every 100 that players stake, the house keeps so much in the long run; in formula and chances.",
        extra={"wants": "a number from 0 to less than 100"},
    ),
]


class TableSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rules of one table from a game on. What it leaves out is as in `FairnessSettings`."""

    stream: str
    from_game: Annotated[int, Meta(ge=1, le=GAME_ID_MAX)] = 1
    salt: Salt | UnsetType = UNSET
    variant: Variant | UnsetType = UNSET
    house_edge_percent: HouseEdge | UnsetType = UNSET


class FairnessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of provable fairness: how crash points follow from hashes, stream by stream.

    Raises ValueError, naming the field.
    """

    salt: Salt = DEFAULT_SALT
    variant: Annotated[
        Variant, Meta(description="The formula that the table has published; docs/rules.md lists them with sources.")
    ] = DEFAULT_VARIANT
    house_edge_percent: HouseEdge = DEFAULT_HOUSE_EDGE_PERCENT
    streams: Annotated[
        tuple[TableSettings, ...],
        Meta(
            description="Rules of single streams, from a game on: `[[fairness.streams]]` with `stream`, `from_game` and"
            " what is not as above.",
            extra={"wants": "a list of tables: stream, from_game, salt, variant, house_edge_percent"},
        ),
    ] = ()
    check: Annotated[
        Literal["off", "count", "reject"],
        Meta(description="A game that does not fit its hash is ignored, counted, or a dead letter."),
    ] = "count"

    def __post_init__(self) -> None:
        for table in self.streams:
            _require(
                is_stream_name(table.stream),
                "streams",
                f"has {table.stream!r}, which is no stream name: 1 to 64 of A-Z a-z 0-9 . _ -",
            )
        begins = [(table.stream, table.from_game) for table in self.streams]
        for stream, from_game in begins:
            _require(
                begins.count((stream, from_game)) == 1,
                "streams",
                f"has two rules for {stream} from game {from_game} on: leave one",
            )

    @property
    def rules(self) -> RuleBook:
        """The rules of every stream."""
        others = Rule(self.salt, self.variant, self.house_edge_percent)
        later: dict[str, list[tuple[int, Rule]]] = {}
        for table in self.streams:
            changes = {
                field: value for field in Rule.__struct_fields__ if (value := getattr(table, field)) is not UNSET
            }
            later.setdefault(table.stream, []).append((table.from_game, msgspec.structs.replace(others, **changes)))
        return RuleBook(others, {stream: TableRules(others, rules) for stream, rules in later.items()})


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The log on standard error: its level and format."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least that is written.")] = (
        "info"
    )
    format: Annotated[
        Literal["auto", "console", "json"], Meta(description="`auto`: console on a terminal, else JSON lines.")
    ] = "auto"


class TracingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Traces of steps and requests; they need the extra `otel`."""

    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s?#]+)?$",
            description="Where a collector takes OTLP over HTTP, such as `http://127.0.0.1:4318`; empty: no traces.",
            extra={"wants": "http://HOST:PORT or https://HOST:PORT"},
        ),
    ] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a deployment, one section a field."""

    kafka: KafkaSettings = msgspec.field(default_factory=KafkaSettings)
    redis: RedisSettings = msgspec.field(default_factory=RedisSettings)
    projections: ProjectionSettings = msgspec.field(default_factory=ProjectionSettings)
    engine: EngineSettings = msgspec.field(default_factory=EngineSettings)
    api: ApiSettings = msgspec.field(default_factory=ApiSettings)
    fairness: FairnessSettings = msgspec.field(default_factory=FairnessSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    tracing: TracingSettings = msgspec.field(default_factory=TracingSettings)


def _is_topic(name: str) -> bool:
    return _TOPIC.fullmatch(name) is not None and name not in (".", "..")


def _is_network(network: str) -> bool:
    try:
        ip_network(network, strict=False)
    except ValueError:
        return False
    return True


def _is_origin(origin: str) -> bool:
    return re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) is not None


def _require(holds: bool, field: str, fault: str) -> None:
    if not holds:
        raise ValueError(f"{field} {fault}")
