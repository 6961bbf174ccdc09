"""The root process of a local cluster: runs Ray, stands in for a dead HAProxy, and leaves nothing behind.

`ray start` ends when one of Ray's processes dies, but HAProxy would live on, keep the port and answer 500.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from jobs.cluster import private
from jobs.cluster.drain import drain
from jobs.cluster.haproxy import PREVIOUS, RECORD, SUBSTITUTE, listens_at, live_process, substitute_config
from jobs.cluster.processes import end_members, ended_with_parent, prctl_of_linux

POLL_S = 0.25
RAY_TIMEOUT_S = 10.0
MEMBERS_TIMEOUT_S = 3.0
MIN_PAUSE_S, MAX_PAUSE_S = 2.0, 60.0
"""Between two attempts to start a substitute; it grows while they fail."""
PR_SET_CHILD_SUBREAPER = 36
TAIL_LINES = 10
HAPROXY = "h"
"""The directory of HAProxy's files below the private one; short, see `private.MAX_PARENT_LENGTH`."""
RAY = "r"
"""Ray's directory below the private one."""

log = logging.getLogger("shopkeeper.cluster")


class Keeper:
    """Watches one cluster until it ends or is to end."""

    def __init__(self, directory: Path, haproxy: str, command: Sequence[str]) -> None:
        self._directory, self._haproxy, self._command = directory, haproxy, command
        self._stopping = False
        self._substitutes: dict[Path, subprocess.Popen[bytes]] = {}
        self._next_attempt_s, self._pause_s = 0.0, MIN_PAUSE_S

    def run(self) -> int:
        """Run the cluster; returns 0 if it was stopped, 1 if it died. Its processes and its directory are gone then."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if (prctl := prctl_of_linux()) is not None:
            prctl(PR_SET_CHILD_SUBREAPER, 1)  # processes that lose their parent become ours, and are reaped
        ray = subprocess.Popen(self._command, preexec_fn=ended_with_parent())
        while not self._stopping and ray.poll() is None:
            self._check_haproxy()
            self._reap(ray)
            time.sleep(POLL_S)
        if not self._stopping:
            log.error("the Ray cluster ended by itself with exit code %s", ray.returncode)
            self._log_ends()
        else:
            self._drain()
        ray.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ray.wait(timeout=RAY_TIMEOUT_S)
        num_ended = end_members(self._directory, timeout_s=MEMBERS_TIMEOUT_S)
        log.info("the cluster has ended; %d of its processes were left and were ended", num_ended)
        private.remove(self._directory)
        return 0 if self._stopping else 1

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _drain(self) -> None:
        """Answer the requests under way; a substitute has none that succeeds."""
        for substitute in self._substitutes.values():
            substitute.terminate()
        drain(os.getpid())

    def _reap(self, ray: subprocess.Popen[bytes]) -> None:
        known = {ray.pid, *(each.pid for each in self._substitutes.values())}
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in known:  # their Popen does it
                    break
                os.waitpid(ended.si_pid, 0)
        for substitute in self._substitutes.values():
            substitute.poll()

    def _check_haproxy(self) -> None:
        """Start a substitute where an HAProxy has died and nothing listens on its port."""
        for record in self._directory.glob(f"{HAPROXY}/*/{RECORD}"):
            if live_process(record) is not None:
                self._pause_s = MIN_PAUSE_S
            elif time.monotonic() >= self._next_attempt_s:
                substitute = self._substitutes.get(record.parent)
                if substitute is None or substitute.poll() is not None:
                    self._substitute(record)

    def _substitute(self, record: Path) -> None:
        try:
            config = (record.parent / PREVIOUS).read_text(encoding="utf-8")
        except OSError:
            return
        if (address := listens_at(config)) is None or _is_answered(*address):
            return
        self._next_attempt_s, self._pause_s = time.monotonic() + self._pause_s, min(2 * self._pause_s, MAX_PAUSE_S)
        path = record.with_name(f"{SUBSTITUTE}.cfg")
        path.write_text(substitute_config(config), encoding="utf-8")
        process = subprocess.Popen([self._haproxy, "-db", "-dR", "-f", str(path)], stdin=subprocess.DEVNULL)
        record.with_name(f"{SUBSTITUTE}.pid").write_text(str(process.pid), encoding="utf-8")
        self._substitutes[record.parent] = process
        log.warning("HAProxy has died; process %d answers in its place until Ray starts another", process.pid)

    def _log_ends(self) -> None:
        """The last lines of the processes that everything else depends on, since their logs are removed."""
        for name in ("gcs_server", "raylet"):
            for path in self._directory.glob(f"{RAY}/session_*/logs/{name}.*"):
                if path.parent.parent.is_symlink():
                    continue
                with contextlib.suppress(OSError):
                    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
                    log.info("the end of %s:\n%s", path.name, "\n".join(lines))


def _is_answered(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    sys.exit(Keeper(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]).run())
