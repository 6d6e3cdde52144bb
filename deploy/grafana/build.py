"""Makes the dashboards beside this file, `dashboards/*.json`, with Grafana's own typed builders.

    python deploy/grafana/build.py          writes them
    python deploy/grafana/build.py --check  fails when one is not as this file says

Each panel is a title, what it is for, a unit and its queries. The datasource is a variable, so that a dashboard fits any
Grafana. `$engine`, `$api` are instances, `$stream` a stream.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

HERE: Final = Path(__file__).parent
DASHBOARDS: Final = HERE / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
REFRESH: Final = "10s"
GRID_WIDTH: Final = 24


@dataclass(frozen=True)
class Query:
    """An expression and how its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; `width` of 24 columns."""

    title: str
    purpose: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    kind: Literal["line", "number"] = "line"


def number(title: str, purpose: str, unit: str, expression: str, width: int = 4) -> Panel:
    """A panel that shows the newest value."""
    return Panel(title, purpose, unit, (Query(expression),), width, "number")


def line(title: str, purpose: str, unit: str, *queries: tuple[str, str], width: int = 8) -> Panel:
    """A panel that shows values over time; each query with its legend."""
    return Panel(title, purpose, unit, tuple(Query(expression, legend) for expression, legend in queries), width)


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels, and the variables that its queries use."""

    uid: str
    title: str
    purpose: str
    variables: tuple[tuple[str, str, str], ...]
    """Name, what is chosen, and the query of its values."""
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


_ENGINES = ("engine", "Engine", "label_values(crashfold_build_info, instance)")
_APIS = ("api", "API", "label_values(crashfold_api_build_info, instance)")
_STREAMS = ("stream", "Stream", "label_values(crashfold_newest_game_timestamp_seconds, stream)")
_E = 'instance=~"$engine"'
_A = 'instance=~"$api"'


def quantiles(metric: str, selector: str, by: str = "") -> tuple[tuple[str, str], ...]:
    """Median and 99th percentile of a histogram."""
    grouping = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rates = f"sum by ({grouping}) (rate({metric}_bucket{{{selector}}}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rates})", f"{legend}p{round(q * 100)}") for q in (0.5, 0.99))


OVERVIEW = Board(
    "crashfold-overview",
    "Crashfold: overview",
    "Are answers new, right, and there?",
    (_STREAMS,),
    (
        (
            "Now",
            (
                number(
                    "Engines",
                    "Engines that Prometheus reaches.",
                    "none",
                    'sum(up{job="crashfold-engine"})',
                ),
                number("APIs", "API processes that Prometheus reaches.", "none", 'sum(up{job="crashfold-api"})'),
                number(
                    "Newest game",
                    "How long ago the newest committed game ended. It grows when the site is silent.",
                    "s",
                    "time() - max(crashfold_newest_game_timestamp_seconds)",
                ),
                number(
                    "Lag", "Records that are not committed.", "none", "sum(max by (partition) (crashfold_lag_records))"
                ),
                number(
                    "Freshness",
                    "Age of the last committed record while there is lag.",
                    "s",
                    "max(crashfold_freshness_seconds)",
                ),
                number(
                    "Replicas",
                    "Streams that the API answers from memory, because Redis is away.",
                    "none",
                    "sum(crashfold_api_replica)",
                ),
            ),
        ),
        (
            "Games in",
            (
                line(
                    "Games folded",
                    "Games that took their place, per second.",
                    "cps",
                    ("sum(rate(crashfold_games_applied_total[$__rate_interval]))", "games"),
                ),
                line(
                    "Rejected records",
                    "Records that became dead letters, per second and reason.",
                    "cps",
                    ("sum by (reason) (rate(crashfold_records_rejected_total[$__rate_interval]))", "{{reason}}"),
                ),
                line(
                    "Newest game per stream",
                    "How long ago it ended.",
                    "s",
                    (
                        'time() - max by (stream) (crashfold_newest_game_timestamp_seconds{stream=~"$stream"})',
                        "{{stream}}",
                    ),
                ),
            ),
        ),
        (
            "Answers out",
            (
                line(
                    "Requests",
                    "Per second and status.",
                    "reqps",
                    ("sum by (status) (rate(crashfold_api_requests_total[$__rate_interval]))", "{{status}}"),
                ),
                line(
                    "Time to answer",
                    "From the request's headers to the last byte handed on.",
                    "s",
                    *quantiles("crashfold_api_request_duration_seconds", ""),
                ),
                line(
                    "Live clients",
                    "Connected now.",
                    "none",
                    ("sum by (transport) (crashfold_api_live_clients)", "{{transport}}"),
                ),
            ),
        ),
    ),
)

