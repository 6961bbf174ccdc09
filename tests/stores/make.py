"""Creates the archive of this release: a small store, models of every network and their answers.

Run it once per release, at its tag. The archive of 0.1.0 was made by an earlier version of this script.
"""

from __future__ import annotations

import json
import lzma
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

RELEASE = metadata.version("shopkeeper")
ARCHIVE = Path(__file__).resolve().with_name(f"{RELEASE}.tar.xz")
ROOT = Path(f"/tmp/shopkeeper-store-{RELEASE}")
STORE, BUNDLES, RAW, SCRATCH = ROOT / "store", ROOT / "bundles", ROOT / "raw", ROOT / "scratch"
PORT = 18411
FAMILIES = ("recommender", "image")

MAKE_RAW = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, torch
from safetensors.torch import save_file
from models.image.codec import encode_png
from models.image.networks.backbone import Backbone
from models.image.sample import write_sample as write_pictures
from models.recommender.sample import write_sample as write_log

raw, requests = Path(sys.argv[1]), Path(sys.argv[2])
shop = write_log(raw, num_users=60, num_items=40, num_events=900)
pictures = pq.read_table(write_pictures(raw, num_products=160))
rows = zip(pictures["type"].to_pylist(), pictures["colour"].to_pylist())
titles = [f"Alder {colour} {kind}" if place % 3 else f"{colour} {kind}" for place, (kind, colour) in enumerate(rows)]
pq.write_table(pictures.append_column("title", pa.array(titles)), raw / "titled.parquet")

# An autoencoder's table of edges is large, and small when packed only where most of a picture has none.
dots = {"image": [], "type": [], "colour": [], "split": []}
for place in range(96):
    picture, colour = np.full((3, 8, 8), 96 + place, np.uint8), place % 3
    picture[colour, 0, 0] = 250 if place % 2 else 10
    dots["image"].append(encode_png(picture))
    dots["type"].append("Light" if place % 2 else "Dark")
    dots["colour"].append(("Red", "Green", "Blue")[colour])
    dots["split"].append("train" if place < 64 else "val" if place < 80 else "test")
pq.write_table(pa.table(dots), raw / "dots.parquet")

requests.mkdir()
first, second = shop.regulars[:2]
table = {
    "user_id": [first, second, "nobody", None, None],
    "history": [None, None, None, list(shop.followers)[:3], None],
    "count": [5, 3, 2, 4, 3],
}
pq.write_table(pa.table(table), requests / "recommender.parquet")
pq.write_table(pictures.slice(8, 3).select(["item_id", "image"]), requests / "image.parquet")

# As large as a real one, and next to nothing when packed: each tensor repeats one short row of numbers.
pattern = np.random.default_rng(0).normal(size=509).astype(np.float32)
weights = {}
for name, value in Backbone("resnet18", size=32).state_dict().items():
    if name != "sha256" and value.ndim == 4:
        scale = np.float32((2 / value[0].numel()) ** 0.5)
        value = torch.from_numpy(np.resize(scale * pattern, tuple(value.shape)))
    if name != "sha256":
        weights[name] = value
save_file(weights, raw / "resnet18.safetensors")
"""
"""Run with the code of the release: small synthetic samples, and the requests to the champions."""

TRAIN = """
import json, shlex, shutil, sys
from pathlib import Path
from jobs.__main__ import read
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES
from models.prepared import Prepared

family, data, scratch, bundles = FAMILIES[sys.argv[1]], Prepared(Path(sys.argv[2])), *map(Path, sys.argv[3:5])
for name, flags in json.loads(sys.argv[5]).items():
    config = read(["train", family.name, *shlex.split(flags)]).config
    directory = scratch / f"{family.name}-{name}"
    trained = run_training(
        family, config=config, data=data, directory=directory, worker=WorkerContext(), report=lambda numbers: None
    )
    shutil.copytree(trained.best, bundles / f"{family.name}-{name}")
    sys.stderr.write(f"{family.name}-{name}: epoch {trained.best_epoch}, {trained.metrics}\\n")
