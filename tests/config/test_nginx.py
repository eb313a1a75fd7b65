"""The proxy: its configuration says what the desk says, nginx accepts it, and through it closes get through a flood."""

import datetime
import http.client
import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.test import Client as Visitor
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from accounts.models import User
from audit.models import AuditLog
from config import bridge, http_connections
from config.middleware import BOT_ROUTES
from copybot.client import Client
from tests import ports
from tests.conftest import ROOT, Serving, key_of
from tests.signed import opening
from tests.sockets import PATH

CONF = (ROOT / "ops/nginx.conf").read_text()


def test_it_has_the_time_outs_of_the_web_processes() -> None:
    assert re.findall(r"client_header_timeout (\d+)s", CONF) == [str(int(http_connections.HEAD_S))]
    assert re.findall(r"client_body_timeout (\d+)s", CONF) == [str(bridge.BODY_S)]
    assert re.findall(r"send_timeout (\d+)s", CONF) == [str(int(http_connections.WRITE_S))]


def test_bots_have_a_zone_of_their_own_on_each_of_their_routes() -> None:
    (pattern,) = re.findall(r"location ~ (\S+) \{\s+limit_req zone=bots", CONF)

    assert [route for route in BOT_ROUTES if not re.match(pattern, route)] == []
    assert not re.match(pattern, "/api/v2/trades/history")


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:"),
        ("2001:db8:1:2::6", "2001:db8:1:2:"),
        ("2001:db8::6", "2001:db8"),
        ("2001:db8:1::6", "2001:db8:1"),
        ("::1", ""),
    ],
)
def test_a_caller_is_an_address_or_a_64(address: str, caller: str) -> None:
    patterns = re.findall(r'"~(\^\(\?<\w+>.*)" \$', CONF)
    found = (re.match(pattern.replace("(?<", "(?P<"), address) for pattern in patterns)

    assert next((match[1] for match in found if match), address) == caller


# --- with a real nginx


def session_cookie(name: str) -> str:
    visitor = Visitor()
    visitor.force_login(User.objects.get(username=name))
    return f"sessionid={visitor.cookies['sessionid'].value}"


@pytest.fixture
def nginx() -> str:
    program = os.environ.get("COPYDESK_NGINX") or shutil.which("nginx") or ""
    if not program:
        pytest.skip("NOT TESTED: nginx is not installed (Debian: nginx-light), and COPYDESK_NGINX names none")
    return program


@dataclass
class Proxy:
    port: int
    trusts: ssl.SSLContext


