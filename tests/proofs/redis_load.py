"""Writers that know afterwards what became of each of their writes.

Every writer pushes the numbers 1, 2, 3 ... to a list of its own, and never pushes a number twice. What the list holds in the
end tells for each number whether it was carried out once, not at all, or repeated.
"""
import threading
import time
from collections import Counter

from redis_raw import Client, Error


class Writer(threading.Thread):
    def __init__(self, url, key):
        super().__init__(daemon=True)
        self.url, self.key = url, key
        self.acknowledged = {}  # number: when
        self.errors = []  # (number, when, text)
        self.begun = {}  # number: when it was sent
        self.stopping = threading.Event()

    def run(self):
        client, number = None, 0
        while not self.stopping.is_set():
            number += 1
            try:
                if client is None:
                    client = Client(self.url)
                self.begun[number] = time.monotonic()
                reply = client.ask("RPUSH", self.key, number)
            except (OSError, ConnectionError) as error:
                self.errors.append((number, time.monotonic(), f"connection: {error}"))
                client = None
                time.sleep(0.05)
                continue
            if isinstance(reply, Error):
                self.errors.append((number, time.monotonic(), reply))
                time.sleep(0.02)
            else:
                self.acknowledged[number] = time.monotonic()
            time.sleep(0.0005)


class Load:
    def __init__(self, url, keys):
        self.writers = [Writer(url, key) for key in keys]
        for writer in self.writers:
            writer.start()

    def acknowledged(self):
        return sum(len(writer.acknowledged) for writer in self.writers)

    def stop(self):
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            writer.join(60)
            assert not writer.is_alive(), "a writer waits for a reply for more than a minute"

    def recovered(self, since, seconds):
        """Waits until every writer has had a write acknowledged that it began after `since`; how long that took."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            last = []
            for writer in self.writers:
                good = [at for number, at in list(writer.acknowledged.items())[-200:] if writer.begun[number] > since + 0.2]
                failed = [at for _, at, _ in writer.errors if at > since]
                good = [at for at in good if not failed or at > failed[-1]]
                last.append(good[0] if good else None)
            if all(last):
                return max(last) - since
            time.sleep(0.05)
        return None

    def verdict(self, client, since, tolerance):
        """Compares what was acknowledged with what is there; the faults, as text. Acknowledged writes may be missing only if
        their acknowledgement is from the last `tolerance` seconds before `since`: replication is asynchronous."""
        faults, repeated, missing, late, unknown = [], 0, 0, 0, 0
        texts = Counter()
        for writer in self.writers:
            stored = client.ask("LRANGE", writer.key, 0, -1)
            if isinstance(stored, Error):
                return [f"cannot read {writer.key}: {stored}"]
            stored = [int(number) for number in stored]
            repeated += len(stored) - len(set(stored))
            if stored != sorted(stored):
                faults.append(f"{writer.key}: out of order")
            present = set(stored)
            for number, at in writer.acknowledged.items():
                if number not in present:
                    if since is not None and since - tolerance < at < since + tolerance:
                        late += 1
                    else:
                        missing += 1
            failed = {number for number, _, _ in writer.errors}
            unknown += len(present & failed)
            strange = present - failed - writer.acknowledged.keys()
            if strange:
                faults.append(f"{writer.key}: {len(strange)} that nobody wrote")
            texts.update(shape(text) for _, _, text in writer.errors)
        errors = sum(texts.values())
        print(f"acknowledged {self.acknowledged()}, errors {errors}, of those carried out all the same {unknown}; "
              f"repeated {repeated}; acknowledged and missing {missing}, lost by asynchronous replication {late}")
        for text, count in texts.most_common():
            print(f"  {count:6} x {text}")
        if repeated:
            faults.append(f"{repeated} writes were carried out twice")
        if missing:
            faults.append(f"{missing} acknowledged writes are missing")
        for text in texts:
            if not text.startswith(("ERR upstream", "ERR the database", "READONLY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN",
                                    "UNBLOCKED")):
                faults.append(f"not a clear error: {text}")
        return faults


def shape(text):
    """The text without what differs from one to the next."""
    return "".join("N" if letter.isdigit() else letter for letter in text)
