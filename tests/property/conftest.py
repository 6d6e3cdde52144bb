import pytest

from tests.support import profiles

profiles.load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A longer-running profile takes longer than a test may otherwise take before it counts as hanging."""
    for item in items:
        if profiles.takes_its_time() and item.path.parent.name == "property":
            item.add_marker(pytest.mark.timeout(0))
