"""CLIENT TRACKING in every mode, MONITOR, CLIENT PAUSE and WAIT, byte for byte: what a connection is told, and when."""

import socket
from urllib.parse import unquote, urlsplit

import pytest

OWN_WRITES = 100


class Wire:
    """A connection that speaks RESP3, and reads exactly what is expected."""

    def __init__(self, url):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=20)
        self.seen = b""
        self.send("HELLO", 3, "AUTH", unquote(parts.username or "default"), unquote(parts.password))
        while not self.seen.endswith(b"modules\r\n*0\r\n"):
            self.seen += self.socket.recv(65536)
        self.seen = b""

    def send(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))

    def expect(self, wanted):
        while len(self.seen) < len(wanted):
            more = self.socket.recv(65536)
            assert more, f"closed after {self.seen!r}, wanted {wanted!r}"
            self.seen += more
        assert self.seen[: len(wanted)] == wanted
        self.seen = self.seen[len(wanted) :]

    def until(self, wanted):
        while wanted not in self.seen:
            more = self.socket.recv(65536)
            assert more, f"closed after {self.seen!r}, wanted {wanted!r}"
            self.seen += more
        self.seen = self.seen.partition(wanted)[2]

    def call(self, wanted, *words):
        self.send(*words)
        self.expect(wanted)


@pytest.fixture
def wire(urls):
    opened = []

    def connect():
        opened.append(Wire(urls.redis))
        return opened[-1]

    yield connect
    for each in opened:
        each.socket.close()


def invalidation(*keys):
    return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n" % len(keys) + b"".join(b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in keys)


def test_an_own_write_invalidates_together_with_its_reply(wire, name):
    client = wire()
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON")
    wanted = b"+OK\r\n" + invalidation(name)
    client.call(b"+OK\r\n", "SET", name, "v")
    for _ in range(OWN_WRITES):
        client.call(b"$1\r\nv\r\n", "GET", name)
        client.send("SET", name, "v")
        # In one piece: between two a driver would answer from its cache what it has just overwritten.
        assert client.socket.recv(65536) == wanted


def test_default_mode_tells_of_keys_that_were_read(wire, name):
    client, other = wire(), wire()
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON")
    client.call(b"_\r\n", "GET", name)
    other.call(b"+OK\r\n", "MSET", name, "1", f"{name}:unread", "1")
    # What came before a PING is heard before its answer.
    client.call(invalidation(name) + b"+PONG\r\n", "PING")
    # It is told once; then it has to read again.
    other.call(b":1\r\n", "DEL", name)
    client.call(b"_\r\n", "GET", name)
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "OFF")
    other.call(b"+OK\r\n", "SET", name, "2")
    client.call(b"$1\r\n2\r\n", "GET", name)
    other.call(b":2\r\n", "DEL", name, f"{name}:unread")


def test_broadcast_mode_tells_of_prefixes(wire, name):
    client, other = wire(), wire()
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", f"{name}:a", "PREFIX", f"{name}:b")
    other.call(b"+OK\r\n", "SET", f"{name}:c", "1")
    other.call(b"+OK\r\n", "SET", f"{name}:b1", "1")
    client.expect(invalidation(f"{name}:b1"))
    client.call(b"+OK\r\n", "SET", f"{name}:a1", "1")
    client.expect(invalidation(f"{name}:a1"))
    other.call(b":3\r\n", "DEL", f"{name}:a1", f"{name}:b1", f"{name}:c")


def test_noloop_does_not_tell_of_own_writes(wire, name):
    client, other = wire(), wire()
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", name, "NOLOOP")
    client.call(b"+OK\r\n", "SET", name, "own")
    other.call(b"+OK\r\n", "SET", name, "other")
    client.expect(invalidation(name))
    other.call(b":1\r\n", "DEL", name)
    client.expect(invalidation(name))


