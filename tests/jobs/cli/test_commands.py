"""Commands in messages can be pasted: they name the store and the cluster where these are not the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli.context import Context, Store


@pytest.mark.parametrize(
    ("store", "address", "words", "command"),
    [
        ("store", None, "train toy --resume r1", "shopkeeper train toy --resume r1"),
        ("my store", None, "train toy --resume r1", "shopkeeper train toy --resume r1 --store '{}/my store'"),
        ("s", "ray://head:10001", "sweep toy", "shopkeeper sweep toy --store {}/s --address ray://head:10001"),
        ("s", "ray://head:10001", "status", "shopkeeper status --store {}/s"),
        ("s", "http://head:8265", "train toy", "shopkeeper train toy --store {}/s"),
        ("s", "http://head:8265", "deploy toy", "shopkeeper deploy toy --store {}/s --address http://head:8265"),
    ],
)
def test_a_command_names_what_is_not_the_default(
    store: str, address: str | None, words: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    shown = Context(store=Store(tmp_path / store), address=address).command(words)

    assert shown == command.format(tmp_path)
