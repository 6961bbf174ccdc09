"""Ports of servers are outside the range of outgoing connections, and taken ones are replaced."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jobs.cluster import ports
from jobs.cluster.ports import ports_for_servers


@pytest.fixture
def ephemeral(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "range"
    monkeypatch.setattr(ports, "EPHEMERAL_RANGE", path)
    return path


def test_ports_of_servers_are_no_ports_of_outgoing_connections(ephemeral: Path) -> None:
    ephemeral.write_text("20000\t60999\n")

    found = ports_for_servers([], 50)

    assert len(set(found)) == 50
    assert all(ports.FIRST_PORT <= port < 20000 for port in found)


def test_where_all_ports_are_for_connections_any_free_one_is_taken(ephemeral: Path) -> None:
    ephemeral.write_text("1024\t65535\n")

    assert len(set(ports_for_servers([], 5))) == 5


def test_a_preferred_port_is_kept_unless_it_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        replaced = ports_for_servers([port], 0)

    assert replaced != [port]
    assert ports_for_servers(replaced, 0) == replaced
