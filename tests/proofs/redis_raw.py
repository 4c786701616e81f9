"""A Redis client of a few lines, for proofs: it shows each reply as it came and hides nothing.

Errors are values (class Error), so that a proof can count them; a lost connection is an exception.
"""
import socket
from urllib.parse import unquote, urlsplit


class Error(str):
    """An error reply."""


class Client:
    def __init__(self, url, timeout=30.0):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        if parts.password:
            user = [unquote(parts.username)] if parts.username else []
            reply = self.ask("AUTH", *user, unquote(parts.password))
            if reply != "OK":
                raise ConnectionError(f"login: {reply}")

    def close(self):
        self.socket.close()

    def send(self, *commands):
        out = b""
        for words in commands:
            out += b"*%d\r\n" % len(words)
            for word in words:
                word = word if isinstance(word, bytes) else str(word).encode()
                out += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(out)

    def ask(self, *words):
        self.send(words)
        return self.read()

    def pipeline(self, commands):
        self.send(*commands)
        return [self.read() for _ in commands]

    def read(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind in b"+,(":
            return rest.decode()
        if kind == b"-":
            return Error(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind in b"$=":
            if rest == b"-1":
                return None
            data = self.stream.read(int(rest) + 2)
            if len(data) != int(rest) + 2:
                raise ConnectionError("closed")
            return data[:-2]
        if kind in b"*>~%":
            if rest == b"-1":
                return None
            count = int(rest) * (2 if kind == b"%" else 1)
            return [self.read() for _ in range(count)]
        if kind == b"_":
            return None
        raise ConnectionError(f"not a reply: {line!r}")
