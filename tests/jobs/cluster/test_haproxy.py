"""HAProxy in front of the replicas: closed to other users, not starved by slow clients, errors as problem+json."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.haproxy import (
    HEADER_TIMEOUT_S,
    MARK,
    PREVIOUS,
    PROBLEMS,
    RECORD,
    SUBSTITUTE,
    TemplateChanged,
    closed,
    error_pages,
    listens_at,
    substitute_config,
)
from jobs.cluster.head_environment import haproxy_binary
from jobs.cluster.ports import free_port
from tests.kit.proxy import NAME, render, running, wrapper

needs_haproxy = pytest.mark.skipif(not haproxy_binary(), reason="there is no HAProxy for this system")
PRINT_ARGUMENTS = '#!/bin/sh\necho started "$@"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A short one: the paths of sockets are limited."""
    path = Path("/tmp") / f"proxy-{tmp_path.parent.name[-6:]}-{free_port()}"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def test_the_admin_socket_is_private_and_only_the_endpoint_listens_beyond_loopback(directory: Path) -> None:
    rendered = render(directory, port=8101, replica_port=30001)

    text = closed(rendered, directory)

    assert "mode 666" in rendered
    assert re.findall(r"stats socket .*", text) == [
        f"stats socket {directory}/admin.sock mode 600 level admin expose-fd listeners"
    ]
    assert all(bind.startswith("127.0.0.1:") for bind in re.findall(r"^ *bind (\S+)", text, flags=re.MULTILINE))
    assert text.count("\n    timeout http-request 10s\n") == 1
    assert listens_at(text) == ("127.0.0.1", 8101)


def test_a_closed_configuration_stays_as_it_is(directory: Path) -> None:
    text = closed(render(directory, port=8101, replica_port=30001), directory)

    assert closed(text, directory) == text


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("mode 666", "mode 660"),
        ("frontend prometheus\n    bind :", "frontend prometheus\n    bind 0.0.0.0:"),
        ("listen stats\n  bind *:", "listen stats\n  bind [::]:"),
        ("listen stats\n", "listen stats_too\n  bind *:9\nlisten stats\n"),
        ("frontend http_frontend", "frontend endpoint"),
        ("    stats timeout", "    stats socket /x mode 666\n    stats timeout"),
        ("    maxconn", "    maximum"),
    ],
)
def test_a_template_that_is_not_the_expected_one_is_refused(directory: Path, line: str, instead: str) -> None:
    rendered = render(directory, port=8101, replica_port=30001)
    assert line in rendered

    with pytest.raises(TemplateChanged):
        closed(rendered.replace(line, instead), directory)


def test_haproxy_is_not_started_on_a_template_that_is_not_the_expected_one(directory: Path) -> None:
    (directory / NAME).write_text(render(directory, port=8101, replica_port=30001).replace("mode 666", "mode 660"))

    ended = start(directory, "-f", str(directory / NAME))

    assert ended.returncode == 1
    assert "started" not in ended.stdout
    assert "use the pinned one" in ended.stderr


def test_a_missing_configuration_is_left_to_haproxy(directory: Path) -> None:
    assert start(directory, "-db", "-f", str(directory / NAME)).stdout.startswith(f"started -db -f {directory / NAME}")


def test_a_check_and_a_reload_close_the_file_and_pass_the_arguments_on(directory: Path) -> None:
    for extra in (["-c"], ["-sf", "1", "-x", str(directory / "admin.sock")]):
        render(directory, port=8101, replica_port=30001)
        words = ["-db", "-f", str(directory / NAME), *extra]

        assert start(directory, *words).stdout.split() == ["started", *words]
        assert (directory / NAME).read_text().startswith(MARK)
        assert "mode 600" in (directory / NAME).read_text()


def test_a_first_start_takes_over_from_the_substitute_and_knows_its_routes(directory: Path) -> None:
    render(directory, port=8101, replica_port=30001)
    start(directory, "-f", str(directory / NAME), "-sf", "1")
    render(directory, port=8101, replica_port=None)  # Ray's new proxy has heard of no application yet
    with subprocess.Popen(["sleep", "60"]) as substitute:
        (directory / f"{SUBSTITUTE}.pid").write_text(str(substitute.pid))
        ended = start(directory, "-f", str(directory / NAME))
        substitute.kill()

    assert ended.stdout.split()[-2:] == ["-sf", str(substitute.pid)]
    assert "server replica" in (directory / NAME).read_text()
    render(directory, port=8101, replica_port=None)
    start(directory, "-f", str(directory / NAME), "-sf", "1")
    assert "server replica" not in (directory / NAME).read_text(), "a reload is what Ray says"


def test_the_substitute_has_no_admin_socket_and_listens_only_at_the_endpoint(directory: Path) -> None:
    text = substitute_config(closed(render(directory, port=8101, replica_port=30001), directory))

    assert "stats" not in text
    assert re.findall(r"^ *bind (\S+)", text, flags=re.MULTILINE) == ["127.0.0.1:8101"]
    assert "server replica" in text


