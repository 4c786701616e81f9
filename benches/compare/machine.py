"""What the machine did meanwhile: CPU time of processes, of whole trees of them, and of everything else."""

import gzip
import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass

PRECEDENCE = 15
READ_ATTEMPTS = 50
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """CPU seconds."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self):
        return self.user + self.system

    def __add__(self, other):
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other):
        return Cpu(self.user - other.user, self.system - other.system)


def _stat(pid):
    """(parent, own CPU, CPU of its children that ended, threads) of a process, or None once it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in parentheses, may itself hold spaces and parentheses.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    own = Cpu(int(fields[11]) / TICKS, int(fields[12]) / TICKS)
    ended = Cpu(int(fields[13]) / TICKS, int(fields[14]) / TICKS)
    return int(fields[1]), own, ended, int(fields[17])


def _run_time(pid):
    """CPU seconds of a process with one thread, exact where a `stat` counts whole ticks; None if not known."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0]) / 1e9
    except (OSError, IndexError):
        return None


def process_cpu(pid):
    """CPU of one process, all its threads, those that ended included."""
    stat = _stat(pid)
    return stat[1] if stat else Cpu()


def tree_cpu(root):
    """CPU of a process, its descendants, and those of them that ended: a PostgreSQL server as a whole.

    Only its total means something; how it splits into user and system does not.
    None if a child ended meanwhile: its time moves to its parent, and may have been missed or met twice."""
    before = _stat(root)
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(name)
            if stat:
                stats[int(name)] = stat
    total = Cpu()
    for pid, (_, own, ended, threads) in stats.items():
        above = pid
        while above in stats and above != root:
            above = stats[above][0]
        if above != root:
            continue
        # Of 64 young children the ticks not yet full are most of what they used.
        exact = _run_time(pid) if pid != root and threads == 1 else None
        total = total + ended + (own if exact is None else Cpu(exact))
    after = _stat(root)
    return total if before and after and before[2] == after[2] else None


def listener_pid(port):
    """The process that listens at a TCP port of this machine; of a family of them the oldest."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    holders = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.scandir(f"/proc/{name}/fd"):
                if os.readlink(fd.path) in inodes:
                    holders.add(int(name))
                    break
        except OSError:
            continue
    roots = [pid for pid in holders if (_stat(pid) or (0,))[0] not in holders]
    if not roots:
        raise RuntimeError(f"no process of this machine listens at port {port}")
    return min(roots)


def _interrupts_are_charged_to_processes():
    """Whether the time that the kernel spends on the network counts as that of the process it interrupts.

    It does unless the kernel keeps exact accounts of it; the loopback's share is large."""
    for name, opened in (("/proc/config.gz", gzip.open), (f"/boot/config-{platform.release()}", open)):
        try:
            with opened(name, "rt", encoding="ascii", errors="replace") as file:
                return "CONFIG_IRQ_TIME_ACCOUNTING=y" not in file.read()
        except OSError:
            continue
    return True


INTERRUPTS_ARE_CHARGED = _interrupts_are_charged_to_processes()


def _machine_busy():
    """CPU seconds that processes of this machine used, or that its host kept from them."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) / TICKS for field in file.readline().split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    busy = user + nice + system + steal
    return busy + irq + softirq if INTERRUPTS_ARE_CHARGED else busy


def _harness_cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Cpu(usage.ru_utime, usage.ru_stime)


class Window:
    """The CPU time of server, proxy, load tool and everything else from its making to the last `close`."""

    def __init__(self, server_pid, proxy_pid, load_pid):
        self._pids = server_pid, proxy_pid, load_pid
        self._began = self._ended = self._read()

    def close(self):
        self._ended = self._read()

    def figures(self):
        """Seconds and CPU of the window."""
        secs, busy, harness, server, proxy, load = (
            after - before for before, after in zip(self._began, self._ended)
        )
        other = busy - harness.total - server.total - proxy.total - load.total
        return {
            "window_s": round(secs, 3),
            "proxy_user_s": round(proxy.user, 3),
            "proxy_system_s": round(proxy.system, 3),
            "proxy_cpu_s": round(proxy.total, 3),
            "server_cpu_s": round(server.total, 3),
            "load_cpu_s": round(load.total, 3),
            "other_cores": round(other / max(secs, 0.001), 3),
        }

    def _read(self):
        server_pid, proxy, load = self._pids
        for _ in range(READ_ATTEMPTS):
            began, busy_before = time.monotonic(), _machine_busy()
            server = tree_cpu(server_pid)
            parts = process_cpu(proxy) if proxy else Cpu(), process_cpu(load)
            if server:
                break
            time.sleep(0.002)
        # The reading takes its time on a busy machine, and the parts are of its middle.
        moment = (began + time.monotonic()) / 2, (busy_before + _machine_busy()) / 2
        return (*moment, _harness_cpu(), server or Cpu(), *parts)


def take_precedence():
    """Lets the harness run as soon as it wants to, so that its readings are of one moment.

    Returns what puts a command back to the usual precedence."""
    try:
        os.nice(-PRECEDENCE)
    except OSError:
        return []
    return ["nice", "-n", str(PRECEDENCE)]


def busy_cores(secs):
    """Cores in use, by whomever, over the next `secs`."""
    began, busy = time.monotonic(), _machine_busy()
    time.sleep(secs)
    return (_machine_busy() - busy) / (time.monotonic() - began)


def version(*command):
    """The first line a program prints about its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "not found"
    if done.returncode != 0:
        return "unknown"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # Some add a date or an address.
    return lines[0].removeprefix("This is ").split(" - ")[0] if lines else "unknown"


def describe():
    """The machine, for the head of the results."""
    model, memory = "unknown", 0
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) // 1024
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mb": memory,
        "kernel": platform.release(),
    }