def certificate(folder: Path) -> None:
    """Write a certificate of this machine, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=2099))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "tls.crt").write_bytes(builder.public_bytes(pem))
    (folder / "tls.key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))


def configuration(folder: Path, port: int, web_port: int) -> Path:
    """The configuration of ops/, for this machine: other names, ports and files, and every limit as it is."""
    changes = {
        "user www-data;": f"pid {folder}/nginx.pid; error_log {folder}/error.log;",
        "worker_processes auto;": "worker_processes 1; daemon off;",
        "worker_rlimit_nofile 65536;": "",
        "worker_connections 16384": "worker_connections 2048",
        "/var/log/nginx/access.log": f"{folder}/access.log",
        "/etc/copydesk": str(folder),
        "server unix:/run/copydesk/web-1.sock;": f"server 127.0.0.1:{web_port};",
        "server unix:/run/copydesk/web-2.sock;": "",
        "listen 443 ssl default_server;": f"listen 127.0.0.1:{port} ssl default_server;",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "listen 80 default_server;": f"listen 127.0.0.1:{ports.free()} default_server;",
        "server_name desk.example.com;": "server_name localhost;",
        "Host $host;": "Host $http_host;",  # with the port, which bots sign where it is not 443
    }
    text = CONF
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        text = text.replace("http {", f"http {{ {kind}_temp_path {folder}/{kind};", 1)
    (folder / "nginx.conf").write_text(text)
    return folder / "nginx.conf"


@pytest.fixture
def proxied(nginx: str, serve: Callable[..., Serving], tmp_path: Path) -> Iterator[tuple[Serving, Proxy]]:
    web = serve(TRUSTED_PROXIES="1", REDIS_PREFIX="nginx")
    port = ports.free()
    certificate(tmp_path)
    conf = configuration(tmp_path, port, web.port)
    with subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "error.log")]) as process:
        trusts = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield web, Proxy(port, trusts)
        process.terminate()


def test_nginx_accepts_the_configuration(nginx: str, tmp_path: Path) -> None:
    certificate(tmp_path)
    conf = configuration(tmp_path, ports.free(), ports.free())

    answer = subprocess.run(
        [nginx, "-t", "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "error.log")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 0, answer.stderr
    assert "syntax is ok" in answer.stderr


def ask(proxy: Proxy, path: str, headers: dict[str, str] | None = None, name: str = "localhost") -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, timeout=30, context=proxy.trusts)
    raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
    try:
        connection.sock = proxy.trusts.wrap_socket(raw, server_hostname=name)
        connection.request("GET", path, headers={"Host": f"{name}:{proxy.port}", **(headers or {})})
        return connection.getresponse().status
    except ssl.SSLError:
        return 0
    finally:
        connection.close()
        raw.close()


def test_a_close_gets_through_a_flood_of_one_address(
    proxied: tuple[Serving, Proxy], cast: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """383 sockets of one session stopped every close once: they took all of the proxy's connections."""
    web, proxy = proxied
    monkeypatch.setattr("copybot.client.trusted", lambda: proxy.trusts)
    key = key_of(cast, "lena", "master")
    lena = Client(f"https://localhost:{proxy.port}", key["key"], key["secret"])
    web.bots.append(lena)
    lena.open(**opening("1"))
    lena.open(**opening("2"))
    headers = {"Cookie": session_cookie("finn"), "Origin": f"https://localhost:{proxy.port}"}
    answers: Counter[int] = Counter()
    with ExitStack() as held:
        for _ in range(300):
            raw = held.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            raw.sendall(b"\x16\x03\x01")  # the beginning of a handshake
        for _ in range(60):
            try:
                held.enter_context(
                    connect(f"wss://localhost:{proxy.port}{PATH}", additional_headers=headers, ssl=proxy.trusts)
                )
                answers[101] += 1
            except InvalidStatus as refused:
                answers[refused.response.status_code] += 1
        statuses = Counter(ask(proxy, "/login/") for _ in range(30))
        took = []
        for ticket in ("1", "2"):
            began = time.monotonic()
            lena.close(ticket, close_price="1.11", profit="1")
            took.append(time.monotonic() - began)

    assert answers == {101: 16, 429: 44}
    assert statuses[429] >= 15
    assert min(took) < 1


def test_the_desk_learns_the_callers_address_and_not_what_the_caller_writes(proxied: tuple[Serving, Proxy]) -> None:
    _, proxy = proxied

    ask(proxy, "/api/v2/trades/active", {"X-Forwarded-For": "203.0.113.9", "X-Cd-Key": "ck_0123456789abcdef.1"})

    row = AuditLog.objects.get(action="request.refused")
    assert row.ip == "127.0.0.1"


def test_other_names_and_operators_pages_get_nothing(proxied: tuple[Serving, Proxy]) -> None:
    _, proxy = proxied
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE

    assert ask(proxy, "/healthz") == 200
    assert [ask(proxy, path) for path in ("/metrics", "/readyz")] == [404, 404]
    assert ask(Proxy(proxy.port, anyone), "/healthz", name="elsewhere.example") == 0


def test_it_offers_no_older_tls_and_no_weak_cipher() -> None:
    assert re.findall(r"ssl_protocols (.*);", CONF) == ["TLSv1.2 TLSv1.3"]
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (ciphers,) = re.findall(r"ssl_ciphers (\S+);", CONF)
    offered.set_ciphers(ciphers)

    names = {cipher["name"] for cipher in offered.get_ciphers()}
    assert names and not {name for name in names if not name.startswith(("TLS_", "ECDHE-"))}
    assert not {name for name in names if "GCM" not in name and "CHACHA20" not in name}


def test_half_sent_headers_end_at_the_proxy(proxied: tuple[Serving, Proxy]) -> None:
    _, proxy = proxied
    raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=40)
    with proxy.trusts.wrap_socket(raw, server_hostname="localhost") as half:
        began = time.monotonic()
        half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with suppress(OSError):
            assert half.recv(100) == b""

    assert 8 < time.monotonic() - began < 15
