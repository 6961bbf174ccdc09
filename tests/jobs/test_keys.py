"""`shopkeeper keys`, and what `deploy` does with keys; without a cluster."""

from __future__ import annotations

import json
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import deploy, keys
from jobs.__main__ import main
from jobs.cli.context import Context, Failure, Outcome, Store, UsageFailure
from jobs.deploy import Options as DeployOptions
from jobs.keys import DAY_S, Options
from jobs.serving.access import (
    Access,
    access_settings,
    changed_keys,
    check_guarded,
    ensure_internal_key,
    internal_key,
    is_loopback,
)
from jobs.serving.config import PinnedModel, Size, application, empty_config, user_config, with_application
from models import FAMILIES
from models.keys import INTERNAL, make_key, read_keys, write_keys
from serve.service import Settings
from tests.kit.shop import SHOP


def run(store: Store, *command: str, **options: Any) -> Outcome:
    return keys.run(Context(store=store), None, Options(command=command, **options), None)


def stored(store: Store) -> dict[str, Any]:
    found = read_keys(store.keys)
    assert found is not None
    return {key.id: key for key in found.by_id.values() if key.name != INTERNAL}


def is_valid(store: Store, secret: str) -> bool:
    found = read_keys(store.keys)
    key = found.find(secret.encode()) if found is not None else None
    return key is not None and key.is_valid(time.time())


def test_a_created_key_works_and_its_secret_is_in_no_file(store: Store) -> None:
    made = run(store, "create", "web", scopes=("events", "read"), rate="120/min").details

    assert is_valid(store, made["key"])
    assert (made["scopes"], made["requests_per_s"], made["ends"]) == (["read", "events"], 2.0, None)
    secret = made["key"].rpartition(made["id"])[2]
    assert not [path for path in store.root.rglob("*") if path.is_file() and secret in path.read_text()]
    assert len(secret) > 40, "it must not be guessable"


def test_no_two_secrets_are_alike(store: Store) -> None:
    made = [run(store, "create", f"web{number}", scopes=("read",)).details for number in range(5)]

    assert len({one["key"] for one in made}) == len({one["id"] for one in made}) == 5


def test_key_files_are_for_their_owner_only(store: Store) -> None:
    run(store, "create", "web", scopes=("read",))
    store.keys.chmod(0o644)
    run(store, "create", "other", scopes=("read",))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.root.iterdir()}
    assert modes == {"keys.json": 0o600, "internal-key": 0o600}


