"""The nodes of the test cluster, asked directly: who has which slot, how to move one, whom to kill."""
import os
import time
from pathlib import Path

from redis_raw import Client, Error


def slot(key):
    key = key.encode() if isinstance(key, str) else key
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1:end]
    crc = 0
    for byte in key:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


class Nodes:
    def __init__(self):
        self.state = Path(os.environ["POLYPOOL_TEST_REDIS_CLUSTER_STATE"])
        self.folders, self.password = {}, None
        for index in range(6):
            folder = self.state / f"node-{index}"
            conf = dict(line.split(" ", 1) for line in (folder / "redis.conf").read_text().splitlines() if " " in line)
            self.folders[int(conf["port"])] = folder
            self.password = conf["requirepass"].strip('"')

    def client(self, port, timeout=5):
        client = Client(f"redis://127.0.0.1:{port}", timeout=timeout)
        client.ask("AUTH", self.password)
        return client

    def pid(self, port):
        return int((self.folders[port] / "pid").read_text())

    def table(self):
        """Ranges as (first, last, port of the master), by the first node that answers."""
        for port in self.folders:
            try:
                client = self.client(port, timeout=2)
                ranges = client.ask("CLUSTER", "SLOTS")
                client.close()
                return [(first, last, master[1]) for first, last, master, *_ in ranges]
            except (OSError, ConnectionError, TypeError, ValueError):
                continue
        raise ConnectionError("no node answers")

    def owner(self, number):
        return next(port for first, last, port in self.table() if first <= number <= last)

    def masters(self):
        return sorted({port for _, _, port in self.table()})

    def gateway_connections(self):
        """Connections that the gateway has named, on all nodes."""
        count = 0
        for port in self.folders:
            try:
                client = self.client(port)
                count += client.ask("CLIENT", "LIST").decode().count("name=polypool-")
                client.close()
            except (OSError, ConnectionError):
                continue
        return count

    def sharded(self):
        """How many connections of the gateway have shard channels, on each master."""
        counts = []
        for port in self.masters():
            client = self.client(port)
            lines = client.ask("CLIENT", "LIST").decode().splitlines()
            client.close()
            counts.append(sum("name=polypool-" in line and " ssub=" in line and " ssub=0 " not in line for line in lines))
        return counts

    def move(self, number, source, target):
        """Moves a slot with its keys, key by key, as redis-cli --cluster reshard does."""
        here, there = self.client(source), self.client(target)
        ids = [client.ask("CLUSTER", "MYID").decode() for client in (here, there)]
        done(there.ask("CLUSTER", "SETSLOT", number, "IMPORTING", ids[0]))
        done(here.ask("CLUSTER", "SETSLOT", number, "MIGRATING", ids[1]))
        while keys := here.ask("CLUSTER", "GETKEYSINSLOT", number, 10):
            for key in keys:
                done(here.ask("MIGRATE", "127.0.0.1", target, key, 0, 5000, "AUTH", self.password))
        done(there.ask("CLUSTER", "SETSLOT", number, "NODE", ids[1]))
        done(here.ask("CLUSTER", "SETSLOT", number, "NODE", ids[1]))
        here.close()
        there.close()
        # All are told: by gossip alone the next move could be asked of a node that has the slot no longer.
        for port in self.masters():
            other = self.client(port)
            other.ask("CLUSTER", "SETSLOT", number, "NODE", ids[1])
            other.close()
        # Who has not heard of the newest epoch could take the next slot under the same one, and then give it up again,
        # with its keys, to what its former owner said before.
        deadline = time.monotonic() + 5
        while len({self.epoch(port) for port in self.masters()}) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)

    def epoch(self, port):
        """The newest epoch that a node has heard of."""
        client = self.client(port)
        lines = client.ask("CLUSTER", "INFO").decode().splitlines()
        client.close()
        return next(line for line in lines if line.startswith("cluster_current_epoch:"))


def done(reply):
    assert not isinstance(reply, Error), reply
