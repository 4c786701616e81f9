"""The load tools: each run gives throughput and latency, and the CPU time of all who took part."""

import csv
import glob
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import machine

RUN_SLACK_MAX = 60
PGBENCH_SCALE = 10
PGBENCH_SAMPLING = 0.2
PGBENCH_PROGRESS = re.compile(r"progress: ([0-9.]+) s, ([0-9.]+) tps")
WIDE_BYTES = 1 << 20
"""What a statement of the cell `wide` gives back."""
REDIS_KEYS = 100_000
REDIS_VALUE_BYTES = 64
REDIS_LARGE_BYTES = 16 * 1024
REDIS_LARGE_KEYS = 1_000


class LoadError(Exception):
    """A run that failed, with what the tool said; the first line tells what happened."""


@dataclass(frozen=True)
class Cell:
    """One line of a table: what is asked, by how many clients."""

    protocol: str
    work: str
    clients: int
    pipeline: int = 1
    value_bytes: int = REDIS_VALUE_BYTES

    @property
    def label(self):
        if self.protocol != "redis":
            return f"{self.work} c={self.clients}"
        large = f" {self.value_bytes >> 10} KB" if self.value_bytes > REDIS_VALUE_BYTES else ""
        return f"{self.work} c={self.clients} P={self.pipeline}{large}"


def cells(protocol):
    """The cells of a protocol's table."""
    if protocol == "postgres":
        modes = [Cell(protocol, mode, c) for mode in ("simple", "extended", "prepared") for c in (1, 16, 64, 500)]
        return [*modes, Cell(protocol, "wide", 16)]
    if protocol == "redis":
        shapes = ((50, 1), (50, 16), (500, 1), (50, 1, REDIS_LARGE_BYTES))
        return [Cell(protocol, work, *shape) for work in ("get", "set") for shape in shapes]
    return [Cell(protocol, work, c) for work in ("find", "insert", "range") for c in (1, 16, 64, 256)]


def serves(target, cell):
    """Whether a target can do a cell's work: this pgbouncer loses prepared statements in transaction mode."""
    return not (target.name == "pgbouncer" and cell.work == "prepared")