ENGINE = Board(
    "crashfold-engine",
    "Crashfold: engine",
    "Where an engine stands on each partition, and where its time goes.",
    (_ENGINES, _STREAMS),
    (
        (
            "Partitions",
            (
                line("Lag", "Records not committed.", "none", (f"crashfold_lag_records{{{_E}}}", "{{partition}}")),
                line(
                    "Freshness",
                    "Age of the last committed record while there is lag.",
                    "s",
                    (f"crashfold_freshness_seconds{{{_E}}}", "{{partition}}"),
                ),
                line(
                    "Last commit",
                    "How long ago it was made.",
                    "s",
                    (f"time() - crashfold_last_commit_timestamp_seconds{{{_E}}}", "{{partition}}"),
                ),
                line(
                    "Log",
                    "The first offset that Kafka still has, what is committed, and the end.",
                    "none",
                    (f"crashfold_log_begin_offset{{{_E}}}", "{{partition}} begin"),
                    (f"crashfold_next_offset{{{_E}}}", "{{partition}} committed"),
                    (f"crashfold_log_end_offset{{{_E}}}", "{{partition}} end"),
                ),
                line(
                    "Retention headroom",
                    "Records that retention may remove before it reaches what is not committed.",
                    "none",
                    (f"crashfold_retention_headroom_records{{{_E}}}", "{{partition}}"),
                ),
                line(
                    "Held",
                    "Partitions read, and streams in memory.",
                    "none",
                    (f"crashfold_partitions_held{{{_E}}}", "{{instance}} partitions"),
                    (f"crashfold_streams_held{{{_E}}}", "{{instance}} streams"),
                ),
            ),
        ),
        (
            "Commits",
            (
                line(
                    "Commits",
                    "Per second and outcome.",
                    "cps",
                    (f"sum by (outcome) (rate(crashfold_commits_total{{{_E}}}[$__rate_interval]))", "{{outcome}}"),
                ),
                line(
                    "Commit",
                    "How long Redis takes to answer one call.",
                    "s",
                    *quantiles("crashfold_commit_duration_seconds", _E),
                ),
                line("Step", "One turn of the loop.", "s", *quantiles("crashfold_step_duration_seconds", _E)),
                line(
                    "Batch",
                    "Records taken in by one turn of the loop.",
                    "none",
                    *quantiles("crashfold_batch_games", _E),
                ),
                line("Loop lag", "How late the event loop wakes.", "s", *quantiles("crashfold_loop_lag_seconds", _E)),
                line(
                    "Games",
                    "Folded, seen before, and behind newer ones, per second.",
                    "cps",
                    (f"sum(rate(crashfold_games_applied_total{{{_E}}}[$__rate_interval]))", "folded"),
                    (f"sum(rate(crashfold_games_duplicate_total{{{_E}}}[$__rate_interval]))", "duplicate"),
                    (f"sum(rate(crashfold_games_late_total{{{_E}}}[$__rate_interval]))", "late"),
                ),
            ),
        ),
        (
            "Trouble and machine",
            (
                line(
                    "Dead letters",
                    "Per second and reason.",
                    "cps",
                    (f"sum by (reason) (rate(crashfold_dead_letters_total{{{_E}}}[$__rate_interval]))", "{{reason}}"),
                ),
                line(
                    "Rebalances and unfair games",
                    "Per second.",
                    "cps",
                    (f"sum(rate(crashfold_rebalances_total{{{_E}}}[$__rate_interval]))", "rebalances"),
                    (
                        f"sum by (kind) (rate(crashfold_fairness_mismatches_total{{{_E}}}[$__rate_interval]))",
                        "{{kind}}",
                    ),
                ),
                line(
                    "Processor and memory",
                    "Cores used, and resident bytes.",
                    "none",
                    (f"rate(process_cpu_seconds_total{{{_E}}}[$__rate_interval])", "{{instance}} {{worker}} cores"),
                    (f"process_resident_memory_bytes{{{_E}}}", "{{instance}} {{worker}} bytes"),
                ),
            ),
        ),
    ),
)

