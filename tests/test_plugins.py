"""Families and networks of other packages: they work end to end, and broken ones break nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.context import Store
from models import FAMILIES, bundle
from models.errors import BundleRejected, PluginRejected
from models.prepared import Prepared
from tests.conftest import CHECKOUT, write_visitors
from tests.kit import toy
from tests.kit.packages import NETWORKS, install

Run = Callable[..., subprocess.CompletedProcess[str]]
MINE = {"recommender.mine": "my_networks:build_mine", "image.spots": "my_networks:build_spots"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages, which only the processes of `run` see."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Runs Python with the packages of `site` installed, in a folder that is not the checkout's."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{site}:{CHECKOUT}", "COLUMNS": "200"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def install_toy(site: Path, *, name: str = "toy") -> None:
    """The toy family as a package that knows nothing of our tests."""
    source = Path(toy.__file__).read_text(encoding="utf-8")
    assert "from tests" not in source
    install(
        site,
        "toy-shop",
        groups={"shopkeeper.families": {name: "toy_shop:FAMILY"}},
        modules={"toy_shop.py": source},
    )


def test_a_family_of_another_package_has_all_verbs_and_flags(site: Path, run: Run, tmp_path: Path) -> None:
    install_toy(site)
    raw = write_visitors(tmp_path / "visitors.csv")

    prepared = run("-m", "jobs", "prepare", "toy", "--raw", str(raw), "--store", str(tmp_path / "store"), "--json")
    helped = run("-m", "jobs", "train", "toy", "--help")

    assert prepared.returncode == 0, prepared.stderr
    assert json.loads(prepared.stdout)["family"] == "toy"
    assert (tmp_path / "store" / "toy" / "data" / "CURRENT").is_file()
    assert "linear, hidden, majority" in " ".join(helped.stdout.split())


@pytest.mark.ray
def test_a_family_of_another_package_is_trained_by_workers(
    site: Path, run: Run, store: Store, toy_data: Prepared
) -> None:
    install_toy(site)
    settings = ("--epochs", "3", "--learning-rate", "0.1", "--store", str(store.root))

    trained = run("-m", "jobs", "train", "toy", *settings, "--json")

    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["metrics"]["val_accuracy"] > 0.5


def test_families_that_cannot_be_had_cost_a_warning_each_that_names_their_package(site: Path, run: Run) -> None:
    install_toy(site)
    source = Path(toy.__file__).read_text(encoding="utf-8").replace('name="toy"', 'name="image"')
    broken = {"loyalty": "bad_shop:FAMILY", "speech": "bad_text:FAMILY"}
    renamed = {"image": "bad_image:FAMILY", "pictures": "bad_image:FAMILY"}
    modules = {
        "bad_shop.py": "import a_module_that_is_missing",
        "bad_text.py": "FAMILY = 'speech'",
        "bad_image.py": source,
    }
    install(site, "bad-shop", groups={"shopkeeper.families": {**broken, **renamed}}, modules=modules)

    found = run("-m", "jobs", "train", "loyalty")
    ours = run("-c", "from models import FAMILIES; print(FAMILIES['image'].Config.__module__)")

    assert found.returncode == 2 and "unknown family 'loyalty'" in found.stderr
    assert "image, pricing, recommender, reviews, toy" in found.stderr
    assert ours.stdout.strip() == "models.image.config"
    warnings = [line.partition(" the family ")[2] for line in found.stderr.splitlines() if "bad-shop" in line]
    assert warnings == [
        "'image' of the package bad-shop (bad_image:FAMILY) is left out: there is a family of that name already; "
        "rename it",
        "'loyalty' of the package bad-shop (bad_shop:FAMILY) cannot be loaded: "
        "ModuleNotFoundError: No module named 'a_module_that_is_missing'; correct or uninstall bad-shop",
        "'pictures' of the package bad-shop (bad_image:FAMILY) is called 'image'; name the entry point like the family",
        "'speech' of the package bad-shop (bad_text:FAMILY) is a str, not a Family",
    ]


def test_a_package_that_exits_on_import_costs_one_warning_and_not_the_result(site: Path, run: Run) -> None:
    modules = {
        "bad_exit.py": "import sys; print('a package talks'); sys.exit()",
        "bad_lines.py": "raise ValueError('first\\nsecond')",
    }
    families = {"leaving": "bad_exit:FAMILY", "wordy": "bad_lines:FAMILY"}
    install(site, "bad-shop", groups={"shopkeeper.families": families}, modules=modules)

    found = run("-m", "jobs", "train", "recommender", "--dry-run", "--json")

    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["status"] == "dry-run"
    leaving, wordy = [line for line in found.stderr.splitlines() if "cannot be loaded" in line]
    assert "'leaving' of the package bad-shop (bad_exit:FAMILY) cannot be loaded: SystemExit" in leaving
    assert "ValueError: first second; correct or uninstall bad-shop" in wordy


def test_a_package_cannot_take_the_place_of_a_network_of_ours(site: Path, run: Run) -> None:
    taken = {**MINE, "recommender.popularity": "my_networks:build_mine"}
    install(site, "my-networks", groups={"shopkeeper.networks": taken}, modules={"my_networks.py": NETWORKS})
    asked = "[origin('recommender', name) for name in ('popularity', 'mine')]"

    found = run(
        "-c", f"from models import FAMILIES; from models.plugins import origin; FAMILIES['recommender']; print({asked})"
    )

    assert found.stdout.strip() == "[None, 'my-networks==1.2']"


def test_a_package_may_be_imported_before_the_families_are_asked_for(site: Path, run: Run) -> None:
    install_toy(site)

    found = run("-c", "import toy_shop; from models import FAMILIES; print(FAMILIES['toy'] is toy_shop.FAMILY)")

    assert (found.stdout.strip(), found.stderr) == ("True", "")


@pytest.mark.parametrize("full_name", MINE)
def test_a_network_of_another_package_is_trained_bundled_and_asked(
    full_name: str, site: Path, run: Run, tmp_path: Path
) -> None:
    install(site, "my-networks", groups={"shopkeeper.networks": MINE}, modules={"my_networks.py": NETWORKS})
    family, network = full_name.split(".")
    call = f"train_and_ask({family!r}, {network!r}, {str(tmp_path)!r})"

    found = run("-c", f"from tests.test_plugins import train_and_ask; {call}")

    assert found.returncode == 0, found.stderr
    content = json.loads(found.stdout)
    assert content["epochs"] == [0, 1] and content["answers"] == content["asked"] > 0
    assert content["learns"], "a parameter of the package's own module must have changed"
    with pytest.raises(BundleRejected, match=f"network '{network}' of another package.*pip install my-networks==1.2"):
        bundle.load(tmp_path / "run" / "best", FAMILIES[family])


def train_and_ask(name: str, network: str, directory: str) -> None:
    """What the test above does where the package is installed: the pipeline, as for a network of ours."""
    from jobs.training.distributed import WorkerContext
    from jobs.training.loop import run_training
    from models.ask import Answerer
    from tests.test_contract import prepared, shorten

    family, root = FAMILIES[name], Path(directory)
    assert family.sample is not None
    sample = family.sample(root / "raw")
    shorten(Path(sample.prepare["raw"]), num_rows=1500)
    data = prepared(family, sample, root / "data", num_threads=1)
    config = family.Config(**{**sample.train, "network": network, "epochs": 1})
    reports: list[Any] = []
    run_training(
        family, config=config, data=data, directory=root / "run", worker=WorkerContext(), report=reports.append
    )
    before, loaded = (
        bundle.load(root / "run" / part, family) for part in ("checkpoints/epoch_0000", "checkpoints/epoch_0001")
    )
    own = [key for key, value in loaded.network.state_dict().items() if "mix" in key or "trunk" in key]
    answerer = Answerer(family, family.endpoints[0], loaded.network, loaded.schema, "1")
    requests = [family.endpoints[0].Request.model_validate(question.request) for question in sample.questions]
    found = {
        "epochs": [report["epoch"] for report in reports],
        "asked": len(requests),
        "answers": sum(answerer(request) is not None for request in requests),
        "learns": any(not loaded.network.state_dict()[key].equal(before.network.state_dict()[key]) for key in own),
    }
    sys.stdout.write(json.dumps(found))


def test_the_help_shows_networks_of_other_packages_and_a_wrong_name_lists_them(site: Path, run: Run) -> None:
    taken = {**MINE, "recommender.gru": "my_networks:build_mine", "recommender.text": "my_networks:build_text"}
    install(site, "my-networks", groups={"shopkeeper.networks": taken}, modules={"my_networks.py": NETWORKS})

    helped = run("-m", "jobs", "train", "recommender", "--help")
    refused = run("-m", "jobs", "train", "recommender", "--network", "mien")

    assert "popularity, item_knn, mine, text]" in " ".join(helped.stdout.replace("│", " ").split())
    assert "the network 'recommender.gru' of the package my-networks (my_networks:build_mine) is left out" in (
        helped.stderr
    )
    assert refused.returncode == 2 and "mine" in refused.stderr.splitlines()[-1]


def test_a_network_that_is_broken_or_none_is_refused_where_it_is_built(site: Path, run: Run) -> None:
    networks = {"recommender.text": "my_networks:build_text", "recommender.gone": "my_networks:build_gone"}
    install(site, "my-networks", groups={"shopkeeper.networks": networks}, modules={"my_networks.py": NETWORKS})

    found = run("-c", "from tests.test_plugins import print_refusals; print_refusals('text', 'gone')")

    text, gone = found.stdout.splitlines()
    assert text == "the network 'text' made a str without parameters, forward, loss, log_scores, items"
    assert gone.startswith(
        "the network 'recommender.gone' of the package my-networks (my_networks:build_gone) cannot be loaded: "
    )
    assert gone.endswith("correct or uninstall my-networks")


def print_refusals(*networks: str) -> None:
    """What the recommender says when it is to build each of them."""
    from models.recommender.config import Config
    from models.recommender.networks.build import build
    from models.recommender.schema import Schema

    sizes: dict[str, Any] = {"num_shards": 1, "num_examples": {}, "item_counts": [1], "item_first_seen": [0]}
    schema = Schema(family="recommender", fingerprint="", split="time", items=["a"], train_until=0, **sizes)
    for network in networks:
        try:
            build(Config(network=network), schema)
        except PluginRejected as error:
            sys.stdout.write(f"{error}\n")
