"""What the proofs look at from outside: the gateway's process and its memory."""

import contextlib
import os
import re
import threading
import urllib.parse
import urllib.request


def gateway_pid(url):
    """The process that listens where the URL leads."""
    port = urllib.parse.urlsplit(url).port
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.read().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(entry.path) in inodes for entry in os.scandir(f"/proc/{pid}/fd")):
                return int(pid)
        except OSError:
            continue
    raise RuntimeError(f"no process listens at port {port}")


class Memory:
    """Resident memory of a process."""

    def __init__(self, pid):
        self._pid = pid

    def now_mb(self):
        with open(f"/proc/{self._pid}/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @contextlib.contextmanager
    def watch(self, every=0.01):
        """Samples until the block ends; then `growth_mb` is the most it grew by."""
        watch = Watch(self.now_mb())
        ended = threading.Event()

        def sample():
            while not ended.wait(every):
                watch.most_mb = max(watch.most_mb, self.now_mb())

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            yield watch
        finally:
            ended.set()
            sampler.join()
            watch.most_mb = max(watch.most_mb, self.now_mb())


class Watch:
    """What was seen meanwhile."""

    def __init__(self, before_mb):
        self.before_mb = self.most_mb = before_mb

    @property
    def growth_mb(self):
        return self.most_mb - self.before_mb


def longest_lease_wait(protocol):
    """Seconds that nobody waited longer for an upstream, by the gateway's own histogram."""
    request = urllib.request.Request(os.environ["POLYPOOL_ADMIN_URL"] + "/metrics")
    with open(os.environ["POLYPOOL_ADMIN_TOKEN_FILE"], encoding="ascii") as file:
        request.add_header("Authorization", f"Bearer {file.read().strip()}")
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    buckets = []
    for labels, count in re.findall(r"^polypool_lease_wait_seconds_bucket\{(.*)\} (\d+)$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if labels["protocol"] == protocol:
            buckets.append((float(labels["le"].replace("+Inf", "inf")), int(count)))
    every = max((count for _, count in buckets), default=0)
    return min((bound for bound, count in buckets if count == every), default=0.0)
