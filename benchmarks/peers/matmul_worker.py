"""The ceiling under measurement: how many FLOP/s torch's matrix product reaches for given shapes."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from benchmarks.peers import protocol

KINDS = {
    "bf16": (torch.bfloat16, "highest"),
    "fp32": (torch.float32, "highest"),
    "fp32 medium": (torch.float32, "medium"),
}
"""dtype and torch.set_float32_matmul_precision, which on a CPU also decides which library multiplies."""


def main() -> None:
    """Measure all shapes once for each request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=json.loads, required=True, help="JSON: name -> [batch, m, k, n]")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each shape and dtype")
    arguments = parser.parse_args()
    protocol.say({"threads": torch.get_num_threads(), "versions": protocol.versions("torch")})
    for _ in protocol.asked():
        found = {}
        for kind, (dtype, precision) in KINDS.items():
            torch.set_float32_matmul_precision(precision)
            for name, shape in arguments.shapes.items():
                found[f"{name} {kind}"] = flops_per_s(shape, dtype, arguments.seconds)
        protocol.say({"flops_per_s": found})


def flops_per_s(shape: list[int], dtype: Any, seconds: float) -> float:
    """2 x batch x m x k x n over the processor time of one product, the mean of as many as fit in the time."""
    batch, m, k, n = shape
    left, right = torch.randn(batch, m, k).to(dtype), torch.randn(batch, k, n).to(dtype)
    out = torch.empty(batch, m, n, dtype=dtype)
    if batch == 1:
        left, right, out = left[0], right[0], out[0]
    torch.matmul(left, right, out=out)
    num, begun, started = 0, time.monotonic(), protocol.start()
    while time.monotonic() - begun < seconds or num < 3:
        torch.matmul(left, right, out=out)
        num += 1
    return 2 * batch * m * k * n * num / started.so_far()["cpu_s"]


if __name__ == "__main__":
    main()
