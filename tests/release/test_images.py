"""The Dockerfile, the compose file and the kustomize base, as far as they can be checked without an engine."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import healthcheck
from release.lock import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
KUBERNETES = ROOT / "docs" / "kubernetes"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


class Answers(http.server.BaseHTTPRequestHandler):
    """200 for /well, 503 for all else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def process(directory: Path, pid: int, *words: str) -> None:
    (directory / str(pid)).mkdir()
    (directory / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in words))


def objects() -> list[dict[str, Any]]:
    """All resources of the kustomize base."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return [each for name in names for each in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))]


def test_the_image_runs_as_a_user_who_cannot_change_the_code_and_has_a_health_check() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    last = stages[-1]

    assert len(stages) == 4, "what builds it is not in the image"
    assert re.search(r"^USER 1000$", last, re.M) and re.search(r"^HEALTHCHECK ", last, re.M)
    assert "--chown" not in last
    assert "TORCH=cpu" in stages[1]


def test_the_image_is_installed_by_the_same_script_as_a_checkout() -> None:
    assert 'release/install /opt/shopkeeper "$TORCH" packages' in DOCKERFILE
    assert "release/install $(VENV) $(TORCH)" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_only_what_the_dockerfile_copies_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for word in line.split()}

    assert "*" in ignored, "a host's .venv must not get into the image"
    assert {name for name in copied if not any(name == each or name.startswith(f"{each}/") for each in sent)} == set()
    assert all((ROOT / name).exists() for name in sent)


def test_every_image_is_named_by_the_version_of_this_project() -> None:
    suffixes = {".yaml", ".md", ".sh"}
    files = [path for each in ("deploy", "docs") for path in (ROOT / each).rglob("*") if path.suffix in suffixes]
    texts = {path: path.read_text(encoding="utf-8") for path in [*files, ROOT / "Dockerfile", ROOT / "README.md"]}

    tags = {
        (path.name, tag)
        for path, text in texts.items()
        for tag in re.findall(r"(?:\bshopkeeper:|newTag: )(\d+\.\d+\.\d+)", text)
    }

    assert {tag for _, tag in tags} == {VERSION}, tags
    assert {"Dockerfile", "compose.yaml", "kustomization.yaml", "rayjob.yaml", "images.md"} <= {
        name for name, _ in tags
    }


def test_a_container_is_healthy_while_what_runs_in_it_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        healthcheck, "URLS", {"raylet": f"{url}/well", "mlflow": f"{url}/ill", "gcs_server": f"{url}/ill"}
    )

    for programs, exit_code in [(set(), 0), ({"raylet"}, 0), ({"raylet", "mlflow"}, 1), ({"sh"}, 0)]:
        monkeypatch.setattr(healthcheck, "running", lambda programs=programs: programs)
        assert healthcheck.main() == exit_code, programs


def test_a_health_check_knows_programs_by_their_name_or_script(tmp_path: Path) -> None:
    process(tmp_path, 7, "/opt/shopkeeper/lib/ray/core/src/ray/raylet/raylet", "--port=1")
    process(tmp_path, 8, "/opt/shopkeeper/bin/python", "/opt/shopkeeper/bin/mlflow", "server")
    (tmp_path / "9").mkdir()

    assert {"raylet", "mlflow"} <= healthcheck.running(tmp_path)


def test_an_address_where_nothing_listens_is_a_fault() -> None:
    assert "does not answer" in healthcheck.fault_of("http://127.0.0.1:9/")


def test_compose_publishes_loopback_only_and_keeps_secrets_out_of_the_file() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]

    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert not [value for key, value in service.get("environment", {}).items() if key.endswith("PASSWORD")], name
        mounted = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert mounted <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_every_ray_process_of_the_compose_file_requires_the_token() -> None:
    for name in ("head", "worker", "shopkeeper"):
        assert COMPOSE["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert "ray_token" in COMPOSE["services"][name]["secrets"]
    assert COMPOSE["services"]["head"]["environment"]["RAY_REDIS_ADDRESS"] == "redis:6379"


def test_the_commands_of_the_compose_file_are_valid() -> None:
    pytest.importorskip("torch", reason="a command line is read with all families")
    from jobs.__main__ import read

    text = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    words = re.findall(r"run --rm shopkeeper (.*)$", text, re.M)[0].split()

    invocation = read([*words[:1], "--address", "http://head:8265", *words[1:]])

    assert invocation.verb == "submit"


def test_the_secrets_are_made_once_and_closed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    texts = []
    for _ in range(2):
        subprocess.run([ROOT / "deploy" / "secrets.sh", folder], check=True)
        texts.append({path.name: path.read_text() for path in folder.iterdir()})

    assert texts[0] == texts[1]
    assert set(texts[0]) == set(COMPOSE["secrets"])
    assert all(re.fullmatch(r"[0-9a-f]{64}", text) for text in texts[0].values())
    assert folder.stat().st_mode & 0o077 == 0


def test_every_claim_secret_and_service_that_the_kustomize_base_names_is_in_it() -> None:
    found = objects()
    text = yaml.safe_dump_all(found)
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))
    claims = {each["metadata"]["name"] for each in found if each["kind"] == "PersistentVolumeClaim"}
    services = {each["metadata"]["name"] for each in found if each["kind"] == "Service"}
    keys = {Path(file).name for each in kustomization["secretGenerator"] for file in each["files"]}

    assert set(re.findall(r"claimName: (\S+)", text)) <= claims
    assert set(re.findall(r"\bkey: (\w+_password)", text)) <= keys
    assert "redisAddress: redis:6379" in kustomization["patches"][0]["patch"]
    assert {"redis", "mlflow", "postgres"} <= services
    assert "http://mlflow:5000" in (KUBERNETES / "rayjob.yaml").read_text(encoding="utf-8")


def test_the_namespace_is_closed_and_each_server_is_open_to_its_clients_only() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in objects() if each["kind"] == "NetworkPolicy"}

    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name in ("mlflow", "postgres", "redis"):
        assert policies[name]["podSelector"] == {"matchLabels": {"app": name}}
        for rule in policies[name]["ingress"]:
            assert rule["ports"] and all("podSelector" in each and each["podSelector"] for each in rule["from"])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl here")
def test_kustomize_renders_the_base_with_fault_tolerance_of_the_control_service(tmp_path: Path) -> None:
    base = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, base)
    subprocess.run([ROOT / "deploy" / "secrets.sh", base / "secrets"], check=True)

    done = subprocess.run(["kubectl", "kustomize", base], capture_output=True, text=True, check=True)

    rendered = list(yaml.safe_load_all(done.stdout))
    (service,) = [each for each in rendered if each["kind"] == "RayService"]
    assert service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    assert {each["metadata"]["namespace"] for each in rendered} == {"shopkeeper"}
    images = set(re.findall(r"image: (\S+)", done.stdout))
    assert images == {f"shopkeeper:{VERSION}", "postgres:17-bookworm", "redis:7.2-bookworm"}
