"""Nodes for Ray's first autoscaler that are processes of this machine, each with a folder of its own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Provider: Any = importlib.import_module("ray.autoscaler._private.fake_multi_node.node_provider").FakeMultiNodeProvider
OBJECT_STORE_BYTES = 150_000_000


class FakeNodes(Provider):  # type: ignore[misc, no-any-unimported]
    """Ray's fake provider starts a node within the autoscaler, in the folder of the head, unlike on a real machine:

    nodes that share the folder of unpacked code delete it under each other's jobs.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        # In the head's own environment it would fix the id of the head's node, which could then not start again.
        os.environ["RAY_FAKE_CLUSTER"] = "1"
        super().__init__(provider_config, cluster_name)

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        from ray.autoscaler.tags import STATUS_UP_TO_DATE, TAG_RAY_NODE_NAME, TAG_RAY_NODE_STATUS

        with self.lock:
            node_id = self._next_hex_node_id()
            amounts = dict(resources)
            folder = Path(self.provider_config["folder"]) / node_id[-5:]
            # On one machine Ray looks for the log of any job in the folder of the head.
            session = (Path(self.provider_config["folder"]) / "r" / "session_latest").resolve()
            (folder / session.name).mkdir(parents=True)
            (folder / session.name / "logs").symlink_to(session / "logs")
            command = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--address={self._gcs_address}"]
            command += [f"--num-cpus={amounts.pop('CPU', 0):g}", f"--num-gpus={amounts.pop('GPU', 0):g}"]
            command += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--resources={json.dumps(amounts)}"]
            command += [f"--node-ip-address=127.0.1.{int(node_id[-5:])}"]
            command += ["--dashboard-agent-listen-port=0", f"--temp-dir={folder}", "--disable-usage-stats"]
            command += ["--include-log-monitor=False"]  # that of the head reads all of them there
            environment = {**os.environ, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id, "CUDA_VISIBLE_DEVICES": ""}
            with (folder / "ray.log").open("wb") as log:
                node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            own = {TAG_RAY_NODE_NAME: node_id, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
            self._nodes[node_id] = {"tags": {**tags, **own}, "node": node}

    def _terminate_node(self, node: dict[str, Any]) -> None:
        node["node"].terminate()