def test_the_list_shows_no_secret_and_no_hash(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(store, "create", "web", scopes=("read",)).details

    assert main(["keys", "list", "--store", str(store.root), "--json"]) == 0
    assert main(["keys", "list", "--store", str(store.root)]) == 0

    shown = capsys.readouterr().out
    assert made["id"] in shown
    assert made["key"] not in shown
    assert all(key.sha256 not in shown for key in stored(store).values())


def test_a_revoked_key_is_gone(store: Store) -> None:
    made = run(store, "create", "web", scopes=("read",)).details

    outcome = run(store, "revoke", made["id"])

    assert not is_valid(store, made["key"])
    assert "no key of a client is left" in (outcome.summary or "")
    assert store.keys.is_file(), "without the file the endpoint would be open after a restart"


def test_rotation_keeps_both_keys_valid_until_the_old_one_ends(store: Store) -> None:
    old = run(store, "create", "web", scopes=("read", "events"), rate="50/s").details

    new = run(store, "rotate", "web", overlap_days=2.0).details

    assert is_valid(store, old["key"])
    assert is_valid(store, new["key"])
    assert (new["scopes"], new["requests_per_s"]) == (["read", "events"], 50.0)
    ends_s = stored(store)[old["id"]].ends_s
    assert ends_s == pytest.approx(time.time() + 2 * DAY_S, abs=600)
    assert not stored(store)[old["id"]].is_valid(ends_s)
    with pytest.raises(UsageFailure, match="two keys web are valid already"):
        run(store, "rotate", "web")


def test_rotation_without_overlap_ends_the_old_key_at_once(store: Store) -> None:
    old = run(store, "create", "web", scopes=("read",)).details

    run(store, "rotate", "web", overlap_days=0.0)

    assert not is_valid(store, old["key"])


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ((), {}, "nothing was given"),
        (("make", "web"), {}, "got 'make web'"),
        (("create",), {}, "say what to do"),
        (("create", "a b"), {"scopes": ("read",)}, "cannot be a key's name"),
        (("create", INTERNAL), {"scopes": ("read",)}, "cannot be a key's name"),
        (("create", "web"), {}, "such as --scopes read,events"),
        (("create", "taken"), {"scopes": ("read",)}, "keys rotate taken"),
        (("revoke", "00000000"), {}, "no key with the id '00000000'"),
        (("rotate", "nobody"), {}, "no valid key nobody"),
        (("rotate", INTERNAL), {}, "verbs' own key"),
        (("list", "--all"), {}, "unknown flag --all"),
    ],
)
def test_a_wrong_command_is_named_and_changes_nothing(
    store: Store, command: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    run(store, "create", "taken", scopes=("read",))
    before = store.keys.read_bytes()

    with pytest.raises(UsageFailure, match=message):
        run(store, *command, **options)

    assert store.keys.read_bytes() == before


@pytest.mark.parametrize(
    "wrong", [{"scopes": ("write",)}, {"rate": "50"}, {"rate": "0/s"}, {"rate": "-1/s"}, {"overlap_days": -1.0}]
)
def test_wrong_flags_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        Options(**wrong)


def test_a_damaged_file_is_not_overwritten(store: Store) -> None:
    store.root.mkdir()
    store.keys.write_text('{"version": 1}')

    with pytest.raises(Failure, match=r"keys\.json is not a file of keys \(keys: Field required\)"):
        run(store, "create", "web", scopes=("read",))

    assert store.keys.read_text() == '{"version": 1}'


def test_keys_that_are_created_at_the_same_time_are_all_kept(store: Store) -> None:
    threads = [
        threading.Thread(target=run, args=(store, "create", f"web{number}"), kwargs={"scopes": ("read",)})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(stored(store)) == 8


def test_the_internal_key_can_only_read_and_is_replaced_when_it_is_lost_or_revoked(store: Store) -> None:
    assert internal_key(store) is None
    ensure_internal_key(store)
    assert not store.keys.exists(), "a key of ours must not close an endpoint that is open"

    run(store, "create", "web", scopes=("read",))
    first = internal_key(store)
    store.internal_key.unlink()
    ensure_internal_key(store)
    second = internal_key(store)

    assert first is not None and second is not None and first != second
    assert not is_valid(store, first)
    found = read_keys(store.keys)
    assert found is not None
    key = found.find(second.encode())
    assert key is not None and key.scopes == {"read"}
    run(store, "revoke", key.id)
    assert internal_key(store) not in (first, second, None)


def test_keys_that_ended_long_ago_are_forgotten(store: Store) -> None:
    ended, _ = make_key("web", scopes=["read"])
    store.root.mkdir()
    write_keys(store.keys, [ended.model_copy(update={"ends_s": 1000.0})])

    with changed_keys(store):
        pass

    assert stored(store) == {}


# Deploying


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("shop.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_an_address_is_loopback_only_if_no_other_machine_reaches_it(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_an_endpoint_for_other_machines_is_refused_without_a_key(store: Store, host: str) -> None:
    with pytest.raises(UsageFailure, match=r"keys create NAME --scopes read.* --unguarded"):
        deploy.run(Context(store=store), SHOP, DeployOptions(host=host), None)

    assert not store.root.exists(), "it is refused before anything is done"


def test_keys_are_required_off_loopback_and_wherever_there_are_some(store: Store) -> None:
    def requires(host: str, *, unguarded: bool = False) -> Any:
        return access_settings(store, Access(host, unguarded))["requires_keys"]

    assert (requires("127.0.0.1"), requires("0.0.0.0"), requires("0.0.0.0", unguarded=True)) == (False, True, False)
    run(store, "create", "web", scopes=("read",))
    assert requires("127.0.0.1") and requires("0.0.0.0") and requires("0.0.0.0", unguarded=True)


def test_the_service_understands_the_settings_that_deploy_renders(store: Store, tmp_path: Path) -> None:
    rendered = access_settings(store, Access("0.0.0.0", request_log=str(tmp_path / "log"), request_log_sample=0.5))

    settings = Settings.model_validate({"version": "1", "bundle": "b", **rendered})

    assert (settings.keys, settings.requires_keys) == (store.keys, True)
    assert settings.log_settings is not None
    assert (settings.log_settings.path, settings.log_settings.sample) == (tmp_path / "log", 0.5)
    assert json.loads(json.dumps(rendered)) == rendered


def test_a_share_of_the_requests_is_between_0_and_1() -> None:
    with pytest.raises(ValueError, match="--request-log-sample 2"):
        DeployOptions(request_log_sample=2.0)


def test_a_later_deployment_keeps_the_request_log_and_an_unguarded_address_until_there_are_keys(store: Store) -> None:
    family = FAMILIES["recommender"]
    model = PinnedModel("1", store.serve / "models" / "recommender" / "1", "d")

    def deployed(before: Any, **flags: Any) -> Any:
        access = deploy._access(family, DeployOptions(**flags), before)
        check_guarded(Context(store=store), access)
        made = application(family, model, feature_store=None, size=Size())
        made["deployments"][0]["user_config"] |= access_settings(store, access)
        return with_application(empty_config(host=access.host, port=8000), made)

    def said(config: Any) -> tuple[Any, ...]:
        settings = user_config(config, family)
        return settings["requires_keys"], settings["request_log"], settings["request_log_sample"]

    first = deployed(None, host="0.0.0.0", unguarded=True, request_log="/logs", request_log_sample=0.5)
    assert said(deployed(first)) == said(first) == (False, "/logs", 0.5)
    assert said(deployed(first, request_log="none")) == (False, None, 0.5)
    with pytest.raises(UsageFailure, match="--unguarded"):
        deployed(first, host="192.0.2.1")
    run(store, "create", "web", scopes=("read",))
    assert said(deployed(first))[0] is True
