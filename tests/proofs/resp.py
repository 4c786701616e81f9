"""RESP for the proofs of the Redis side: a client over asyncio, without a driver in between that could hide something."""

import asyncio
import os
import socket
from urllib.parse import unquote, urlsplit


def encode(*words):
    out = [b"*%d\r\n" % len(words)]
    for word in words:
        if not isinstance(word, bytes):
            word = str(word).encode()
        out.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(out)


class Fault(Exception):
    """An error reply."""


class Client:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, url, protocol=None):
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(reader, writer)
        user, password = unquote(parts.username or "default"), unquote(parts.password or "")
        if protocol:
            await client.ask("HELLO", protocol, "AUTH", user, password)
        elif password:
            await client.ask("AUTH", user, password)
        return client

    def send(self, *words):
        self.writer.write(encode(*words))

    async def ask(self, *words):
        self.send(*words)
        reply = await self.reply()
        if isinstance(reply, Fault):
            raise reply
        return reply

    async def reply(self):
        """The next reply or push; an error is returned, not raised. EOFError at the end."""
        line = await self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        kind, text = line[:1], line[1:-2]
        if kind in b"+,(":
            return text
        if kind == b"-":
            return Fault(text.decode())
        if kind == b":":
            return int(text)
        if kind == b"_":
            return None
        if kind in b"$=":
            if text == b"-1":
                return None
            try:
                return (await self.reader.readexactly(int(text) + 2))[:-2]
            except asyncio.IncompleteReadError as error:
                raise EOFError from error
        if kind in b"*>~":
            return None if text == b"-1" else [await self.reply() for _ in range(int(text))]
        if kind == b"%":
            pairs = [(await self.reply(), await self.reply()) for _ in range(int(text))]
            return dict(pairs)
        raise ValueError(f"not a reply: {line!r}")

    def close(self):
        self.writer.close()


def gateway_url():
    return os.environ["POLYPOOL_URL_REDIS"]


def server_url():
    return os.environ["POLYPOOL_TEST_REDIS_URL"]


def gateway_pid():
    """The gateway under test, found by the port that it listens on."""
    port = urlsplit(gateway_url()).port
    wanted = f":{port:04X}"
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for line in list(lines)[1:]:
                words = line.split()
                if words[1].endswith(wanted) and words[3] == "0A":
                    inodes.add(words[9])
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    return int(pid)
        except OSError:
            continue
    raise LookupError(f"nobody listens on {port}")


def memory(pid):
    """Resident bytes of a process, and their peak."""
    with open(f"/proc/{pid}/status") as lines:
        found = dict(line.split(":", 1) for line in lines)
    return tuple(int(found[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))


async def upstreams(server):
    """How many connections the gateway has to the server."""
    listed = (await server.ask("CLIENT", "LIST")).decode()
    return sum(" name=polypool-" in line for line in listed.splitlines())
