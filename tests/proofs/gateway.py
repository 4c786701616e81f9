"""What the proofs look at from outside: the gateway's process and its memory."""

import contextlib
import os
import threading
import urllib.parse


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