API = Board(
    "crashfold-api",
    "Crashfold: API",
    "What is asked, how soon it is answered, and from where.",
    (_APIS, _STREAMS),
    (
        (
            "Requests",
            (
                line(
                    "By route",
                    "Requests per second.",
                    "reqps",
                    (f"sum by (route) (rate(crashfold_api_requests_total{{{_A}}}[$__rate_interval]))", "{{route}}"),
                    width=12,
                ),
                line(
                    "Time to answer by route",
                    "99th percentile.",
                    "s",
                    quantiles("crashfold_api_request_duration_seconds", _A, "route")[1],
                    width=12,
                ),
                line(
                    "Sources",
                    "Where answers came from, per second.",
                    "reqps",
                    (f"sum by (source) (rate(crashfold_api_requests_total{{{_A}}}[$__rate_interval]))", "{{source}}"),
                ),
                line(
                    "Statuses",
                    "Per second.",
                    "reqps",
                    (f"sum by (status) (rate(crashfold_api_requests_total{{{_A}}}[$__rate_interval]))", "{{status}}"),
                ),
                line(
                    "Kept answers",
                    "Share of the answers looked for that were kept, in the process and in Redis.",
                    "percentunit",
                    (
                        f'sum by (cache) (rate(crashfold_api_cache_requests_total{{{_A},outcome="hit"}}[$__rate_interval]))'
                        f" / sum by (cache) (rate(crashfold_api_cache_requests_total{{{_A}}}[$__rate_interval]))",
                        "{{cache}}",
                    ),
                ),
            ),
        ),
        (
            "What it holds",
            (
                line(
                    "Age of the window",
                    "For how long nothing newer is known.",
                    "s",
                    (f'crashfold_api_window_age_seconds{{{_A},stream=~"$stream"}}', "{{instance}} {{stream}}"),
                ),
                line(
                    "Version",
                    "The version that is answered from.",
                    "none",
                    (f'crashfold_api_window_version{{{_A},stream=~"$stream"}}', "{{instance}} {{stream}}"),
                ),
                line(
                    "Replica",
                    "1 while Redis is away.",
                    "none",
                    (f'crashfold_api_replica{{{_A},stream=~"$stream"}}', "{{instance}} {{stream}}"),
                ),
            ),
        ),
        (
            "Live clients, checks, machine",
            (
                line(
                    "Live clients",
                    "Connected; dropped and refused, per second.",
                    "none",
                    (f"sum by (transport) (crashfold_api_live_clients{{{_A}}})", "{{transport}}"),
                    (
                        f"sum by (transport) (rate(crashfold_api_live_clients_dropped_total{{{_A}}}[$__rate_interval]))",
                        "{{transport}} dropped",
                    ),
                    (
                        f"sum by (transport) (rate(crashfold_api_live_clients_refused_total{{{_A}}}[$__rate_interval]))",
                        "{{transport}} refused",
                    ),
                ),
                line(
                    "Missing and different",
                    "Keys that must be there and are not; answers that differed in shadow; per second.",
                    "cps",
                    (
                        f"sum by (aggregate) (rate(crashfold_api_precomputed_missing_total{{{_A}}}[$__rate_interval]))",
                        "{{aggregate}} missing",
                    ),
                    (
                        "sum by (aggregate, outcome)"
                        f" (rate(crashfold_api_shadow_comparisons_total{{{_A}}}[$__rate_interval]))",
                        "{{aggregate}} {{outcome}}",
                    ),
                ),
                line(
                    "Processor and memory",
                    "Cores used, and resident bytes.",
                    "none",
                    (f"rate(process_cpu_seconds_total{{{_A}}}[$__rate_interval])", "{{instance}} {{worker}} cores"),
                    (f"process_resident_memory_bytes{{{_A}}}", "{{instance}} {{worker}} bytes"),
                ),
            ),
        ),
    ),
)

