"""The model directory: replaced atomically, verified before it is loaded, without pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from models.errors import BundleRejected
from models.evaluate import Model
from models.family import Family
from models.files import replace_directory, sha256
from models.json_files import read_json
from models.plugins import origin
from models.prepared import with_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MANIFEST = "MANIFEST.json"
FORMAT = 1
"""Version of the model directory; a release reads its own and all earlier ones."""
REQUIRED = ("config.json", "schema.json", "model.safetensors", "metrics.json", "golden.json")


@dataclass(frozen=True)
class Bundle(Model):
    """The model of a verified directory, with its other files."""

    metrics: dict[str, float]
    golden: dict[str, Any]
    digest: str
    """sha256 of the manifest: identifies exactly these files."""


def write_directory(directory: Path, files: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write `files` (bytes as they are, other values as JSON), safetensors `tensors` and a manifest.

    The directory is replaced atomically: a reader sees the old one or the new one, never a partial one.
    """
    from safetensors.torch import save_file

    with replace_directory(directory) as temporary:
        for name, content in files.items():
            encoded = (
                content
                if isinstance(content, bytes)
                else json.dumps(content, ensure_ascii=False, sort_keys=True).encode()
            )
            (temporary / name).write_bytes(encoded)
        for name, named in tensors.items():
            save_file({key: value.detach().cpu().contiguous() for key, value in named.items()}, temporary / name)
        seal(temporary)


def seal(directory: Path) -> None:
    """Write MANIFEST.json with the size and sha256 of every other file of `directory`."""
    listed = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    }
    manifest = {"format": FORMAT, "files": listed, **_packages(directory)}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def verify(directory: Path, required: tuple[str, ...] = REQUIRED) -> str:
    """Check every file against the manifest and return the manifest's sha256; raises BundleRejected."""
    if not directory.is_dir():
        raise BundleRejected(f"{directory} is not a model directory; a model is a directory with {MANIFEST}")
    manifest = directory / MANIFEST
    if not manifest.is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:5]) or "nothing"
        raise BundleRejected(f"{directory} has no {MANIFEST} (found: {found}); it is not a Shopkeeper model")
    version, expected = _listed_in(manifest)
    if version > FORMAT:
        raise BundleRejected(
            f"{manifest} has format {version}, and this release reads up to {FORMAT}; upgrade Shopkeeper"
        )
    missing = [name for name in required if name not in expected]
    if missing:
        raise BundleRejected(f"{directory} lacks {', '.join(missing)}; train the model again")
    try:
        for name, (num_bytes, digest) in expected.items():
            path = directory / name
            if Path(name).name != name or not path.is_file():
                raise BundleRejected(f"{directory}: {name!r} is in the manifest and missing")
            if path.stat().st_size != num_bytes or sha256(path) != digest:
                raise BundleRejected(f"{path} differs from its manifest (truncated or changed); use another copy")
        return sha256(manifest)
    except OSError as error:  # such as a disk error or a missing permission
        raise BundleRejected(f"{directory} is not readable: {error}") from error


def _listed_in(manifest: Path) -> tuple[int, dict[str, tuple[int, str]]]:
    """The format of a manifest, and the size and sha256 of each file that it lists; raises BundleRejected."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
        return int(content["format"]), expected
    # The recursion limit is hit by deep nesting, and 1e400 is an infinite number.
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, OSError) as error:
        raise BundleRejected(f"{manifest} is not readable: {error}") from None


def load(directory: Path, family: Family, *, device: torch.device | str = "cpu") -> Bundle:
    """Verify and load a model directory of a family; raises BundleRejected when it is damaged or does not fit."""
    digest = verify(directory, (*REQUIRED, *family.files))
    schema_json = read_json(directory / "schema.json")
    if schema_json.get("family") != family.name:
        raise BundleRejected(f"{directory} is of the family {schema_json.get('family')!r}, not {family.name!r}")
    _check_packages(directory, family)
    try:
        schema = with_files(family.Schema.model_validate(schema_json), directory, family.files)
        config = config_from_dict(family.Config, read_json(directory / "config.json"))
        network = family.build(config, schema)
        load_tensors(network, directory / "model.safetensors")
    except Exception as error:  # the network of another package may fail in any way
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise BundleRejected(f"{directory} is inconsistent: {reason}") from error
    return Bundle(
        family=family,
        config=config,
        schema=schema,
        network=network.to(device).eval(),
        metrics=read_json(directory / "metrics.json"),
        golden=read_json(directory / "golden.json"),
        digest=digest,
    )


def _packages(directory: Path) -> dict[str, Any]:
    """For the manifest: the package that the network of a model directory comes from, if it is a plugin."""
    try:
        network, family = (
            read_json(directory / name)[key] for name, key in (("config.json", "network"), ("schema.json", "family"))
        )
    except (OSError, KeyError, BundleRejected):
        return {}
    package = origin(family, network)
    return {} if package is None else {"packages": {network: package}}


def _check_packages(directory: Path, family: Family) -> None:
    packages = read_json(directory / MANIFEST).get("packages", {})
    if not isinstance(packages, dict):
        raise BundleRejected(f"{directory / MANIFEST} has packages {packages!r}, not an object; use another copy")
    for network, package in packages.items():
        if origin(family.name, network) is None:
            raise BundleRejected(
                f"{directory} has the network {network!r} of another package, which is not installed here; "
                f"`pip install {package}` where the model is loaded"
            )


def family_name(directory: Path) -> str:
    """Name of the family of a model directory; raises BundleRejected when it is not a model directory."""
    verify(directory)
    return str(read_json(directory / "schema.json").get("family"))


def load_tensors(network: nn.Module, path: Path) -> None:
    """Load safetensors into a network; raises BundleRejected when names or shapes differ, or for another format."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        network.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise BundleRejected(f"{path} does not contain the weights of this network: {error}") from None


def config_from_dict(config_class: Any, values: Mapping[str, Any]) -> Any:
    """A Config from its JSON, where a field may have its former name; raises ValueError for an unknown field."""
    now = {was: name for was, (name, _) in former_names(config_class).items() if name not in values}
    values = {now.get(name, name): value for name, value in values.items()}
    known = {field.name for field in dataclasses.fields(config_class)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; {config_class.__module__} has {', '.join(sorted(known))}")
    return config_class(**values)


def former_names(config_class: Any) -> dict[str, tuple[str, str]]:
    """Former name of a renamed field -> its current name, and the release that drops the former name.

    Declared by `field(default=..., metadata={"was": "passes", "until": "0.3.0"})`, in a class or any of its parents.
    """
    renamed = [
        (field.metadata["was"], (field.name, field.metadata["until"]))
        for parent in reversed(config_class.__mro__)
        if dataclasses.is_dataclass(parent)
        for field in dataclasses.fields(parent)
        if "was" in field.metadata
    ]
    return dict(renamed)


def size_mb(directory: Path) -> float:
    """Size of all files of a model directory, in MB."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file()) / 1e6
