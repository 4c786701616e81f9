"""Runs the matrix of cells and targets in interleaved rounds, and hands the records to the report."""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import loads
import machine
import report
from peers import Peers, Server

PROTOCOLS = ("postgres", "redis", "mongodb")
CALM_SAMPLE = 0.25
"""Seconds over which the machine is looked at before a run."""
CALM_WAIT_TOTAL_MAX = 600.0
REDO_TOTAL_MAX = 100


@dataclass
class Settings:
    """What the environment asks for."""

    rounds: int
    secs: float
    quick: bool
    protocols: list
    targets: list
    noise_max: float
    calm_wait_max: float
    redo_max: int

    @staticmethod
    def read(environment):
        quick = environment.get("QUICK", "0") not in ("", "0")

        def number(name, usual, trial):
            return float(environment.get(name) or (trial if quick else usual))

        only = _words(environment.get("ONLY", ""), PROTOCOLS) or list(PROTOCOLS)
        return Settings(
            rounds=int(number("ROUNDS", 5, 1)),
            secs=number("SECS", 3, 1),
            quick=quick,
            protocols=only,
            targets=_words(environment.get("TARGETS", ""), report.TARGETS) or list(report.TARGETS),
            noise_max=number("NOISE_MAX", 0.2, 0.2),
            calm_wait_max=number("CALM_SECS", 20, 0),
            redo_max=int(number("REDO_MAX", 2, 0)),
        )


class Comparison:
    """One whole run."""

    def __init__(self, settings, protocols, raw):
        self._settings, self._protocols, self._raw = settings, protocols, raw
        self._calm_wait_left, self._redo_left = CALM_WAIT_TOTAL_MAX, REDO_TOTAL_MAX
        self._idle_cores = None
        self.records = []

    def run(self):
        loads.Tool.launcher = machine.take_precedence()
        # What the servers and proxies use when nobody asks them anything is no noise.
        self._idle_cores = min(machine.busy_cores(CALM_SAMPLE) for _ in range(4))
        for number in range(self._settings.rounds):
            for protocol, (load, server_pid, targets) in self._protocols.items():
                for index, cell in enumerate(loads.cells(protocol)):
                    able = [target for target in targets if loads.serves(target, cell)]
                    # Each target comes first as often as it comes last.
                    turn = (number + index) % max(1, len(able))
                    for target in able[turn:] + able[:turn]:
                        self._run_cell(number, load, server_pid, target, cell)

    def _run_cell(self, number, load, server_pid, target, cell):
        best = None
        for attempt in range(1 + self._settings.redo_max):
            if attempt > 0:
                if self._redo_left <= 0:
                    break
                self._redo_left -= 1
            self._wait_calm()

            def window(load_pid):
                return machine.Window(server_pid, target.proxy_pid, load_pid)

            record = {
                "round": number, "protocol": cell.protocol, "cell": cell.label,
                "target": target.name, "attempt": attempt,
            }  # fmt: skip
            try:
                record |= load.run(target, cell, window)
                record["noisy"] = record["other_cores"] > self._settings.noise_max
            except loads.LoadError as error:
                record |= {"error": str(error), "noisy": False}
            self._raw.write(json.dumps(record) + "\n")
            self._raw.flush()
            show(record)
            if best is None or "error" in record or record["other_cores"] < best["other_cores"]:
                best = record
            if not record["noisy"]:
                break
        self.records.append(best)

    def _wait_calm(self):
        began = time.monotonic()
        wait_max = min(self._settings.calm_wait_max, self._calm_wait_left)
        while time.monotonic() - began < wait_max:
            if machine.busy_cores(CALM_SAMPLE) - self._idle_cores < self._settings.noise_max:
                break
        self._calm_wait_left -= time.monotonic() - began