REDIS = Board(
    "crashfold-redis",
    "Crashfold: Redis",
    "Is there room, does it evict, are keys found.",
    (_STREAMS,),
    (
        (
            "Servers",
            (
                line(
                    "Memory",
                    "Used, and the limit (0: none).",
                    "bytes",
                    ("max by (server) (crashfold_store_memory_bytes)", "{{server}} used"),
                    ("max by (server) (crashfold_store_memory_max_bytes)", "{{server}} limit"),
                ),
                line(
                    "Keys dropped",
                    "Evicted for want of memory (each may be state), and expired, per second.",
                    "cps",
                    (
                        "max by (server) (rate(crashfold_store_evicted_keys_total[$__rate_interval]))",
                        "{{server}} evicted",
                    ),
                    (
                        "max by (server) (rate(crashfold_store_expired_keys_total[$__rate_interval]))",
                        "{{server}} expired",
                    ),
                ),
                line(
                    "Hit rate",
                    "Share of reads that found their key.",
                    "percentunit",
                    (
                        "max by (server) (rate(crashfold_store_keyspace_hits_total[$__rate_interval]))"
                        " / max by (server) (rate(crashfold_store_keyspace_hits_total[$__rate_interval])"
                        " + rate(crashfold_store_keyspace_misses_total[$__rate_interval]))",
                        "{{server}}",
                    ),
                ),
                line(
                    "Commands",
                    "Per second.",
                    "ops",
                    ("max by (server) (rate(crashfold_store_commands_total[$__rate_interval]))", "{{server}}"),
                ),
                line(
                    "Connections",
                    "Clients connected.",
                    "none",
                    ("max by (server) (crashfold_store_clients)", "{{server}}"),
                ),
                line(
                    "Streams",
                    "What the keys of a stream take, estimated.",
                    "bytes",
                    ('max by (stream) (crashfold_stream_memory_bytes{stream=~"$stream"})', "{{stream}}"),
                ),
            ),
        ),
        (
            "Commits",
            (
                line(
                    "Answers of Redis",
                    "How long one call takes.",
                    "s",
                    *quantiles("crashfold_commit_duration_seconds", ""),
                    width=12,
                ),
                line(
                    "Refused and unknown",
                    "Commits that Redis refused or did not answer, per second.",
                    "cps",
                    (
                        'sum by (outcome) (rate(crashfold_commits_total{outcome=~"refused|unknown|conflict"}'
                        "[$__rate_interval]))",
                        "{{outcome}}",
                    ),
                    width=12,
                ),
            ),
        ),
    ),
)

BOARDS: Final = (OVERVIEW, ENGINE, API, REDIS)


def queries(board: Board) -> Sequence[str]:
    """Every expression of the dashboard, as it is sent but for Grafana's variables."""
    return [query.expression for _, panels in board.rows for panel in panels for query in panel.queries]


def built(board: Board) -> str:
    """The dashboard as JSON."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.purpose)
        .tags(["crashfold"])
        .refresh(REFRESH)
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, label, values in board.variables:
        builder = builder.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .query(values)
            .datasource(SOURCE)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    for title, panels in board.rows:
        builder = builder.with_row(dashboard.Row(title))
        for panel in panels:
            builder = builder.with_panel(_number(panel) if panel.kind == "number" else _line(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _targets(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(query.expression).legend_format(query.legend or "__auto").ref_id(chr(ord("A") + at))
        for at, query in enumerate(panel.queries)
    ]


def _line(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.purpose)
        .unit(panel.unit)
        .datasource(SOURCE)
        .span(panel.width)
        .height(8)
        .min(0)
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
    )
    for target in _targets(panel):
        made = made.with_target(target)
    return made


def _number(panel: Panel) -> stat.Panel:
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.purpose)
        .unit(panel.unit)
        .datasource(SOURCE)
        .span(panel.width)
        .height(4)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for target in _targets(panel):
        made = made.with_target(target)
    return made


def main() -> int:
    """Write the dashboards, or check them. The exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail when a dashboard is not as this file says")
    check = parser.parse_args().check
    stale = []
    for board in BOARDS:
        path, text = DASHBOARDS / f"{board.uid}.json", built(board)
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.stderr.write(f"not as build.py says: {', '.join(stale)}. Run: python deploy/grafana/build.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
