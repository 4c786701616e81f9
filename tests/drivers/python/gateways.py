"""Gateways of a test's own, for what a configuration file decides; ended with the test."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = (ROOT / (os.environ.get("POLYPOOL_BIN") or "target/debug/polypool")).resolve()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class OwnGateway:
    """`polypool serve` with this configuration text, its own ports and its own data directory."""

    def __init__(self, configuration=""):
        self.folder = tempfile.TemporaryDirectory()
        data = pathlib.Path(self.folder.name)
        self.port, redis, mongodb, self.admin_port = free_ports(4)
        file = data / "gateway.toml"
        file.write_text(configuration)
        self.log = data / "gateway.log"
        listen = {"POSTGRES": self.port, "REDIS": redis, "MONGODB": mongodb, "ADMIN": self.admin_port}
        unset = ("DATABASE_URL", "POLYPOOL_ADMIN_TOKEN", "POLYPOOL_ENCRYPTION_KEYS")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= {f"POLYPOOL_{name}_LISTEN": f"127.0.0.1:{port}" for name, port in listen.items()}
        environment["POLYPOOL_DATA_DIR"] = str(data / "data")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [BIN, "serve", "--config", file], env=environment, cwd=data, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not self.ready():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.token = (data / "data/admin.token").read_text().strip()

    def ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/readyz", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def api(self, method, path, body=None, token=None):
        """The answer of the admin API, parsed; its status is in the error that is raised for 4xx and 5xx."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin_port}/api/platform{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def register(self, url, name, project="demo", **more):
        return self.api(
            "POST", "/databases", {"connection_string": url, "name": name, "slug": name, "project_ref": project, **more}
        )

    def credential(self, project="demo", user="app", role="admin"):
        return self.api("POST", f"/projects/{project}/credentials", {"username": user, "role": role})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()
