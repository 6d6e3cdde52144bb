"""Every setting, in one frozen tree that is read once and passed down; and where each value came from.

May import schemas, projections and `crashfold.engine.errors`. The one thing that is always true: whatever `load`
returns has passed every rule, and a value that did not is named together with its source and with what would do.
"""

from crashfold.engine.settings.addresses import (
    MASK,
    RedisAddress,
    host_of,
    is_loopback,
    masked_text,
    masked_url,
    redis_address,
)
from crashfold.engine.settings.catalogue import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    Setting,
    markdown,
    printed,
    settings_by_name,
    toml_value,
)
from crashfold.engine.settings.layers import Loaded, SettingRow, describe, load
from crashfold.engine.settings.tree import (
    AnswerSource,
    ApiSettings,
    EngineSettings,
    FairnessSettings,
    KafkaSettings,
    LogSettings,
    RedisSettings,
    Settings,
    TracingSettings,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "MASK",
    "AnswerSource",
    "ApiSettings",
    "EngineSettings",
    "FairnessSettings",
    "KafkaSettings",
    "Loaded",
    "LogSettings",
    "RedisAddress",
    "RedisSettings",
    "Setting",
    "SettingRow",
    "Settings",
    "TracingSettings",
    "describe",
    "host_of",
    "is_loopback",
    "load",
    "markdown",
    "masked_text",
    "masked_url",
    "printed",
    "redis_address",
    "settings_by_name",
    "toml_value",
]