def test_every_error_page_is_a_problem_with_its_own_status() -> None:
    for status in PROBLEMS:
        head, _, body = error_pages()[f"{status}.http"].partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert f"Content-Length: {len(body)}" in head
        assert json.loads(body)["status"] == status
        assert ("Retry-After" in head) == (status in (429, 503))


class Replica(BaseHTTPRequestHandler):
    """Answers with the status and the media type that the path names; /drop ends without an answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/drop":
            self.close_connection = True
            return
        status, media_type = {"/-/healthz": ("200", "text/plain")}.get(self.path) or self.path[1:].split("/", 1)
        self.send_response(int(status))
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", "4")
        self.end_headers()
        with suppress(ConnectionError):  # HAProxy needs only the header to answer something else
            self.wfile.write(b"mine")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *words: Any) -> None:
        """Nothing."""


@pytest.fixture
def endpoint(directory: Path) -> Iterator[int]:
    """The port of an HAProxy with one replica and 400 connections."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Replica) as replica, ExitStack() as undo:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        undo.callback(replica.shutdown)
        port = free_port()
        render(directory, port=port, replica_port=replica.server_address[1])
        undo.enter_context(running(directory))
        wait_for(port)
        yield port


@needs_haproxy
@pytest.mark.parametrize(("sent", "expected"), [(500, 500), (503, 503), (504, 504), (408, 504)])
def test_plain_errors_of_serve_become_problems(endpoint: int, sent: int, expected: int) -> None:
    status, headers, body = ask(endpoint, f"/{sent}/text/plain")

    assert (status, headers["Content-Type"]) == (expected, "application/problem+json")
    assert json.loads(body)["status"] == expected
    assert ("Retry-After" in headers) == (expected == 503)


@needs_haproxy
@pytest.mark.parametrize("path", ["/503/application/problem+json", "/408/application/problem+json", "/200/text/plain"])
def test_answers_of_the_service_pass_unchanged(endpoint: int, path: str) -> None:
    status, _, body = ask(endpoint, path)

    assert (status, body) == (int(path.split("/")[1]), b"mine")


@needs_haproxy
def test_a_replica_that_ends_without_an_answer_is_a_502_and_none_at_all_is_a_503(endpoint: int) -> None:
    assert ask(endpoint, "/drop")[0] == 502


@needs_haproxy
def test_a_proxy_without_routes_is_unavailable_and_an_unreachable_replica_too(directory: Path) -> None:
    for replica_port in (None, free_port()):
        port = free_port()
        render(directory, port=port, replica_port=replica_port)
        (directory / PREVIOUS).unlink(missing_ok=True)
        with running(directory):
            wait_for(port)
            status, headers, body = ask(port, "/v1/anything")
        assert (status, headers["Retry-After"], json.loads(body)["status"]) == (503, "2", 503)


@needs_haproxy
def test_half_open_headers_do_not_starve_a_request_and_no_address_gets_all_connections(endpoint: int) -> None:
    for _ in range(10):
        with ExitStack() as undo:
            began = time.monotonic()
            held = [undo.enter_context(socket.create_connection(("127.0.0.1", endpoint))) for _ in range(280)]
            for one in held:
                one.sendall(b"GET /200/text/plain HTTP/1.1\r\nHost: a\r\nX-Slow: ")

            assert ask(endpoint, "/200/text/plain")[0] == 200

            more = [undo.enter_context(socket.create_connection(("127.0.0.1", endpoint))) for _ in range(60)]
            if time.monotonic() - began > HEADER_TIMEOUT_S:
                continue  # on a busy machine the first ones have been given up by now
            assert is_closed(more[-1]), "three quarters of 400 connections are the most for one address"
            assert ask(endpoint, "/200/text/plain", source="127.0.0.2")[0] == 200
            return
    pytest.fail("340 connections took longer than HAProxy waits for their headers, ten times")


@needs_haproxy
def test_an_unfinished_body_reaches_no_replica_and_is_given_up(endpoint: int) -> None:
    with socket.create_connection(("127.0.0.1", endpoint), timeout=120) as slow:
        slow.sendall(b"POST /200/text/plain HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        response = http.client.HTTPResponse(slow)
        response.begin()

    assert response.status == 408, "the replica would have answered 200 without the body"


@needs_haproxy
def test_the_admin_socket_and_the_record_of_the_process_are_private(directory: Path, endpoint: int) -> None:
    assert oct((directory / "admin.sock").stat().st_mode)[-3:] == "600"
    assert int((directory / RECORD).read_text()) > 0


def start(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the wrapper with a program in place of HAProxy that prints its arguments."""
    program = directory / "program"
    program.write_text(PRINT_ARGUMENTS)
    program.chmod(0o700)
    return subprocess.run(wrapper(program, *words), capture_output=True, text=True, check=False)


def ask(port: int, path: str, *, source: str = "127.0.0.1") -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(source, 0))
    connection.request("GET", path, headers={"Connection": "close"})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def wait_for(port: int) -> None:
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60):
            return


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(HEADER_TIMEOUT_S / 2)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False
