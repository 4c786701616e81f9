"""Turns the records of a comparison into benches/RESULTS.md. Alone: `report.py RAW.jsonl` prints it again."""

import json
import statistics
import sys
from dataclasses import dataclass

TARGETS = ("direct", "haproxy", "nutcracker", "pgbouncer", "polypool")
TITLES = {
    "postgres": "PostgreSQL: pgbench, select-only, scale 10",
    "redis": "Redis: redis-benchmark, 64 bytes, 100,000 keys",
    "mongodb": "MongoDB: closed loop, find by id, insert, and 100 documents of 1 KB by find and getMore",
}


@dataclass(frozen=True)
class Floor:
    """What polypool must reach at every cell for which it holds."""

    base: str
    """The target that it is held against."""
    clients: "int | None" = None
    """Only for cells of so many clients."""
    cpu_max: "float | None" = None
    """CPU per operation, as a multiple of the base's, instead of throughput."""

    def holds_for(self, cell, targets):
        clients = self.clients is None or f"c={self.clients}" in cell.split()
        return clients and self.base in targets and "polypool" in targets

    def ratio(self, targets):
        ours, theirs = targets["polypool"], targets[self.base]
        return ours.rate / theirs.rate if self.cpu_max is None else ours.proxy_cpu / max(theirs.proxy_cpu, 0.1)

    def missed(self, targets):
        return self.ratio(targets) < 1 if self.cpu_max is None else self.ratio(targets) > self.cpu_max

    @property
    def label(self):
        return self.base if self.cpu_max is None else f"{self.base}'s CPU × {self.cpu_max:g}"


FLOORS = {
    "postgres": (Floor("haproxy"),),
    "redis": (Floor("haproxy"), Floor("nutcracker")),
    "mongodb": (Floor("haproxy"), Floor("direct", clients=256), Floor("haproxy", cpu_max=1.3)),
}
FLOORS_IN_WORDS = (
    "Throughput at least haproxy's everywhere, nutcracker's for Redis, and for MongoDB the direct one's at c=256; "
    "polypool's CPU per operation of MongoDB at most 1.3 times haproxy's."
)


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
    """The results of one comparison."""

    def __init__(self, head, records):
        self._head = head
        self.failures = [record for record in records if "error" in record]
        runs = {}
        for record in records:
            cells = runs.setdefault(record["protocol"], {}).setdefault(record["cell"], {})
            if "error" not in record:
                cells.setdefault(record["target"], []).append(record)
        self._tables = {
            protocol: {
                cell: {target: Row(found) for target, found in targets.items()} for cell, targets in cells.items()
            }
            for protocol, cells in runs.items()
        }
        self._misses = list(self._find_misses())

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
        lines = ["# Results of `make bench`", "", f"**{self.verdict()}.**", ""]
        if self._head["quick"]:
            lines += ["A trial of the harness (`QUICK=1`), not a result.", ""]
        lines += self._about() + self._floors() + self._failed()
        for protocol, cells in self._tables.items():
            lines += self._table(protocol, cells)
        return "\n".join(lines).rstrip() + "\n"

    def _about(self):
        machine = self._head["machine"]
        facts = [
            ("date", self._head["date"]),
            ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb']} MB"),
            ("kernel", machine["kernel"]),
            ("rounds", f"{self._head['rounds']} of {self._head['secs']:g} s per cell and target, interleaved"),
        ]
        facts += [(name, found) for name, found in self._head["versions"].items()]
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
        for protocol, cells in self._tables.items():
            for cell, targets in cells.items():
                for floor in FLOORS[protocol]:
                    if floor.holds_for(cell, targets):
                        yield protocol, cell, floor, targets

    def _find_misses(self):
        for protocol, cell, floor, targets in self._floor_pairs():
            if floor.missed(targets):
                yield protocol, cell, floor, targets

    def _floors(self):
        lines = ["## Floors", ""]
        lines += [FLOORS_IN_WORDS, ""]
        if not self._compared():
            return lines + ["Not judged: a side of the comparison was not measured.", ""]
        if not self._misses:
            return lines + [f"All {self._compared()} held.", ""]
        lines += [
            "| missed at | ratio | spread | proxy CPU s/M (user + system) | p99 ms |",
            "|---|---|---|---|---|",
        ]
        for protocol, cell, floor, targets in self._misses:
            ours, theirs = targets["polypool"], targets[floor.base]
            their_cpu = "" if floor.base == "direct" else f", {floor.base} {_cpu(theirs)}"
            lines.append(
                f"| {protocol} {cell}: {floor.label} | {floor.ratio(targets):.2f} "
                f"| ±{max(ours.spread, theirs.spread) / 2:.0%} | {_cpu(ours)}{their_cpu} "
                f"| {ours.p99_ms:.2f}, {floor.base} {theirs.p99_ms:.2f} |"
            )
        return lines + [""]

    def _failed(self):
        if not self.failures:
            return []
        lines = ["## Failed runs", ""]
        for record in self.failures:
            where = f"{record['protocol']} {record['cell']} {record['target']}, round {record['round'] + 1}"
            lines.append(f"* {where}: {headline(record)}")
        return lines + [""]

    def _table(self, protocol, cells):
        measured = {name for targets in cells.values() for name in targets}
        bases = [name for name in ("direct", "haproxy", "nutcracker") if name in measured]
        columns = ["cell", "target", "ops/s", *(f"÷ {base}" for base in bases), "p50 ms", "p99 ms"]
        columns += ["proxy CPU s/M", "server CPU s/M", "spread", "other cores", "noisy"]
        rule = "|" + "---|" * 2 + "---:|" * (len(columns) - 2)
        lines = [f"## {TITLES[protocol]}", "", f"| {' | '.join(columns)} |", rule]
        for cell, targets in cells.items():
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
    """Prints the report of a raw file: of each cell's attempts in a round the calmest counts."""
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
    print(Report(head, list(best.values())).text(), end="")


if __name__ == "__main__":
    main()