"""
"""Like `train` on one worker, but without a cluster per model."""

TINY = {
    "recommender": "--max-length 16 --dim 8 --num-blocks 1 --batch-size 8 --precision fp32 --patience 0",
    "image": "--width 0.06 --batch-size 8 --shift 1 --precision fp32",
}
LOG = f"--raw {RAW}/events.parquet"
PICTURES = f"--raw {RAW}/catalogue.parquet --labels type,colour --max-bad-fraction 0.05 --size"
PREPARE = {
    "recommender": f"{LOG} --items {RAW}/items.parquet",
    "image": f"{PICTURES} 18",
}
VERSIONS = {
    "recommender": ("--network transformer --epochs 3", "--network gru --epochs 2 --no-blend"),
    "image": ("--network cnn --epochs 3", "--network resnet --epochs 2"),
}
"""What is trained for versions 1 and 2."""
INTERRUPTED = {
    "recommender": "--network transformer --epochs 4 --seed 1 --no-blend",
    "image": "--network resnet --epochs 4 --seed 1",
}

ALONE: list[tuple[str, str, Mapping[str, str]]] = [
    (
        "recommender",
        PREPARE["recommender"],
        {
            # On so small a log a blend would use the count-based prior alone.
            **{each: f"--network {each} --no-blend" for each in ("transformer", "gru", "two_tower", "gan")},
            **{each: f"--network {each}" for each in ("transitions", "popularity", "item_knn")},
            "autoencoder": "--network autoencoder --no-blend --epochs 4",
            "blend": "--network transformer",
            "lstm": "--network gru --cell lstm --num-blocks 2 --no-blend",
            "heads": "--network transformer --num-blocks 2 --num-heads 2 --no-blend",
            "sampled": "--network two_tower --loss sampled --num-negatives 8 --no-spectral-start --no-blend",
        },
    ),
    ("recommender", LOG, {"plain": "--network transformer --no-blend", "item_knn-plain": "--network item_knn"}),
    ("recommender", f"{LOG} --split leave-one-out", {"leave-one-out": "--network gru --no-blend"}),
    ("recommender", f"{LOG} --split held-out-users", {"held-out-users": "--network autoencoder --no-blend"}),
    (
        "image",
        PREPARE["image"],
        {
            **{each: f"--network {each}" for each in ("cnn", "resnet", "linear", "prior")},
            "resnet-three": "--network resnet --num-convolutions 3 --test-shift 1 --no-flip --epochs 4",
            "gan": "--network gan --latent 4",
        },
    ),
    ("image", PREPARE["image"].replace("catalogue", "titled"), {"titles": "--network cnn"}),
    (
        "image",
        f"--raw {RAW}/dots.parquet --labels type,colour --columns split=split --size 8",
        {"autoencoder": "--network autoencoder --latent 4"},
    ),
    (
        "image",
        f"{PICTURES} 32",
        {"backbone": f"--network backbone --backbone {RAW}/resnet18.safetensors --no-flip"},
    ),
]
"""How data is prepared, and the models trained on it by directory name."""


def make() -> None:
    """Create everything in ROOT and pack the archive."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell would ignore it
    shutil.rmtree(ROOT, ignore_errors=True)
    RAW.mkdir(parents=True)
    os.chdir(ROOT)  # MLflow stores the working directory in a new database
    subprocess.run([sys.executable, "-c", MAKE_RAW, str(RAW), str(ROOT / "requests")], check=True, env=_environment())
    for family in FAMILIES:
        _verb(f"prepare {family} {PREPARE[family]}")
        for flags in VERSIONS[family]:
            run_id = _verb(f"train {family} {TINY[family]} {flags}")["run_id"]
            _verb(f"promote {family} --model runs:/{run_id} --force --reason 'for the tests of upgrades'")
        _interrupt(family)
        _predict(family)
    _deploy()
    _train_alone()
    _pack()


def _interrupt(family: str) -> None:
    """Start a training run and interrupt it after its first epoch."""
    command = _command(f"train {family} {TINY[family]} {INTERRUPTED[family]}")
    slowly = {**_environment(), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "5"}  # or it would finish too soon
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=slowly)
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line)
        if "epoch 1:" in line:
            process.send_signal(signal.SIGINT)
            break
    _, rest = process.communicate()
    sys.stderr.write(rest)
    assert process.returncode == 130, process.returncode


def _predict(family: str) -> None:
    """Store the answers of both versions."""
    for version in ("1", "2"):
        output = ROOT / "answers" / f"{family}-{version}.parquet"
        output.parent.mkdir(exist_ok=True)
        more = "--set embedding=true" if family == "image" else ""
        asked = ROOT / "requests" / f"{family}.parquet"
        _verb(f"predict {family} --model models:/{family}/{version} --input {asked} --output {output} {more}")


def _deploy() -> None:
    """Deploy version 1, then the champion, of both families, so that the store has a previous deployment."""
    try:
        for model in ("--model models:/{}/1", ""):
            for family in FAMILIES:
                _verb(f"deploy {family} --port {PORT} {model.format(family)}")
    finally:
        _verb("stop")


def _train_alone() -> None:
    """Train the standalone models, in a temporary store."""
    for family, prepare, models in ALONE:
        data = _verb(f"prepare {family} {prepare}", store=SCRATCH)["data"]
        flags = json.dumps({name: f"{TINY[family]} --epochs 1 {network}" for name, network in models.items()})
        command = [sys.executable, "-c", TRAIN, family, data, str(SCRATCH / "runs"), str(BUNDLES), flags]
        subprocess.run(command, check=True, env=_environment())


def _pack() -> None:
    shutil.rmtree(STORE / "cluster")
    for leftover in STORE.glob("*/runs/*/ray"):
        shutil.rmtree(leftover)
    for directory in ("spool", "fetched"):
        assert not any((STORE / directory).glob("*")), directory
    with (
        lzma.open(ARCHIVE, "w", preset=9 | lzma.PRESET_EXTREME) as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for name in ("answers", "requests", "store", "bundles"):
            archive.add(ROOT / name, arcname=name, filter=_anonymous)
    sys.stderr.write(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e6:.2f} MB\n")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _verb(line: str, store: Path = STORE) -> dict[str, Any]:
    """Run a command that must succeed; returns its JSON line."""
    done = subprocess.run(_command(line, store), stdout=subprocess.PIPE, text=True, check=True, env=_environment())
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _command(line: str, store: Path = STORE) -> list[str]:
    return [str(Path(sys.executable).with_name("shopkeeper")), *shlex.split(line), "--store", str(store), "--json"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SHOPKEEPER"))}


if __name__ == "__main__":
    make()
