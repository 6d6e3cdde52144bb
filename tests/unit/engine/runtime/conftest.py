"""What the tests of the runtime share."""

import pytest

from tests.support.line import Deployment


@pytest.fixture(params=[None, "crash"], ids=["many streams", "one stream"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    return Deployment(only=request.param)
