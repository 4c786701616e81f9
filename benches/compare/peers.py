"""The ways to a server: direct, and through each proxy, started on loopback ports of its own and stopped at the end."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

START_WAIT_MAX = 30.0
STOP_WAIT_MAX = 10.0
DATABASES = {"postgres": "postgres", "redis": "0", "mongodb": "polypool_bench"}
"""Used where a URL names no database."""
PROJECT = "bench"
POOL_SIZE = 20


@dataclass(frozen=True)
class Server:
    """A database server, from its URL."""

    protocol: str
    host: str
    port: int
    user: str
    password: str
    database: str
    url: str

    @staticmethod
    def parse(protocol, url):
        parts = urlsplit(url)
        database = unquote(parts.path.strip("/")) or DATABASES[protocol]
        # polypool is to be told the database that the direct loads use.
        query = parts.query
        if protocol == "mongodb" and "authSource=" not in query:
            query = "&".join(filter(None, [query, "authSource=admin"]))
        return Server(
            protocol,
            parts.hostname,
            parts.port,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            database,
            parts._replace(path=f"/{quote(database)}", query=query).geturl(),
        )


@dataclass(frozen=True)
class Target:
    """One way to a server, and the process in between, if any."""

    name: str
    protocol: str
    host: str
    port: int
    user: str
    password: str
    database: str
    proxy_pid: "int | None" = None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Peers:
    """Starts proxies in front of the servers; stops all that it started, by pid."""

    def __init__(self, servers, state, root):
        self._servers, self._state, self._root = servers, Path(state), Path(root)
        self._processes = []
        self.notes = []

    def targets(self, names):
        """The targets of each protocol, in the order that the tables have."""
        found = {protocol: [] for protocol in self._servers}
        for name in ("direct", "haproxy", "nutcracker", "pgbouncer", "polypool"):
            if name in names:
                for target in getattr(self, f"_{name}")():
                    found[target.protocol].append(target)
        return found

    def stop(self):
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_WAIT_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start(self, name, command, port, **options):
        log = self._state / f"{name}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._state, **options
            )
        self._processes.append(process)
        deadline = time.monotonic() + START_WAIT_MAX
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process.pid
            except OSError:
                time.sleep(0.05)
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{name} does not listen at port {port}:\n{tail}")

    def _through(self, name, server, port, pid):
        login = server.user, server.password
        return Target(name, server.protocol, "127.0.0.1", port, *login, server.database, pid)

    def _direct(self):
        for server in self._servers.values():
            login = server.user, server.password
            yield Target("direct", server.protocol, server.host, server.port, *login, server.database)

    def _haproxy(self):
        ports = {protocol: free_port() for protocol in self._servers}
        sections = "".join(
            f"listen {protocol}\n    bind 127.0.0.1:{ports[protocol]}\n"
            f"    server server {server.host}:{server.port}\n"
            for protocol, server in self._servers.items()
        )
        config = self._state / "haproxy.cfg"
        config.write_text(
            "global\n    nbthread 1\n    maxconn 4000\n"
            "defaults\n    mode tcp\n    maxconn 4000\n    timeout connect 5s\n"
            "    timeout client 1h\n    timeout server 1h\n" + sections
        )
        pid = self._start("haproxy", ["haproxy", "-db", "-f", str(config)], next(iter(ports.values())))
        for protocol, server in self._servers.items():
            yield self._through("haproxy", server, ports[protocol], pid)

    def _nutcracker(self):
        server = self._servers.get("redis")
        if not server:
            return
        if server.user not in ("", "default"):
            self.notes.append("nutcracker left out: it cannot log in to Redis by a user name")
            return
        port, stats_port = free_port(), free_port()
        auth = f"  redis_auth: {json.dumps(server.password)}\n" if server.password else ""
        config = self._state / "nutcracker.yml"
        config.write_text(
            f"bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n{auth}"
            "  hash: fnv1a_64\n  distribution: ketama\n  server_connections: 1\n"
            f"  preconnect: true\n  servers:\n   - {server.host}:{server.port}:1\n"
        )
        command = ["nutcracker", "-c", str(config), "-a", "127.0.0.1", "-s", str(stats_port)]
        yield self._through("nutcracker", server, port, self._start("nutcracker", command, port))

    def _pgbouncer(self):
        server = self._servers.get("postgres")
        if not server:
            return
        port = free_port()
        users = self._state / "pgbouncer.users"
        words = (word.replace('"', '""') for word in (server.user, server.password))
        users.write_text(" ".join(f'"{word}"' for word in words) + "\n")
        config = self._state / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n{server.database} = host={server.host} port={server.port} dbname={server.database}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = {POOL_SIZE}\nmax_client_conn = 1000\n"
            # Idle ones must not keep the other targets from the server's connections.
            "server_idle_timeout = 1\n"
        )
        command = [shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin") or "pgbouncer", str(config)]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        yield self._through("pgbouncer", server, port, self._start("pgbouncer", command, port))

    def _polypool(self):
        program = str(self._root / "target" / "release" / "polypool")
        ports = {name: free_port() for name in ("postgres", "redis", "mongodb", "admin")}
        data = self._state / "polypool"
        data.mkdir(mode=0o700)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "TMPDIR", "LANG", "POLYPOOL_LOG")
        }
        environment["POLYPOOL_DATA_DIR"] = str(data)
        for name, port in ports.items():
            environment[f"POLYPOOL_{name.upper()}_LISTEN"] = f"127.0.0.1:{port}"
        pid = self._start("polypool", [program, "serve"], ports["admin"], env=environment)
        admin = f"http://127.0.0.1:{ports['admin']}"
        wait_ready(f"{admin}/readyz")
        reach = ["--admin", admin, "--token", (data / "admin.token").read_text().strip(), "--json"]

        def ask(*arguments):
            command = [program, *arguments, *reach]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=False, env=environment
            )
            if done.returncode != 0:
                raise RuntimeError(f"polypool {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
            return json.loads(done.stdout)

        for protocol, server in self._servers.items():
            ask("add", server.url, "--project", PROJECT, "--name", f"{PROJECT}-{protocol}")
        login = ask("credential", "issue", "--project", PROJECT, "--user", "app", "--role", "admin")
        for protocol, server in self._servers.items():
            words = login["username"], login["password"]
            yield Target("polypool", protocol, "127.0.0.1", ports[protocol], *words, server.database, pid)


def wait_ready(url):
    deadline = time.monotonic() + START_WAIT_MAX
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{url} does not answer: {error}") from error
        time.sleep(0.1)
