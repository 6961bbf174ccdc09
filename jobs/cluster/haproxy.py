"""Starts HAProxy in place of Ray Serve: closes what Ray's fixed template leaves open, then becomes the real program.

Ray renders its configuration from a template without settings for these things, and runs RAY_SERVE_HAPROXY_BINARY_PATH
on it. This file runs alone and uses the standard library only, because it starts at every reload of the proxy.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

MARK = "# Closed by Shopkeeper\n"
RECORD, PREVIOUS, SUBSTITUTE = "proxy.pid", "previous.cfg", "substitute"
"""Files next to the configuration: pid and configuration of the newest HAProxy, and what stands in for a dead one."""
HEADER_TIMEOUT_S = 10
"""For a request's header, and for the first 16 kB of its body: until then it takes no slot of a replica."""
STREAM_TIMEOUT_S = 3600
"""For a silent WebSocket; the timeouts of client and server would close it within a minute."""
ADDRESS_SHARE = 0.75
"""Share of all connections that one address may hold. The gateway of a shop is one address, so it is large."""
RETRY_AFTER_S = 2
PROBLEMS = {
    400: "the request is not valid HTTP, or its header is too large",
    408: f"the request did not arrive within {HEADER_TIMEOUT_S} s",
    413: "the body is too large",
    429: "too many requests; try again later",
    500: "internal server error; the cause is in the server's log",
    502: "the replica ended without an answer; try again",
    503: "every replica is busy or down; try again",
    504: "no replica answered in time",
}
"""The errors that HAProxy makes by itself, or that Serve sends as plain text."""
NOT_FOUND = "this path does not exist; /-/routes lists the prefixes of the families"
FROM_SERVE = {408: 504, 500: 500, 502: 502, 503: 503, 504: 504}
"""Ray Serve's own errors, which are plain text, and what they become: its 408 is not the client's fault."""


class TemplateChanged(Exception):
    """The rendered configuration lacks a line that has to be closed."""


def closed(rendered: str, pages: Path) -> str:
    """Ray's rendered configuration without what is open to other users and hosts; raises TemplateChanged.

    `pages` is the directory of `error_pages`. A configuration that is closed already stays as it is.
    """
    if rendered.startswith(MARK):
        return rendered
    text = _replaced(rendered, r"(^ *stats socket \S+) mode 666 (level admin .*)$", r"\1 mode 600 \2")
    text = _replaced(text, r"(^frontend prometheus\n *bind) :(\d+)$", r"\1 127.0.0.1:\2")
    text = _replaced(text, r"(^listen stats\n *bind) \*:(\d+)$", r"\1 127.0.0.1:\2")
    text = re.sub(r"^ *errorfile .*\n", "", text, flags=re.MULTILINE)
    text = _replaced(text, r"^defaults\n *mode http$", lambda found: f"{found[0]}\n{_defaults(pages)}")
    text = _replaced(
        text, r"^frontend http_frontend\n *bind .*$", lambda found: f"{found[0]}\n{_limits(_max_connections(rendered))}"
    )
    has_routes = re.search(r"^ *use_backend ", text, flags=re.MULTILINE)
    text = _replaced(
        text,
        r"^( *)http-request return status 404 .*$",
        # A proxy that has just started does not know the routes yet.
        lambda found: found[1] + ("http-request " + _answer(404, NOT_FOUND) if has_routes else _unavailable()),
    )
    _check(text)
    return MARK + text


def error_pages() -> dict[str, str]:
    """File names and contents of HAProxy's own errors, as problem+json."""
    return {f"{status}.http": _page(status, detail) for status, detail in PROBLEMS.items()}


def substitute_config(config: str) -> str:
    """A closed configuration for a process that answers in place of a dead HAProxy until Ray starts another.

    It has neither the admin socket, so that Ray notices the death, nor the pages of statistics.
    """
    text = re.sub(r"^ *stats (socket|timeout) .*\n", "", config, flags=re.MULTILINE)
    return re.sub(r"^(frontend prometheus|listen stats)\n(?:[ #].*\n|\n)*", "", text, flags=re.MULTILINE)


def listens_at(config: str) -> tuple[str, int] | None:
    """Host and port of the endpoint, as this machine reaches it."""
    found = re.search(r"^frontend http_frontend\n *bind (\S+):(\d+)", config, flags=re.MULTILINE)
    return ("127.0.0.1" if found[1] == "*" else found[1], int(found[2])) if found else None


