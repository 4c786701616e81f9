"""Takes the place of the suite's own fixtures."""

import pytest

from .utils import Bouncer, Server


@pytest.fixture
def bouncer():
    made = Bouncer()
    yield made
    for conn in made.opened:
        conn.close()


@pytest.fixture
def pg():
    return Server()


@pytest.fixture(autouse=True, scope="session")
def tables():
    bouncer = Bouncer()
    bouncer.sql("CREATE TABLE IF NOT EXISTS test_copy (i int)")
    for conn in bouncer.opened:
        conn.close()
