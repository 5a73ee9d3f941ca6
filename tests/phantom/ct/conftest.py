"""One chest and one abdomen, on grids that each test chooses."""

import pytest
from phantom.ct.subjects import body

from dira_scale.phantom.ct.study import Body


@pytest.fixture(scope="session")
def chest() -> Body:
    return body("thorax", 9)


@pytest.fixture(scope="session")
def abdomen() -> Body:
    return body("abdomen", 4)
