"""Roofline of training the transformer: the FLOPs that a trained target needs, the FLOP/s reached, and the ceiling.

The needed FLOPs are those of the matrix products of forward and backward pass (three times forward), with attention
counted only over the positions that a target may attend to in the packed rows. Normalisation, softmax, dropout,
embedding look-ups and the optimizer are not counted, so their cost shows as distance from the ceiling. The ceiling is
torch's own matrix product, measured in the same run, alternating with the training: at its best shape, and at the
shapes of the network (forward and both backward products). Core-seconds are processor time.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page
from models import FAMILIES
from models.bundle import config_from_dict
from models.nn.layers import chunk_tokens
from models.prepared import Prepared

FAMILY = FAMILIES["recommender"]
BEST = "2048 cubed"
KINDS = ("bf16", "fp32", "fp32 medium")
"""Ceilings; the last is fp32 with torch.set_float32_matmul_precision("medium")."""
PRODUCT_KINDS = ("bf16", "fp32 medium")
FORWARD_AND_BACKWARD = 3
QUICK_ROWS = 64


@dataclass(frozen=True)
class Part:
    """Matrix products of one kind; shapes are [batch, m, k, n]."""

    name: str
    needed: float
    """FLOPs of a target, forward."""
    executed: float
    shape: tuple[int, int, int, int]

    def shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """The forward product, and those of the gradients of its left and of its right side."""
        batch, m, k, n = self.shape
        return {
            f"{self.name} forward": self.shape,
            f"{self.name} left": (batch, m, n, k),
            f"{self.name} right": (batch, k, m, n),
        }


def main() -> None:
    """Measure and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each shape and dtype")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats, arguments.seconds = 2, 0.02
    chosen = [*arguments.config, "network=transformer", "blend=false", "spectral_start=false"]
    config = config_from_dict(FAMILY.Config, measure.overrides(chosen))
    with measure.workspace(arguments) as work:
        data = measure.prepared(arguments.data, arguments, work)
        config = FAMILY.resolve(config, Prepared(data).schema(FAMILY.Schema))
        context, num_items, counted = measure_step(Prepared(data), config)
        parts = needed(config, num_items, context)
        rows = ["--rows", str(QUICK_ROWS)] if arguments.quick else []
        shapes = {BEST: (1, 2048, 2048, 2048)} | {
            name: shape for part in parts for name, shape in part.shapes().items()
        }
        ceiling = [sys.executable, "-m", "benchmarks.peers.matmul_worker", "--shapes", json.dumps(shapes)]
        workers = [
            Worker(
                "training",
                measure.shopkeeper("train", data, work / "run", config=chosen, more=rows),
                threads=arguments.threads,
            ),
            Worker("ceiling", [*ceiling, "--seconds", str(arguments.seconds)], threads=arguments.threads),
        ]
        settings = {worker.name: worker.answer() for worker in workers}
        found = measure.alternate(workers, arguments.repeats)
        for worker in workers:
            worker.close()
    tables = [reached(parts, found, counted), by_part(parts, found)]
    facts = {"mean positions attended to": context, "items": num_items, "counted": counted, "parts": parts}
    raw = {"settings": settings, "measured": found, **facts}
    write_page("roofline", __doc__, arguments, tables, raw)


def measure_step(data: Prepared, config: Any) -> tuple[float, int, float]:
    """Mean positions that a target attends to, the number of items, and FLOPs per target counted by torch in a step."""
    schema: Any = data.schema(FAMILY.Schema)
    shards = range(schema.num_shards)
    dataset = FAMILY.dataset(data, "train", shards, schema=schema, config=config, epoch=1)
    batch = FAMILY.collate([dataset[row] for row in range(min(config.batch_size, len(dataset)))])
    same = (batch.segments[:, :, None] == batch.segments[:, None, :]).tril()
    there = batch.targets != 0
    network = FAMILY.build(config, schema).train()
    with FlopCounterMode(display=False) as counter:
        FAMILY.loss(network, batch).backward()
    total = float(counter.get_total_flops())
    return float(same.sum(2)[there].float().mean()), schema.num_items, total / int(there.sum())