@pytest.mark.parametrize("mode", ["OPTIN", "OPTOUT"])
def test_caching_chooses_single_keys(wire, name, mode):
    client, other = wire(), wire()
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON", mode)
    chosen, passed = (f"{name}:after", f"{name}:plain") if mode == "OPTIN" else (f"{name}:plain", f"{name}:after")
    client.call(b"_\r\n", "GET", f"{name}:plain")
    client.call(b"+OK\r\n", "CLIENT", "CACHING", "YES" if mode == "OPTIN" else "NO")
    client.call(b"_\r\n", "GET", f"{name}:after")
    other.call(b"+OK\r\n", "SET", passed, "1")
    other.call(b"+OK\r\n", "SET", chosen, "1")
    client.expect(invalidation(chosen))
    other.call(b":2\r\n", "DEL", passed, chosen)
    client.call(b"-ERR syntax error\r\n", "CLIENT", "CACHING", "MAYBE")


def test_tracking_in_resp3_goes_on_beside_transactions_and_subscriptions(wire, name):
    client, other = wire(), wire()
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON")
    client.call(b"+OK\r\n", "MULTI")
    client.call(b"+QUEUED\r\n", "GET", name)
    client.call(b"*1\r\n_\r\n", "EXEC")
    other.call(b"+OK\r\n", "SET", name, "1")
    client.expect(invalidation(name))
    client.send("SUBSCRIBE", name)
    client.expect(b">3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(name), name.encode()))
    client.call(b"$1\r\n1\r\n", "GET", name)
    other.call(b":1\r\n", "PUBLISH", name, "m")
    client.expect(b">3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$1\r\nm\r\n" % (len(name), name.encode()))
    other.call(b":1\r\n", "DEL", name)
    client.expect(invalidation(name))


def test_flushing_invalidates_everything(wire, name):
    client = wire()
    client.call(b"+OK\r\n", "SELECT", 9)
    client.call(b"+OK\r\n", "CLIENT", "TRACKING", "ON")
    client.call(b"_\r\n", "GET", name)
    client.call(b"+OK\r\n", "FLUSHDB")
    client.expect(b">2\r\n$10\r\ninvalidate\r\n_\r\n")


def test_a_paused_server_serves_once_it_is_let_go(wire, name):
    client, other = wire(), wire()
    client.call(b"+OK\r\n", "CLIENT", "PAUSE", 60000, "WRITE")
    client.call(b"_\r\n", "GET", name)
    client.call(b"+OK\r\n", "CLIENT", "UNPAUSE")
    other.call(b"+OK\r\n", "SET", name, "1")
    other.call(b"+OK\r\n", "CLIENT", "PAUSE", 50, "ALL")
    other.call(b"$1\r\n1\r\n", "GET", name)
    client.call(b":1\r\n", "DEL", name)


def test_reads_and_unpausing_pass_a_paused_write(wire, name):
    writer, reader = wire(), wire()
    writer.call(b"+OK\r\n", "CLIENT", "PAUSE", 60000, "WRITE")
    writer.send("SET", name, "late")
    reader.call(b"_\r\n", "GET", name)
    reader.call(b"+OK\r\n", "CLIENT", "UNPAUSE")
    writer.expect(b"+OK\r\n")
    reader.call(b":1\r\n", "DEL", name)


def test_waiting_for_replicas_that_there_are_none(wire, name):
    client = wire()
    client.call(b"+OK\r\n", "SET", name, "1")
    client.call(b":0\r\n", "WAIT", 0, 100)
    client.call(b":0\r\n", "WAIT", 1, 100)
    client.call(b"-ERR timeout is negative\r\n", "WAIT", 1, -1)
    client.call(b":1\r\n", "DEL", name)


def test_monitor_shows_commands_in_their_order(wire, name):
    monitor, client = wire(), wire()
    monitor.call(b"+OK\r\n", "MONITOR")
    client.send("PING")
    client.send("SET", name, "a b")
    client.send("DEL", name)
    client.expect(b"+PONG\r\n+OK\r\n:1\r\n")
    for line in (b'"PING"', b'"SET" "%s" "a b"' % name.encode(), b'"DEL" "%s"' % name.encode()):
        monitor.until(line)
