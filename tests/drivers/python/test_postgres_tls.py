"""PostgreSQL under TLS on both sides, with libpq (psycopg) and psql unchanged, a gateway and a server of its own.

Each mode must end as libpq's documentation says, on the client's side and on the upstream's.
"""

import os
import pathlib
import subprocess
import tempfile
import threading
import types
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from gateways import ROOT, OwnGateway, free_ports

pytestmark = pytest.mark.gateway
LIBPQ_18 = pytest.mark.skipif(psycopg.pq.version() < 180000, reason="needs libpq 18")


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder, name):
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip


def certificate(folder, name, by, subject, names=(), digest="sha256"):
    (folder / f"{name}.ext").write_text(f"subjectAltName={','.join(names)}\n" if names else "basicConstraints=CA:FALSE\n")
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
    openssl(folder, "x509", "-req", f"-{digest}", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key",
            "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    os.chmod(folder / f"{name}.key", 0o600)


@pytest.fixture(scope="module")
def files():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        authority(folder, "ca")
        authority(folder, "other")
        # Not SHA-256, so that the binding's hash must follow the certificate's.
        names = ["DNS:localhost", "DNS:demo.gw.test", "IP:127.0.0.1"]
        certificate(folder, "server", "ca", "localhost", names, "sha384")
        certificate(folder, "client", "ca", "app")
        certificate(folder, "stranger", "other", "app")
        yield folder


def start(files, urls, more_tls="", more=""):
    gateway = OwnGateway(
        f'[tls]\ncertificate = "{files}/server.pem"\nkey = "{files}/server.key"\n'
        f'upstream_roots = "{files}/ca.pem"\nupstream_folder = "{files}"\n{more_tls}\n{more}'
    )
    gateway.register(os.environ["POLYPOOL_TEST_POSTGRES_URL"], "pg")
    gateway.issued = gateway.credential()
    return gateway


@pytest.fixture(scope="module")
def gateway(files, urls):
    with start(files, urls) as gateway:
        yield gateway


def connect(gateway, **options):
    """What libpq makes of it: whether TLS is used, or the error's text."""
    options = {"user": gateway.issued["username"], "host": "localhost", "hostaddr": "127.0.0.1"} | options
    given = {"port": gateway.port, "password": gateway.issued["password"], "dbname": "app", "connect_timeout": 10}
    # What the machine's user may have set up for libpq is not meant.
    given |= {"sslcert": "/nonexistent", "sslkey": "/nonexistent", "sslrootcert": "/nonexistent", "gssencmode": "disable"}
    try:
        with psycopg.connect(**(given | options)) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
            return bool(conn.pgconn.ssl_in_use)
    except psycopg.OperationalError as error:
        return str(error)


@pytest.fixture(scope="module")
def urls():
    return None


def test_each_sslmode_of_libpq_ends_as_documented(gateway, files):
    ca, other = {"sslrootcert": f"{files}/ca.pem"}, {"sslrootcert": f"{files}/other.pem"}
    elsewhere = {"host": "elsewhere.test"}
    assert connect(gateway, sslmode="disable") is False
    assert connect(gateway, sslmode="allow") is False
    assert connect(gateway, sslmode="prefer") is True
    assert connect(gateway, sslmode="require") is True
    assert connect(gateway, sslmode="verify-ca", **ca, **elsewhere) is True
    assert "certificate verify failed" in connect(gateway, sslmode="verify-ca", **other)
    assert connect(gateway, sslmode="verify-full", **ca) is True
    assert "does not match" in connect(gateway, sslmode="verify-full", **ca, **elsewhere)


def test_each_sslmode_of_psql_ends_as_documented(gateway, files):
    def psql(mode, **more):
        environment = os.environ | {"PGPASSWORD": gateway.issued["password"], "PGSSLMODE": mode, "PGHOSTADDR": "127.0.0.1"}
        command = ["psql", "-XqAt", "-h", more.get("host", "localhost"), "-p", str(gateway.port), "-c", r"\conninfo"]
        command += ["-U", gateway.issued["username"], "-d", "app"]
        environment["PGSSLROOTCERT"] = f"{files}/{more.get('roots', 'ca')}.pem"
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        return ended.stderr if ended.returncode else "SSL connection (protocol: TLSv1.3" in ended.stdout

    outcomes = {mode: psql(mode) for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")}
    assert outcomes == {
        "disable": False, "allow": False, "prefer": True, "require": True, "verify-ca": True, "verify-full": True,
    }  # fmt: skip
    assert "certificate verify failed" in psql("verify-ca", roots="other")
    assert "does not match host name" in psql("verify-full", host="elsewhere.test")


def test_without_a_certificate_only_plain_connections_are_served():
    with OwnGateway() as gateway:
        gateway.register(os.environ["POLYPOOL_TEST_POSTGRES_URL"], "pg")
        gateway.issued = gateway.credential()
        for mode in ("disable", "allow", "prefer"):
            assert connect(gateway, sslmode=mode) is False
        assert "does not support SSL" in connect(gateway, sslmode="require")


def test_tls_can_be_required(files, urls):
    with start(files, urls, more="[postgres]\ntls_required = true\n") as gateway:
        assert "sslmode=require" in connect(gateway, sslmode="disable")
        assert connect(gateway, sslmode="allow") is True
        assert connect(gateway, sslmode="prefer") is True


def test_logins_are_bound_to_the_channel_where_the_client_can(gateway):
    assert connect(gateway, sslmode="require", channel_binding="require") is True
    assert connect(gateway, sslmode="require", channel_binding="disable") is True
    assert "channel binding" in connect(gateway, sslmode="disable", channel_binding="require")
    assert "authentication failed" in connect(gateway, sslmode="require", channel_binding="require", password="wrong")


def test_the_tls_server_name_names_the_tenant(gateway):
    assert connect(gateway, user="app", host="demo.gw.test", sslmode="require") is True
    assert "authentication failed" in connect(gateway, user="app", host="nobody.gw.test", sslmode="require")
    assert connect(gateway, user="app", options="reference=demo", sslmode="disable") is False
    gateway.register(os.environ["POLYPOOL_TEST_POSTGRES_URL"], "second", project="second")
    second = {"user": "app", "password": gateway.credential(project="second")["password"], "options": "reference=second"}
    assert connect(gateway, host="localhost", sslmode="require", **second) is True
    assert "two databases" in connect(gateway, host="demo.gw.test", sslmode="require", **second)


@LIBPQ_18
def test_direct_tls_needs_its_application_protocol(gateway):
    assert connect(gateway, sslmode="require", sslnegotiation="direct") is True
    ended = subprocess.run(
        ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{gateway.port}"], input=b"", capture_output=True
    )
    assert b"08P01" in ended.stdout


def test_clients_show_certificates_where_they_must(files, urls):
    with start(files, urls, more_tls=f'client_roots = "{files}/ca.pem"') as gateway:
        own = {"sslcert": f"{files}/client.pem", "sslkey": f"{files}/client.key"}
        foreign = {"sslcert": f"{files}/stranger.pem", "sslkey": f"{files}/stranger.key"}
        assert connect(gateway, sslmode="require", **own) is True
        assert connect(gateway, sslmode="require", channel_binding="require", **own) is True
        assert "certificate" in connect(gateway, sslmode="require")
        assert "alert" in connect(gateway, sslmode="require", **foreign)


@LIBPQ_18
def test_protocol_3_2_has_long_keys_that_cancel(gateway):
    options = {"max_protocol_version": "3.2", "min_protocol_version": "3.2", "sslmode": "disable"}
    given = {"host": "127.0.0.1", "port": gateway.port, "user": gateway.issued["username"], "dbname": "app"}
    with psycopg.connect(password=gateway.issued["password"], **given, **options) as conn:
        timer = threading.Timer(0.5, conn.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(30)")
        timer.join()
    # What libpq 18 asks for by itself to find servers that do not negotiate.
    assert connect(gateway, max_protocol_version="latest", sslmode="disable") is False


@pytest.fixture(scope="module")
def server(files):
    """A PostgreSQL with TLS, and users that its rules let in by one way only."""
    with tempfile.TemporaryDirectory() as name:
        state = pathlib.Path(name)
        state.chmod(0o755)
        environment = os.environ | {"POLYPOOL_TEST_STATE": name, "POLYPOOL_TEST_POSTGRES_PORT": str(free_ports(1)[0])}
        run = lambda *words: subprocess.run(
            [ROOT / "tests/servers", *words], env=environment, check=True, capture_output=True, text=True
        ).stdout
        run("start", "postgres")
        try:
            url = dict(line.split("=", 1) for line in run("env", "postgres").splitlines())
            data = state / "postgres/data"
            for suffix in ("server.pem", "server.key", "ca.pem"):
                (data / suffix).write_bytes((files / suffix).read_bytes())
                subprocess.run(["chown", "postgres", data / suffix], check=False)
                (data / suffix).chmod(0o600)
            rules = "hostssl all only_tls all scram-sha-256\nhostnossl all only_plain all scram-sha-256\n"
            rules += "hostssl all with_cert all scram-sha-256 clientcert=verify-ca\n"
            hba = data / "pg_hba.conf"
            hba.write_text(
                rules + "hostssl all only_plain all reject\nhostnossl all only_tls all reject\n"
                "host all with_cert all reject\n" + hba.read_text()
            )
            with psycopg.connect(url["POLYPOOL_TEST_POSTGRES_SUPERUSER_URL"], autocommit=True) as conn:
                for user in ("only_tls", "only_plain", "with_cert"):
                    conn.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'")
                for name, value in (("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"),
                                    ("ssl_ca_file", "ca.pem"), ("ssl", "on")):  # fmt: skip
                    conn.execute(f"ALTER SYSTEM SET {name} = '{value}'")
                conn.execute("SELECT pg_reload_conf()")
            parts = urlsplit(url["POLYPOOL_TEST_POSTGRES_URL"])
            yield types.SimpleNamespace(port=parts.port)
        finally:
            run("wipe", "postgres")


def test_upstreams_are_reached_as_their_sslmode_says(gateway, server, files):
    def test(user, mode, host="localhost", **options):
        """What the connection test answers: True, or the step and the reason."""
        query = "&".join(f"{name}={quote(value)}" for name, value in {"sslmode": mode, **options}.items())
        url = f"postgres://{user}:secret@{host}:{server.port}/app?{query}"
        answer = gateway.api("POST", "/databases/test", {"connection_string": url})
        return answer["success"] or str(answer)

    # The server's rules let each user in by one way: what each mode makes of that is libpq's.
    tls = {mode: test("only_tls", mode) is True for mode in ("disable", "allow", "prefer", "require")}
    assert tls == {"disable": False, "allow": True, "prefer": True, "require": True}
    plain = {mode: test("only_plain", mode) is True for mode in ("disable", "allow", "prefer", "require")}
    assert plain == {"disable": True, "allow": True, "prefer": True, "require": False}
    assert test("only_tls", "verify-ca") is True
    assert test("only_tls", "verify-full") is True
    assert "ertificate" in test("only_tls", "verify-full", sslrootcert="other.pem")
    assert "ertificate" in test("only_tls", "require", sslrootcert="other.pem")
    assert test("only_tls", "require", sslrootcert="ca.pem") is True
    assert "not the name of a file" in test("only_tls", "require", sslrootcert="../ca.pem")
    # Bound to the channel, with a certificate whose hash is SHA-384.
    assert test("only_tls", "require", channel_binding="require") is True
    assert "in common" in test("only_plain", "disable", channel_binding="require")
    # The server asks for our certificate.
    assert test("with_cert", "require") is not True
    assert test("with_cert", "require", sslcert="client.pem", sslkey="client.key") is True
    assert "go together" in test("with_cert", "require", sslcert="client.pem")


def test_upstreams_in_use_are_under_tls_and_can_be_cancelled(gateway, server):
    url = f"postgres://only_tls:secret@localhost:{server.port}/app?sslmode=verify-full&channel_binding=require"
    gateway.register(url, "sealed", project="sealed")
    issued = gateway.credential(project="sealed")
    given = {"host": "127.0.0.1", "port": gateway.port, "user": issued["username"], "password": issued["password"]}
    with psycopg.connect(dbname="app", sslmode="disable", **given) as conn:
        assert conn.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        timer = threading.Timer(0.5, conn.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(30)")
        timer.join()


@LIBPQ_18
def test_an_upstream_can_be_reached_by_direct_tls(gateway, files, urls):
    # A gateway is the only server at hand that speaks it.
    with start(files, urls) as further:
        issued = further.issued
        login = f"{quote(issued['username'], safe='')}:{quote(issued['password'], safe='')}"
        url = f"postgres://{login}@localhost:{further.port}/app?sslmode=verify-full&sslnegotiation=direct&channel_binding=require"
        gateway.register(url, "chained", project="chained")
        own = gateway.credential(project="chained")
        given = {"host": "127.0.0.1", "port": gateway.port, "user": own["username"], "password": own["password"]}
        with psycopg.connect(dbname="app", sslmode="disable", **given) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