def needed(config: Any, num_items: int, context: float) -> list[Part]:
    """FLOPs of each part of the transformer, by formula: a product of [m, k] and [k, n] takes 2 m k n."""
    dim, length, blocks, heads = config.dim, config.max_length, config.num_blocks, config.num_heads
    tokens, rows = config.batch_size * length, config.batch_size * heads

    def dense(name: str, inputs: int, outputs: int, times: int) -> Part:
        flops = 2.0 * inputs * outputs * times
        return Part(name, flops, flops, (1, tokens, inputs, outputs))

    def attention(name: str, inner: int, outputs: int) -> Part:
        return Part(name, 2.0 * dim * context * blocks, 2.0 * dim * length * blocks, (rows, length, inner, outputs))

    logits = 2.0 * dim * num_items
    return [
        dense("query, key, value", dim, 3 * dim, blocks),
        attention("attention scores", dim // heads, length),
        attention("attention mix", length, dim // heads),
        dense("attention output", dim, dim, blocks),
        dense("feed-forward, wide", dim, 4 * dim, blocks),
        dense("feed-forward, narrow", 4 * dim, dim, blocks),
        Part("softmax over the items", logits, logits, (1, chunk_tokens(num_items, "cpu"), dim, num_items)),
    ]


def reached(parts: list[Part], found: dict[str, list[Answer]], counted: float) -> Table:
    """FLOP/s against the two ceilings."""
    flops = FORWARD_AND_BACKWARD * sum(part.needed for part in parts)
    rates = [answer["targets"] / answer["cpu_s"] for answer in found["training"]]
    rows = [
        ["FLOPs needed for a target, by formula", f"{flops / 1e6:.2f} M"],
        ["FLOPs executed for a target, counted by torch", f"{counted / 1e6:.2f} M"],
        ["trained targets / core-s", Spread.of(rates).text()],
        ["GFLOP/s reached (needed x rate)", Spread.of(flops * rate / 1e9 for rate in rates).text(".0f")],
    ]
    for dtype in KINDS:
        tops = [answer["flops_per_s"][f"{BEST} {dtype}"] for answer in found["ceiling"]]
        own = [1 / seconds(parts, answer, dtype) for answer in found["ceiling"]]
        share = [flops * rate / top for rate, top in zip(rates, tops, strict=True)]
        rows += [
            [f"ceiling, {dtype}, {BEST}, GFLOP/s", Spread.of(top / 1e9 for top in tops).text(".0f")],
            [f"reached / ceiling, {dtype}", Spread.of(share).text(".0%")],
            [f"targets / core-s of the products alone at their own shapes, {dtype}", Spread.of(own).text()],
            [
                f"reached / that, {dtype}",
                Spread.of(rate / top for rate, top in zip(rates, own, strict=True)).text(".0%"),
            ],
        ]
    return Table("Reached", ["what", f"n = {len(rates)}"], rows)


def seconds(parts: list[Part], answer: Answer, dtype: str) -> float:
    """Core-seconds of the needed products of a target, each at the rate of its own shape."""
    return sum(
        part.needed / float(answer["flops_per_s"][f"{name} {dtype}"]) for part in parts for name in part.shapes()
    )


def by_part(parts: list[Part], found: dict[str, list[Answer]]) -> Table:
    """Each part's share of the FLOPs, and the ceiling at its shapes."""
    whole = sum(part.needed for part in parts)
    rows = []
    for part in parts:
        cells = [f"{FORWARD_AND_BACKWARD * flops / 1e3:,.0f}" for flops in (part.needed, part.executed)]
        for dtype in PRODUCT_KINDS:
            for name in part.shapes():
                rates = [answer["flops_per_s"][f"{name} {dtype}"] for answer in found["ceiling"]]
                cells.append(f"{Spread.of(rates).median / 1e9:.0f}")
        shape = " x ".join(str(size) for size in part.shape)
        rows.append([part.name, f"{part.needed / whole:.0%}", *cells[:2], shape, *cells[2:]])
    products = ("forward", "grad left", "grad right")
    header = ["part", "share", "kFLOP a target needed", "executed", "batch x m x k x n"]
    header += [f"{dtype} {product}, GFLOP/s" for dtype in PRODUCT_KINDS for product in products]
    return Table("By part (medians)", header, rows)


if __name__ == "__main__":
    main()
