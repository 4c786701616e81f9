"""Takes the place of the suite's own fixtures."""

import pytest

from .utils import Bouncer


@pytest.fixture
def bouncer():
    made = Bouncer()
    yield made
    for conn in made.opened:
        conn.close()


@pytest.fixture
def pg(bouncer):
    return bouncer


@pytest.fixture(autouse=True, scope="session")
def tables():
    Bouncer().sql("CREATE TABLE IF NOT EXISTS test_copy (i int)")
