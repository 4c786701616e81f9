"""Turns the records of a comparison into the pages of benches/results. Alone: `report.py RAW.jsonl` prints them again."""

import json
import statistics
import sys
from dataclasses import dataclass

TARGETS = ("direct", "haproxy", "nutcracker", "pgbouncer", "polypool")
TITLES = {
    "postgres": "PostgreSQL: pgbench, select-only, scale 10, and a result of 1 MB",
    "redis": "Redis: redis-benchmark, 64 bytes over 100,000 keys, 16 KB over 1,000",
    "mongodb": "MongoDB: closed loop, find by id, insert, and 100 documents of 1 KB by find and getMore",
}


FIGURES = {
    "ops/s": lambda row: row.rate,
    "proxy CPU": lambda row: row.proxy_cpu,
    "server CPU": lambda row: row.server_cpu,
}


@dataclass(frozen=True)
class Floor:
    """What polypool must reach at every cell for which it holds: by throughput, or by CPU per operation."""

    base: str
    """The target that it is held against."""
    of: "tuple[str, ...] | None" = None
    """Cells, or words of their names, if not every cell is meant."""
    figure: str = "ops/s"
    most: "float | None" = None
    """The largest share of the base's figure; without it, ours must be at least the base's."""

    def holds_for(self, cell, targets):
        meant = self.of is None or cell in self.of or any(word in self.of for word in cell.split())
        return meant and self.base in targets and "polypool" in targets

    def ratio(self, targets):
        figure = FIGURES[self.figure]
        return figure(targets["polypool"]) / max(figure(targets[self.base]), 0.1)

    def missed(self, targets):
        return self.ratio(targets) < 1 if self.most is None else self.ratio(targets) > self.most

    @property
    def label(self):
        return self.base if self.most is None else f"{self.figure} at most {self.most:g} × {self.base}"


FLOORS = {
    "postgres": (
        Floor("haproxy"),
        Floor("direct", of=("c=500",)),
        Floor("haproxy", of=("c=16", "c=64", "c=500"), figure="proxy CPU", most=1.5),
    ),
    "redis": (
        Floor("haproxy"),
        Floor("nutcracker"),
        Floor("nutcracker", figure="proxy CPU", most=1.2),
        Floor("direct", of=("get c=50 P=1", "set c=50 P=1"), figure="server CPU", most=0.5),
    ),
    "mongodb": (
        Floor("haproxy"),
        Floor("direct", of=("c=256",)),
        Floor("haproxy", figure="proxy CPU", most=1.3),
    ),
}
FLOORS_IN_WORDS = {
    "postgres": "Throughput at least haproxy's, and the direct one's at c=500; CPU of polypool per operation at most 1.5 times "
    "haproxy's at c=16, 64 and 500.",
    "redis": "Throughput at least haproxy's and nutcracker's; CPU of polypool per operation at most 1.2 times nutcracker's; CPU "
    "of the server per operation at most half of what direct clients cost it, at c=50 P=1 with 64 bytes.",
    "mongodb": "Throughput at least haproxy's, and the direct one's at c=256; CPU of polypool per operation at most 1.3 times "
    "haproxy's.",
}


class Row:
    """All rounds of one target at one cell."""

    def __init__(self, runs):
        calm = [run for run in runs if not run["noisy"]]
        self.noisy, self.total = len(runs) - len(calm), len(runs)
        # Noise helps a single client (the processor does not go to sleep) and harms many: it does not average out.
        self.runs = calm if 2 * len(calm) >= len(runs) else runs
        self.rate = self._median(lambda run: run["ops_per_s"])
        self.p50_ms = self._median(lambda run: run["p50_us"] / 1000)
        self.p99_ms = self._median(lambda run: run["p99_us"] / 1000)
        self.proxy_cpu = self._median(lambda run: run["proxy_cpu_s"] / run["ops"] * 1e6)
        self.proxy_user = self._median(lambda run: run["proxy_user_s"] / run["ops"] * 1e6)
        self.server_cpu = self._median(lambda run: run["server_cpu_s"] / run["ops"] * 1e6)
        self.other_cores = max(run["other_cores"] for run in self.runs)

    @property
    def spread(self):
        """Distance of the fastest and the slowest round, as a share of the median."""
        rates = [run["ops_per_s"] for run in self.runs]
        return (max(rates) - min(rates)) / self.rate

    def _median(self, figure):
        return statistics.median(map(figure, self.runs))


