"""The report's example lists: titles instead of ids, no users, and the same examples each time."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Store
from models.prepared import Prepared
from models.recommender import FAMILY
from models.recommender.config import Config
from models.recommender.networks.build import build, initialise
from models.recommender.networks.recommender import Recommender
from models.recommender.report.examples import NUM_EXAMPLES, NUM_RECOMMENDED, report
from models.recommender.sample import Shop, write_sample
from models.recommender.schema import Schema
from models.report import Section, Table
from tests.kit.logs import prepared, write_csv
from tests.kit.typed_log import typed_log

CONFIG = Config(network="transitions")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return write_sample(tmp_path_factory.mktemp("shop"), num_users=200, num_items=60, num_events=4000, seed=2)


def counted(data: Prepared) -> Recommender:
    """The transitions of prepared data."""
    schema = data.schema(Schema)
    network = build(CONFIG, schema)
    initialise(network, data, schema)
    return network.eval()


def section_of(data: Prepared, network: Recommender) -> Section:
    """The only section of the report."""
    (section,) = report(network, data, "test", schema=data.schema(Schema), config=CONFIG)
    return section


def tables(section: Section) -> list[Table]:
    """The tables of the examples."""
    return [content for content in section.content if isinstance(content, Table)]


def test_examples_show_titles_reasons_and_what_followed_but_no_user(shop: Shop, tmp_path: Path) -> None:
    data = prepared(Store(tmp_path), shop.events, items=str(shop.items), split="leave-one-out")
    network = counted(data)

    section = section_of(data, network)

    titles = set(pq.read_table(shop.items).column("title").to_pylist())
    assert len(tables(section)) == NUM_EXAMPLES
    for table, text in zip(tables(section), [each for each in section.content if isinstance(each, str)], strict=True):
        shown, followed = re.fullmatch(r"History, latest last: (.*)\. What followed: (.*)\.", text).groups()  # type: ignore[union-attr]
        history = set(re.sub(r"^[\d,]+ earlier events; ", "", shown).split("; "))
        assert len(table.rows) == NUM_RECOMMENDED and history <= titles and followed in titles
        assert {row[1] for row in table.rows} <= titles
        assert all((row[3] == "followed") == (row[1] == followed) for row in table.rows)
    assert any(row[2] in titles for table in tables(section) for row in table.rows), "some have a reason"
    users = pq.read_table(data.shard(0) / "users.parquet").column("user_id").to_pylist()
    assert users and not any(user in str(section) for user in users)


def test_the_examples_are_the_same_each_time_and_shorter_histories_come_first(shop: Shop, tmp_path: Path) -> None:
    data = prepared(Store(tmp_path), shop.events, split="leave-one-out")
    network = counted(data)

    first, again = section_of(data, network), section_of(data, network)

    assert first == again
    lengths = []
    for text in (each for each in first.content if isinstance(each, str)):
        earlier = re.search(r"([\d,]+) earlier events", text)
        lengths.append(int(earlier[1].replace(",", "")) if earlier else 0)
    assert lengths == sorted(lengths) and lengths[-1] > lengths[0]


def test_without_a_title_an_item_is_shown_by_its_id(shop: Shop, tmp_path: Path) -> None:
    data = prepared(Store(tmp_path), shop.events, split="leave-one-out")

    rows = [row for table in tables(section_of(data, counted(data))) for row in table.rows]

    assert {row[1] for row in rows} <= set(data.schema(Schema).items)


def test_the_report_has_the_kind_of_log_and_the_examples(shop: Shop, tmp_path: Path) -> None:
    data = prepared(Store(tmp_path), shop.events, split="leave-one-out")
    network = counted(data)

    assert FAMILY.report is not None
    log, examples = FAMILY.report(network, data, "test", schema=data.schema(Schema), config=CONFIG)

    assert log.title == "The log"
    assert examples == section_of(data, network)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (
            "purchase",
            r"Items of the history with an event of a seen type \(purchase\) are not recommended; others may be",
        ),
        ("none", r"Items in the history may be recommended, since repeats count"),
        ("all", r"Items in the history are not recommended"),
    ],
)
def test_a_log_with_types_shows_them_and_says_which_items_are_left_out(tmp_path: Path, seen: str, words: str) -> None:
    log = write_csv(tmp_path / "log.csv", typed_log(num_users=100))
    data = prepared(Store(tmp_path / "store"), log, target=("purchase",), seen=(seen,))

    section = section_of(data, counted(data))

    assert re.search(words, section.reading)
    history = next(each for each in section.content if isinstance(each, str))
    shown = history.removeprefix("History, latest last: ").partition(". What followed")[0].split("; ")
    assert all(re.search(r" \((view|addtocart|purchase)\)$| earlier events$", event) for event in shown)
    assert " (view)" in str(section.content)
