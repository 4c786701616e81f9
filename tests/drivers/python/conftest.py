"""What the suites share: the URLs of the run, names that no other test uses, and a wait for a condition.

POLYPOOL_URL_{POSTGRES,REDIS,MONGODB} are the URLs under test. POLYPOOL_TEST_{POSTGRES,REDIS,MONGODB}_URL are the servers
themselves, for tests that look at what the gateway does to them. With both alike the run is the direct baseline.
"""

import os
import socket
import subprocess
import sys
import time
import uuid
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pytest

MONGODB_DATABASE = os.environ.get("POLYPOOL_TEST_MONGODB_DATABASE", "app")
MONGODB_IS_SET = os.environ.get("POLYPOOL_TEST_MONGODB_IS_SET") == "1"


def variable(name):
    value = os.environ.get(name)
    if not value:
        pytest.exit(f"{name} is not set; see tests/drivers/README.md", returncode=2)
    return value


class Urls:
    """The three URLs under test, and those of the servers behind them."""

    def __init__(self):
        self.postgres = variable("POLYPOOL_URL_POSTGRES")
        self.redis = variable("POLYPOOL_URL_REDIS")
        self.mongodb = variable("POLYPOOL_URL_MONGODB")
        self.all = {"postgres": self.postgres, "redis": self.redis, "mongodb": self.mongodb}

    @property
    def direct(self):
        return self.postgres == os.environ.get("POLYPOOL_TEST_POSTGRES_URL")

    @property
    def direct_postgres(self):
        return variable("POLYPOOL_TEST_POSTGRES_SUPERUSER_URL")

    @property
    def direct_redis(self):
        return variable("POLYPOOL_TEST_REDIS_URL")

    @property
    def direct_mongodb(self):
        return variable("POLYPOOL_TEST_MONGODB_URL")


def with_login(url, username=None, password=None):
    """The URL with another user name or password."""
    parts = urlsplit(url)
    username = unquote(parts.username or "") if username is None else username
    password = unquote(parts.password or "") if password is None else password
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(username, safe='')}:{quote(password, safe='')}@{host}"))


def login_of(url):
    parts = urlsplit(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


def eventually(condition, seconds=10, every=0.02):
    """Polls until the condition holds, for what a server tells nobody about; fails with its last value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(every)


def own_connections(port):
    """How many TCP connections this very process has to a local port, by the kernel's own tables."""
    inodes = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    count = 0
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with open(table) as rows:
            for row in list(rows)[1:]:
                fields = row.split()
                remote_port, state, inode = int(fields[2].rpartition(":")[2], 16), fields[3], fields[9]
                count += remote_port == port and state == "01" and inode in inodes
    return count


class Child:
    """A Python process that says `ready` and then waits, to be killed by SIGKILL with its connections open."""

    def __init__(self, source, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_ready(self):
        line = self.process.stdout.readline()
        assert line == "ready\n", f"the child said {line!r} and ended with {self.process.poll()}"

    def kill(self):
        """Returns when the process is gone, and with it its sockets."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def urls():
    return Urls()


@pytest.fixture
def name():
    """A name for a table, a key or a collection that no other test has."""
    return f"t_{uuid.uuid4().hex[:16]}"


def pytest_collection_modifyitems(items):
    if Urls().direct:
        skip = pytest.mark.skip(reason="the URLs are those of the servers themselves")
        for item in items:
            if item.get_closest_marker("gateway"):
                item.add_marker(skip)


def pytest_configure(config):
    socket.setdefaulttimeout(None)