class Tool:
    """A load tool at work, for no longer than `wait_max` seconds."""

    launcher = []
    """What every command is started by."""

    def __init__(self, command, environment, wait_max):
        self._name, self._wait_max = Path(command[0]).name, wait_max
        self._process = subprocess.Popen(
            [*self.launcher, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip
        self._alarm = threading.Timer(wait_max, self._process.kill)
        self._said = []
        self.pid = self._process.pid

    def __enter__(self):
        self._alarm.start()
        return self

    def __exit__(self, *_):
        self._alarm.cancel()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()

    def lines(self):
        """Each line of its standard error, as it comes. Afterwards it has ended, and its CPU time can still be read."""
        for line in self._process.stderr:
            self._said.append(line)
            yield line
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def finish(self):
        """What it printed; a LoadError if it failed."""
        output = self._process.stdout.read()
        code = self._process.wait()
        if code == -signal.SIGKILL:
            raise LoadError(f"{self._name} did not end within {self._wait_max:.0f} s")
        if code != 0:
            said = [line for line in self._said if not PGBENCH_PROGRESS.match(line)]
            said = "".join(said[:20]) + output
            raise LoadError(f"{self._name} ended with {code}: {said.strip()}")
        return output


class Postgres:
    """pgbench: select-only, and a result of 1 MB."""

    def __init__(self, server, secs):
        self._server, self._secs = server, max(2, round(secs))
        self._pgbench = _postgres_program("pgbench")
        self._psql = _postgres_program("psql")

    def prepare(self):
        room = int(self._ask("SHOW max_connections"))
        if room < 560:
            raise LoadError(f"max_connections of PostgreSQL is {room}; clients and pools here need 560")
        command = [self._pgbench, *self._reach(self._server), "-i", "-q", "-s", str(PGBENCH_SCALE)]
        _run([*command, self._server.database], self._environment(self._server), 300)

    def version(self):
        return "PostgreSQL " + self._ask("SHOW server_version")

    def run(self, target, cell, window):
        with tempfile.TemporaryDirectory() as logs:
            work = ["-S", "-M", cell.work]
            if cell.work == "wide":
                script = Path(logs, "wide.sql")
                script.write_text(f"SELECT repeat('x', {WIDE_BYTES});\n", encoding="ascii")
                work = ["-f", str(script), "-M", "simple"]
            # Hundreds of logins take seconds of a run, and the first progress report comes after them.
            secs = self._secs + 1 + cell.clients // 100
            command = [
                self._pgbench, *self._reach(target), "-n", *work, "-c", str(cell.clients),
                "-j", str(min(cell.clients, 2)), "-T", str(secs), "-s", str(PGBENCH_SCALE), "-P", "1",
                "-l", "--log-prefix", f"{logs}/log", "--sampling-rate", str(PGBENCH_SAMPLING), target.database,
            ]  # fmt: skip
            opened, reports = None, []
            with Tool(command, self._environment(target), secs + RUN_SLACK_MAX) as tool:
                # Connections begin and end with the run: the window lies between its progress reports.
                for line in tool.lines():
                    report = PGBENCH_PROGRESS.match(line)
                    if report:
                        reports.append((float(report[1]), float(report[2])))
                        if opened:
                            opened.close()
                        else:
                            opened = window(tool.pid)
                output = tool.finish()
            latencies = _pgbench_latencies(logs)
        failed = re.search(r"^number of failed transactions: (\d+)", output, re.MULTILINE)
        if len(reports) < 2 or (failed and failed[1] != "0"):
            raise LoadError(f"{len(reports)} progress reports: {output}")
        spans = [(now - before, rate) for (before, _), (now, rate) in zip(reports, reports[1:])]
        ops = sum(secs * rate for secs, rate in spans)
        return opened.figures() | {
            "ops": round(ops),
            "ops_per_s": round(ops / sum(secs for secs, _ in spans), 1),
            "p50_us": quantile(latencies, 0.5),
            "p99_us": quantile(latencies, 0.99),
        }

    def _reach(self, target):
        return ["-h", target.host, "-p", str(target.port), "-U", target.user]

    def _environment(self, target):
        plain = {"PGPASSWORD": target.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        return os.environ | plain

    def _ask(self, statement):
        command = [self._psql, *self._reach(self._server), "-X", "-A", "-t", "-c", statement]
        return _run([*command, self._server.database], self._environment(self._server), 60).strip()


class Redis:
    """redis-benchmark, GET and SET: 64 bytes over 100,000 keys, and 16 KB over 1,000."""

    def __init__(self, server, secs):
        self._server, self._secs = server, secs
        self._rates = {}
        self._held = None

    def prepare(self):
        self._hold(REDIS_VALUE_BYTES)

    def version(self):
        return machine.version("redis-server", "--version")

    def run(self, target, cell, window):
        if cell.work == "get":
            self._hold(cell.value_bytes)
        else:
            self._held = None
        rate = self._rates.get((target.name, cell))
        if rate is None:
            rate = self._once(target, cell, 5_000 * cell.pipeline, window)["ops_per_s"]
        result = self._once(target, cell, max(5_000, int(rate * self._secs)), window)
        self._rates[target.name, cell] = result["ops_per_s"]
        return result

    def _once(self, target, cell, count, window):
        login = ["-a", target.password] if target.password else []
        if target.user:
            login = ["--user", target.user, *login]
        command = [
            "redis-benchmark", "-h", target.host, "-p", str(target.port), *login, "-t", cell.work,
            "-c", str(cell.clients), "-P", str(cell.pipeline), "-n", str(count),
            "-d", str(cell.value_bytes), "-r", str(_redis_keys(cell.value_bytes)), "--csv",
        ]  # fmt: skip
        with Tool(command, os.environ, self._secs + RUN_SLACK_MAX) as tool:
            opened = window(tool.pid)
            said = "".join(tool.lines())
            opened.close()
            output = tool.finish()
        rows = {row[0]: row for row in csv.reader(output.splitlines()) if len(row) == 8}
        row = rows.get(cell.work.upper())
        if row is None or "Error from server" in output + said:
            raise LoadError((said + output).strip())
        return opened.figures() | {
            "ops": count,
            "ops_per_s": float(row[1]),
            "p50_us": float(row[4]) * 1000,
            "p99_us": float(row[6]) * 1000,
        }

    def _hold(self, value_bytes):
        """Has the keys that a cell reads hold values of its size."""
        if self._held == value_bytes:
            return
        value = "x" * value_bytes
        with socket.create_connection((self._server.host, self._server.port), 10) as connection:
            replies = connection.makefile("rb")
            for command in self._logins():
                _redis_ask(connection, replies, *command)
            for first in range(0, _redis_keys(value_bytes), 1000):
                pairs = [word for key in range(first, first + 1000) for word in (f"key:{key:012}", value)]
                _redis_ask(connection, replies, "MSET", *pairs)
        self._held = value_bytes

    def _logins(self):
        if self._server.password:
            yield ["AUTH", *filter(None, [self._server.user]), self._server.password]


class Mongodb:
    """Our own closed loop over the raw wire: find by id, insert, and 100 documents in two batches."""

    def __init__(self, server, secs, program):
        self._server, self._secs, self._program = server, secs, str(program)

    def prepare(self):
        command = [*self._command(self._server), "--op", "load"]
        _run(command, self._environment(self._server), 120)

    def version(self):
        program = os.readlink(f"/proc/{machine.listener_pid(self._server.port)}/exe")
        return "mongod " + machine.version(program, "--version").removeprefix("db version v")

    def run(self, target, cell, window):
        command = [
            *self._command(target), "--op", cell.work, "-c", str(cell.clients), "--secs", str(self._secs),
        ]  # fmt: skip
        opened = None
        with Tool(command, self._environment(target), self._secs + RUN_SLACK_MAX) as tool:
            # Logging in is not part of the figures: the tool says when the load begins and ends.
            for line in tool.lines():
                if line == "measuring\n":
                    opened = window(tool.pid)
                elif line == "measured\n":
                    opened.close()
            result = json.loads(tool.finish())
        return opened.figures() | {name: result[name] for name in ("ops", "ops_per_s", "p50_us", "p99_us")}

    def _command(self, target):
        login = ["--user", target.user] if target.user else []
        return [self._program, "--addr", f"{target.host}:{target.port}", *login, "--db", target.database, "--json"]

    def _environment(self, target):
        return os.environ | {"POLYPOOL_LOAD_PASSWORD": target.password}


def quantile(values, share):
    """The value that `share` of the values do not exceed."""
    values = sorted(values)
    return float(values[min(len(values) - 1, int(len(values) * share))]) if values else 0.0


def _pgbench_latencies(folder):
    latencies = []
    for name in glob.glob(f"{folder}/log.*"):
        with open(name, encoding="ascii") as file:
            latencies.extend(int(line.split()[2]) for line in file)
    return latencies


def _postgres_program(name):
    """Debian's wrappers choose a version by the clusters they know; the program itself does not ask."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else name


def _redis_keys(value_bytes):
    return REDIS_LARGE_KEYS if value_bytes == REDIS_LARGE_BYTES else REDIS_KEYS


def _redis_ask(connection, replies, *words):
    parts = [f"*{len(words)}\r\n"] + [f"${len(word)}\r\n{word}\r\n" for word in words]
    connection.sendall("".join(parts).encode())
    reply = replies.readline()
    if not reply.startswith(b"+"):
        raise LoadError(f"{words[0]}: {reply!r}")


def _run(command, environment, wait_max):
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=wait_max, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{Path(command[0]).name} did not end within {wait_max:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-1000:]
        raise LoadError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout
