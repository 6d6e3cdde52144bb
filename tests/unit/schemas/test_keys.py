import pytest

from crashfold.schemas import keys
from crashfold.schemas.keys import Keys, common_prefix, manifest
from crashfold.schemas.predicate import Predicate

MIN = Predicate.parse("min:1.5")
FLOOR = Predicate.parse("floor:10")


def test_the_keys_of_one_stream_are_named_as_the_specification_says() -> None:
    of = Keys.of("analytics", "crash")
    assert of.key(keys.occurrences(MIN)) == "analytics:occurrences:min:1.5"
    assert of.key(keys.SAMPLES) == "analytics:samples"
    assert of.key(keys.intervals(MIN)) == "analytics:intervals:min:1.5"
    assert of.key(keys.series(MIN)) == "analytics:series:min:1.5"
    assert of.key(keys.last_game(FLOOR)) == "analytics:last_game:floor:10"
    assert of.key(keys.last_games(FLOOR)) == "analytics:last_games:floor:10"
    assert of.key(keys.GAMES) == "analytics:games"
    assert of.key(keys.GAPS) == "analytics:gaps"
    assert of.version == "analytics:version"
    assert of.checkpoint == "analytics:checkpoint"
    assert of.updates == "analytics:updates"
    assert of.cache(17, "min:3.14") == "analytics:cache:17:min:3.14"


def test_the_fields_are_named_as_the_specification_says() -> None:
    assert keys.sample_games(500) == "games:500"
    assert keys.sample_hours(6) == "hours:6"
    assert keys.bucket(1_768_000_200) == "bucket_1768000200"


def test_with_many_streams_every_key_carries_the_hash_tag_of_its_stream() -> None:
    of = Keys.of("analytics:{stream}", "crash.2")
    assert of.version == "analytics:{crash.2}:version"
    assert of.key(keys.series(MIN)) == "analytics:{crash.2}:series:min:1.5"
    assert of.shadow.checkpoint.startswith("analytics:{crash.2}:")


def test_the_place_of_the_stream_may_stand_anywhere_in_the_prefix() -> None:
    assert Keys.of("{stream}", "a").version == "{a}:version"
    assert Keys.of("app:{stream}:v2", "a").version == "app:{a}:v2:version"


def test_the_shadow_generation_shares_no_key_with_the_live_one() -> None:
    live = Keys.of("analytics", "crash")
    names = [keys.GAMES, keys.GAPS, keys.SAMPLES, keys.VERSION, keys.CHECKPOINT, keys.series(MIN)]
    assert {live.key(name) for name in names}.isdisjoint(live.shadow.key(name) for name in names)


@pytest.mark.parametrize("stream", ["crash", "series", "games", "occurrences:min"])
def test_two_streams_share_no_key(stream: str) -> None:
    one, other = Keys.of("analytics:{stream}", stream), Keys.of("analytics:{stream}", stream + "2")
    assert one.key(keys.GAMES) != other.key(keys.GAMES)


def test_a_manifest_belongs_to_a_partition_and_to_no_stream() -> None:
    assert manifest("analytics", "games", 3) == "analytics:manifest:games:3"
    assert manifest("analytics:{stream}", "games", 3) == "analytics:manifest:games:3"
    assert manifest("{stream}", "games", 3) == "crashfold:manifest:games:3"


def test_the_common_prefix_is_what_comes_before_the_stream() -> None:
    assert common_prefix("analytics") == "analytics"
    assert common_prefix("analytics:{stream}") == "analytics"
    assert common_prefix("{stream}:analytics") == "crashfold"