def show(record):
    """One line on the terminal for one run."""
    name = f"{record['round'] + 1} {record['protocol']:8} {record['cell']:16} {record['target']:10}"
    if "error" in record:
        print(f"{name} FAILED: {report.headline(record)}", flush=True)
        return
    proxy = record["proxy_cpu_s"] / record["ops"] * 1e6
    noise = "  noisy" if record["noisy"] else ""
    print(
        f"{name} {record['ops_per_s']:9.0f}/s  p50 {record['p50_us']:7.0f} us  p99 {record['p99_us']:7.0f} us"
        f"  proxy {proxy:5.1f} s/M  other {record['other_cores']:.2f} cores{noise}",
        flush=True,
    )


def load_tools(settings, root):
    """The servers from their URLs, and the tool that loads each."""
    servers, tools = {}, {}
    makers = {
        "postgres": loads.Postgres,
        "redis": loads.Redis,
        "mongodb": lambda server, secs: loads.Mongodb(
            server, secs, root / "target" / "load" / "release" / "polypool-load"
        ),
    }
    for protocol in settings.protocols:
        servers[protocol] = Server.parse(protocol, os.environ[f"POLYPOOL_TEST_{protocol.upper()}_URL"])
        tools[protocol] = makers[protocol](servers[protocol], settings.secs)
    return servers, tools


def versions(settings, tools, root):
    found = {protocol: tool.version() for protocol, tool in tools.items()}
    commands = {
        "haproxy": ("haproxy", "-v"),
        "nutcracker": ("nutcracker", "-V"),
        "pgbouncer": ("pgbouncer", "--version"),
        "polypool": (str(root / "target" / "release" / "polypool"), "--version"),
    }
    for name, command in commands.items():
        if name in settings.targets:
            found[name] = machine.version(*command)
    if "polypool" in settings.targets:
        commit = ("git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*")
        found["polypool"] += f", commit {machine.version(*commit)}"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the repository")
    parser.add_argument("--state", type=Path, required=True, help="a folder for logs and settings of the peers")
    arguments = parser.parse_args()
    # So that `finally` stops what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    settings = Settings.read(os.environ)
    servers, tools = load_tools(settings, arguments.root)
    for protocol, tool in tools.items():
        print(f"filling {protocol}", flush=True)
        tool.prepare()
    peers = Peers(servers, arguments.state, arguments.root)
    started = datetime.datetime.now(datetime.timezone.utc)
    raw_path = arguments.root / "target" / "bench" / f"{started:%Y%m%dT%H%M%SZ}.jsonl"
    try:
        targets = peers.targets(settings.targets)
        protocols = {
            protocol: (tools[protocol], machine.listener_pid(servers[protocol].port), targets[protocol])
            for protocol in settings.protocols
        }
        head = {
            "date": f"{started:%Y-%m-%d %H:%M} UTC",
            "machine": machine.describe(),
            "versions": versions(settings, tools, arguments.root),
            "rounds": settings.rounds, "secs": settings.secs, "quick": settings.quick,
            "targets": settings.targets, "noise_max": settings.noise_max, "notes": peers.notes,
        }  # fmt: skip
        with open(raw_path, "w", encoding="utf-8") as raw:
            raw.write(json.dumps({"head": head}) + "\n")
            comparison = Comparison(settings, protocols, raw)
            comparison.run()
    finally:
        peers.stop()
    pages = raw_path.parent if settings.quick else arguments.root / "benches" / "results"
    pages.mkdir(exist_ok=True)
    failures = 0
    for protocol in settings.protocols:
        results = report.Report(protocol, head, comparison.records)
        page = pages / f"{protocol}.md"
        page.write_text(results.text(), encoding="utf-8")
        print(f"{protocol}: {results.verdict()}; {os.path.relpath(page, arguments.root)}", flush=True)
        failures += len(results.failures)
    return 1 if failures else 0


def _words(text, known):
    words = [word for word in text.replace(",", " ").split() if word]
    for word in words:
        if word not in known:
            raise SystemExit(f"{word} is none of {', '.join(known)}")
    return words


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, loads.LoadError, KeyError, subprocess.SubprocessError) as error:
        sys.exit(f"bench: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
