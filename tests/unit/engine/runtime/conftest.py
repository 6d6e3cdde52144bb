"""What the tests of the runtime share."""

import pytest

from tests.support.in_memory import MemoryDeployment


@pytest.fixture(params=[None, "crash"], ids=["many streams", "one stream"])
def deployment(request: pytest.FixtureRequest) -> MemoryDeployment:
    return MemoryDeployment(only=request.param)