class Report:
    """The results of one comparison for one protocol."""

    def __init__(self, protocol, head, records):
        self._protocol, self._head = protocol, head
        records = [record for record in records if record["protocol"] == protocol]
        self.failures = [record for record in records if "error" in record]
        runs = {}
        for record in records:
            targets = runs.setdefault(record["cell"], {})
            if "error" not in record:
                targets.setdefault(record["target"], []).append(record)
        self._cells = {
            cell: {target: Row(found) for target, found in targets.items()} for cell, targets in runs.items()
        }
        self._misses = [pair for pair in self._floor_pairs() if pair[1].missed(pair[2])]

    def verdict(self):
        """One line: what holds and what does not."""
        parts = []
        if "polypool" not in self._head["targets"]:
            parts.append("polypool was not measured")
        elif not self._compared():
            parts.append("no floor could be judged")
        elif self._misses:
            parts.append(f"{len(self._misses)} of {self._compared()} floors MISSED")
        else:
            parts.append(f"all {self._compared()} floors held")
        if self.failures:
            parts.append(f"{len(self.failures)} runs FAILED")
        return "; ".join(parts)

    def text(self):
        """The whole page."""
        lines = [f"# {TITLES[self._protocol]}", "", f"**{self.verdict()}.**", ""]
        if self._head["quick"]:
            lines += ["A trial of the harness (`QUICK=1`), not a result.", ""]
        lines += self._about() + self._floors() + self._failed()
        return "\n".join(lines + self._table()).rstrip() + "\n"

    def _about(self):
        machine = self._head["machine"]
        facts = [
            ("date", self._head["date"]),
            ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb']} MB"),
            ("kernel", machine["kernel"]),
            ("rounds", f"{self._head['rounds']} of {self._head['secs']:g} s per cell and target, interleaved"),
        ]
        measured = {self._protocol}.union(*self._cells.values())
        facts += [(name, found) for name, found in self._head["versions"].items() if name in measured]
        lines = ["| | |", "|---|---|"] + [f"| {name} | {fact} |" for name, fact in facts] + [""]
        lines += [f"Note: {note}.\n" for note in self._head["notes"]]
        lines += [
            "Client, proxy and server share the machine. Figures are medians; `benches/README.md` explains them.",
            "",
        ]
        return lines

    def _compared(self):
        return sum(1 for _ in self._floor_pairs())

    def _floor_pairs(self):
        for cell, targets in self._cells.items():
            for floor in FLOORS[self._protocol]:
                if floor.holds_for(cell, targets):
                    yield cell, floor, targets

    def _floors(self):
        lines = ["## Floors", ""]
        lines += [FLOORS_IN_WORDS[self._protocol], ""]
        if not self._compared():
            return lines + ["Not judged: a side of the comparison was not measured.", ""]
        if not self._misses:
            return lines + [f"All {self._compared()} held.", ""]
        lines += [
            "| missed at | ratio | spread | proxy CPU s/M (user + system) | p99 ms |",
            "|---|---|---|---|---|",
        ]
        for cell, floor, targets in self._misses:
            ours, theirs = targets["polypool"], targets[floor.base]
            their_cpu = "" if floor.base == "direct" else f", {floor.base} {_cpu(theirs)}"
            lines.append(
                f"| {cell}: {floor.label} | {floor.ratio(targets):.2f} "
                f"| ±{max(ours.spread, theirs.spread) / 2:.0%} | {_cpu(ours)}{their_cpu} "
                f"| {ours.p99_ms:.2f}, {floor.base} {theirs.p99_ms:.2f} |"
            )
        return lines + [""]

    def _failed(self):
        if not self.failures:
            return []
        lines = ["## Failed runs", ""]
        for record in self.failures:
            where = f"{record['cell']} {record['target']}, round {record['round'] + 1}"
            lines.append(f"* {where}: {headline(record)}")
        return lines + [""]

    def _table(self):
        measured = {name for targets in self._cells.values() for name in targets}
        bases = [name for name in ("direct", "haproxy", "nutcracker") if name in measured]
        columns = ["cell", "target", "ops/s", *(f"÷ {base}" for base in bases), "p50 ms", "p99 ms"]
        columns += ["proxy CPU s/M", "server CPU s/M", "spread", "other cores", "noisy"]
        rule = "|" + "---|" * 2 + "---:|" * (len(columns) - 2)
        lines = ["## All cells", "", f"| {' | '.join(columns)} |", rule]
        for cell, targets in self._cells.items():
            for name in TARGETS:
                if name in targets:
                    lines.append(f"| {' | '.join(self._line(cell, name, targets, bases))} |")
        return lines + [""]

    def _line(self, cell, name, targets, bases):
        row = targets[name]
        ratios = [f"{row.rate / targets[base].rate:.2f}" if base in targets and base != name else "" for base in bases]
        return [
            cell, f"**{name}**" if name == "polypool" else name, f"{row.rate:,.0f}", *ratios,
            f"{row.p50_ms:.3f}", f"{row.p99_ms:.3f}",
            "" if name == "direct" else f"{row.proxy_cpu:.1f}", f"{row.server_cpu:.1f}",
            f"{row.spread:.0%}", f"{row.other_cores:.2f}", f"{row.noisy}/{row.total}" if row.noisy else "",
        ]  # fmt: skip


def headline(record):
    """Why a run failed, in one line."""
    return record["error"].partition("\n")[0] or "no word why"


def _cpu(row):
    return f"{row.proxy_cpu:.1f} ({row.proxy_user:.1f} + {row.proxy_cpu - row.proxy_user:.1f})"


def main():
    """Prints the reports of a raw file: of each cell's attempts in a round the calmest counts."""
    head, best = {}, {}
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if "head" in record:
                head = record["head"]
                continue
            key = (record["round"], record["protocol"], record["cell"], record["target"])
            kept = best.get(key)
            if kept is None or "error" in record or record["other_cores"] < kept.get("other_cores", 0.0):
                best[key] = record
    for protocol in TITLES:
        if any(record["protocol"] == protocol for record in best.values()):
            print(Report(protocol, head, list(best.values())).text())


if __name__ == "__main__":
    main()