def main(binary: str, arguments: Sequence[str]) -> NoReturn:
    """Close the configuration file and become HAProxy, or exit with what is wrong if that must not happen."""
    words = list(arguments)
    path = Path(words[words.index("-f") + 1]) if "-f" in words[:-1] else None
    if path is not None and path.is_file():
        try:
            config = closed(path.read_text(encoding="utf-8"), path.parent)
        except TemplateChanged as error:
            sys.exit(f"HAProxy is not started with {path}: {error}")
        _write_pages(path.parent)
        if "-c" not in words:
            config, words = _taking_over(path, config, words)
        _write(path, config)
    os.execv(binary, [binary, *words])


def live_process(pid_file: Path) -> int | None:
    """The pid in a file if such a process runs."""
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return pid if state not in "ZX" else None


def _taking_over(path: Path, config: str, words: list[str]) -> tuple[str, list[str]]:
    """Configuration and arguments of a start; a first start takes over from whoever answers now, without a gap.

    Then Ray has not told the new proxy any routes yet, so that it begins with those of its predecessor.
    """
    (path.parent / RECORD).write_text(str(os.getpid()), encoding="utf-8")
    previous = path.parent / PREVIOUS
    if "-sf" not in words:
        pids = [live_process(path.parent / name) for name in (f"{SUBSTITUTE}.pid",)] + [_orphan(path)]
        words = [*words, *(["-sf", *(str(pid) for pid in pids if pid)] if any(pids) else [])]
        if previous.is_file():
            config = previous.read_text(encoding="utf-8")
    _write(previous, config)
    return config, words


def _orphan(path: Path) -> int | None:
    """An HAProxy on this configuration whose proxy actor is gone."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(path).encode() in words and words[0].endswith(b"haproxy") and int(directory.name) != os.getpid():
            return int(directory.name)
    return None


def _replaced(text: str, pattern: str, by: str | Callable[[re.Match[str]], str]) -> str:
    text, count = re.subn(pattern, by, text, flags=re.MULTILINE)
    if count != 1:
        raise TemplateChanged(
            f"{count} lines match {pattern!r}, not 1; this version of Ray has another template, use the pinned one"
        )
    return text


def _check(text: str) -> None:
    """Refuse what is open to others in any line, known or not."""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("stats socket") and " mode 600 " not in line:
            raise TemplateChanged(f"the line {line!r} opens an admin socket to other users")
    for section in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        name, *lines = section.splitlines() or [""]
        binds = [line.split()[1] for line in lines if line.strip().startswith("bind ")]
        is_public = name in ("frontend http_frontend", "frontend grpc_frontend")
        if not is_public and any(not bind.startswith("127.0.0.1:") for bind in binds):
            raise TemplateChanged(f"{name!r} listens on {binds[0]}, which other hosts can reach")


def _max_connections(rendered: str) -> int:
    found = re.search(r"^ *maxconn (\d+)$", rendered, flags=re.MULTILINE)
    if not found:
        raise TemplateChanged("there is no line `maxconn NUMBER`; use the pinned version of Ray")
    return int(found[1])


def _defaults(pages: Path) -> str:
    lines = [
        f"timeout http-request {HEADER_TIMEOUT_S}s",
        f"timeout tunnel {STREAM_TIMEOUT_S}s",
        "option http-buffer-request",
        *(f"errorfile {status} {pages / f'{status}.http'}" for status in PROBLEMS),
    ]
    return "\n".join(f"    {line}" for line in lines)


def _limits(max_connections: int) -> str:
    lines = [
        "stick-table type ipv6 size 100k expire 1m store conn_cur",
        "tcp-request connection track-sc0 src",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {int(max_connections * ADDRESS_SHARE)} }}",
        *(
            f"http-response {_answer(status, PROBLEMS[status])}"
            f" if {{ status {theirs} }} {{ res.hdr(content-type) -m beg text/plain }}"
            for theirs, status in FROM_SERVE.items()
        ),
    ]
    return "\n".join(f"    {line}" for line in lines)


def _answer(status: int, detail: str) -> str:
    """The words of a rule that answers a problem."""
    retry = f" hdr Retry-After {RETRY_AFTER_S}" if status in (429, 503) else ""
    quoted = _problem(status, detail).replace("'", "'\\''")
    return f"return status {status} content-type application/problem+json string '{quoted}'{retry}"


def _unavailable() -> str:
    return f"http-request {_answer(503, PROBLEMS[503])}"


def _problem(status: int, detail: str) -> str:
    return json.dumps({"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail})


def _page(status: int, detail: str) -> str:
    body = _problem(status, detail)
    headers = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        *([f"Retry-After: {RETRY_AFTER_S}"] if status in (429, 503) else []),
    ]
    return "\r\n".join([*headers, "", body])


def _write_pages(directory: Path) -> None:
    for name, content in error_pages().items():
        _write(directory / name, content)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
