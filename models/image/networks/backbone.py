"""A residual network that somebody else has trained, read from a local safetensors file and left as it is.

He et al., 2015, arXiv:1512.03385, with the names of parameters that torchvision gives them, which is how such files are
commonly stored. Shapes: B pictures, C channels, S side, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from models.files import sha256

MIN_SIDE = 32
"""Pictures are halved five times."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pictures of ImageNet, by which such networks expect theirs to be normalised."""
LAYERS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
"""Blocks of each of the four groups."""
WIDTHS = (64, 128, 256, 512)
NOT_NEEDED = ("fc.weight", "fc.bias")
"""The classes of the one who trained it."""
KINDS = ("F32", "F16", "BF16")
MAX_NAMED = 3


class Block(nn.Module):
    """Two convolutions around which the signal also passes."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(before, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.downsample(x))


class Bottleneck(nn.Module):
    """A convolution between two that narrow and widen."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _downsample(before, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


class Backbone(nn.Module):
    """Pictures [B, 3, S, S], normalised by MEAN and STD -> features [B, D]; nothing in it is ever trained."""

    sha256: Tensor

    def __init__(self, architecture: str, *, size: int) -> None:
        super().__init__()
        if size < MIN_SIDE:
            raise ValueError(
                f"pictures of side {size} are too small for a backbone; prepare them at {MIN_SIDE} or more"
            )
        self.architecture = architecture
        block = Bottleneck if architecture == "resnet50" else Block
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        groups, before = [], WIDTHS[0]
        for number, (width, num_blocks) in enumerate(zip(WIDTHS, LAYERS[architecture], strict=True)):
            blocks = []
            for place in range(num_blocks):
                blocks.append(block(before, width, 2 if number and not place else 1))
                before = width * block.expansion
            groups.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.dim = before
        self.register_buffer("sha256", torch.zeros(32, dtype=torch.uint8))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays as it is: in training, batch norms would forget the pictures that they were trained on."""
        return super().train(False)

    def forward(self, pictures_BCSS: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(pictures_BCSS))), 3, 2, 1)
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return features

    @property
    def origin(self) -> str:
        """sha256 of the file that the weights are from; zeros before any are read."""
        return bytes(self.sha256.tolist()).hex()

    def read(self, path: Path) -> None:
        """Take the weights of a safetensors file; raises ValueError that says what does not fit."""
        if not path.is_file():
            raise ValueError(f"--backbone {path} is not there; give the path of a safetensors file")
        try:
            with safe_open(path, framework="pt") as file:
                self._check(path, {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118, not a dict
        except SafetensorError as error:
            raise ValueError(
                f"--backbone {path} is not a safetensors file ({error}); make one of a state dict with "
                "safetensors.torch.save_file"
            ) from None
        found = load_file(path)
        # Counts of batches are of no use here, and older files do not have them.
        self.load_state_dict({name: found.get(name, value) for name, value in self.state_dict().items()})
        self.sha256.copy_(torch.tensor(list(bytes.fromhex(sha256(path))), dtype=torch.uint8))

    def _check(self, path: Path, found: Mapping[str, Any]) -> None:
        """Compare names, shapes and kinds before anything is read."""
        wanted = {name: value for name, value in self.state_dict().items() if not _is_optional(name)}
        missing = [name for name in wanted if name not in found]
        unknown = [name for name in sorted(found) if name not in wanted and not _is_optional(name)]
        if missing or unknown:
            raise ValueError(
                f"--backbone {path} does not hold a {self.architecture} with the names of torchvision: it lacks "
                f"{_listed(missing)}, and has {_listed(unknown)} besides; see --architecture, or rename them"
            )
        for name, value in wanted.items():
            shape, kind = found[name].get_shape(), found[name].get_dtype()
            if shape != list(value.shape) or kind not in KINDS:
                raise ValueError(
                    f"--backbone {path}: {name} is {kind} of {shape}, but a {self.architecture} has one of "
                    f"{', '.join(KINDS)} of {list(value.shape)}; see --architecture"
                )


def _downsample(before: int, after: int, stride: int) -> nn.Module:
    if before == after and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def _is_optional(name: str) -> bool:
    return name in NOT_NEEDED or name == "sha256" or name.endswith("num_batches_tracked")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (", ".join(names[:MAX_NAMED]) or "nothing") + more
