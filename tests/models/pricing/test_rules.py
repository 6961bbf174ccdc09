"""One file of rules: what it may say, and that each mistake is named with its line, value and remedy."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest

from models.documents import DocumentUnreadable, read_text
from models.pricing.offers import Offers
from models.pricing.rules import RulesRejected, parse_rules

ALL = """\
ladder: {endings: [0.99, 0.49], most_points: 5}
margin_floor:
  - {share: 0.1}
  - share: 0.2
    only: {categories: [juice], products: [007]}
largest_change: {share: 0.1}
max_changes: {number: 3}
fixed: {only: {brands: [Own]}}
zones: {stores: ["1", "2"]}
size_order:
brand_order: {cheaper: Own, dearer: Best, gap: 0.05}
mean_price: {at_least: 0.98, at_most: 1.0}
revenue: {at_least: 1}
sell_through: {share: 0.9, by: 2026-12-31}
"""


def offers() -> Offers:
    return Offers(
        products=("007", "8", "007"),
        stores=("1", "1", "2"),
        price=np.array([2.0, 3.0, 2.0]),
        cost=np.ones(3),
        stock=np.full(3, np.inf),
        size=np.ones(3),
        group=np.array([0, 0, 1]),
        categories=("juice", "milk", "juice"),
        brands=("Own", "Best", "Own"),
    )


def test_every_kind_of_rule_is_read_once_or_as_a_list(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(ALL, encoding="utf-8")

    rules = parse_rules(read_text(path, "rules"), path, offers=offers())

    assert rules.ladder.endings == (0.99, 0.49)
    assert [(rule.share, rule.line) for rule in rules.margin_floor] == [(0.1, 3), (0.2, 4)]
    assert rules.margin_floor[1].only.products == ("007",)
    assert rules.margin_floor[1].offers(offers()) == [0, 2]
    assert (rules.largest_change[0].line, rules.size_order[0].unit_price) == (6, True)
    assert rules.sell_through[0].by == datetime.date(2026, 12, 31)
    assert {kind for kind, _ in rules.kinds()} == set(type(rules).model_fields) - {"ladder", "source"}


@pytest.mark.parametrize(
    ("text", "line", "where", "said"),
    [
        ("ladder: {step: 1}\nlargest_chnage: {share: 0.1}", 2, "largest_chnage", "did you mean largest_change?"),
        ("ladder: {step: 1}\nlargest_change: {shar: 0.1}", 2, "largest_change[1].shar", "did you mean share?"),
        ("ladder: {step: 1}\nlargest_change: {shar: 0.1}", 2, "largest_change[1].share", "is missing; the rule is"),
        (
            "ladder: {step: 1}\nmargin_floor:\n  - {share: 1.5}",
            3,
            "margin_floor[1].share",
            "'1.5': must be less than 1",
        ),
        ("ladder: {step: 1}\nmax_changes: {number: few}", 2, "max_changes[1].number", "'few': must be a valid integer"),
        ("ladder: {step: 1}\nmargin_floor: {share: .nan}", 2, "margin_floor[1].share", "'.nan'"),
        ("largest_change: {share: 0.1}", 1, "ladder", "say which prices can be asked for"),
        ("ladder: {step: 1, endings: [0.9]}", 1, "ladder", "needs either endings"),
        ("ladder: {step: 1}\nmean_price: {}", 2, "mean_price[1]", "needs at_least or at_most"),
        ("ladder: {step: 1}\nsell_through: {share: 1, by: soon}", 2, "sell_through[1].by", "'soon': "),
        ("ladder: {step: 1}\nfixed: {only: {brand: [Own]}}", 2, "fixed[1].only.brand", "did you mean brands?"),
        (
            "ladder: {step: 1}\nfixed: {only: {brands: [Owm]}}",
            2,
            "fixed.only.brands",
            "'Owm' is none of the 2 brands, did",
        ),
        ("ladder: {step: 1}\nzones: {stores: [1, 9]}", 2, "zones.stores", "'9' is none of the 2 stores"),
        ("ladder: {step: 1}\nfixed: {line: 4}", 2, "fixed.line", "remove it"),
        ("ladder: {step: 1}\nsource: here", 2, "source", "remove it"),
        ("ladder: {step: 1}\nfixed: {only: {brands: [Own], categories: [milk]}}", 2, "fixed", "no product is meant"),
        ("ladder: {step: 1}\nladder: {step: 2}", 2, "ladder", "given twice"),
        ("ladder:", 1, "ladder", "needs keys; known are endings, step, most_points"),
        ("ladder: {step: 1}\nlargest_change: 0.1", 2, "largest_change[1]", "needs keys; known are only, share"),
        ("ladder: {step: 1}\nfixed: {only: Own}", 2, "fixed[1].only", "needs keys; known are products, stores"),
        ("ladder: {step: 1}\nzones: {stores: north}", 2, "zones[1].stores", "needs a list, such as [a, b]"),
        ("ladder: {step: 1}\nzones: {stores: [north]}", 2, "zones[1].stores", "at least 2 items"),
        ("- ladder", 1, "", "rules are a mapping"),
        ("", 1, "", "the file is empty; it needs `ladder` and rules"),
    ],
)
def test_a_mistake_is_named_with_its_line_key_and_remedy(text: str, line: int, where: str, said: str) -> None:
    with pytest.raises(RulesRejected) as caught:
        parse_rules(text, Path("shop.yaml"), offers=offers())

    assert f"shop.yaml:{line}: {where}{': ' if where else ''}" in str(caught.value)
    assert said in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(RulesRejected, match="3 mistakes"):
        parse_rules("ladder: {step: -1}\nfixd: 1\nrevenue: {at_least: 0}", Path("r.yaml"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable, match=r"there is no file .*none\.yaml; name the YAML file"):
        read_text(tmp_path / "none.yaml", "rules")


def test_a_cost_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"the cost of product a in store s is -1; a cost is zero or more"):
        Offers(
            products=("a",),
            stores=("s",),
            price=np.ones(1),
            cost=np.array([-1.0]),
            stock=np.ones(1),
            size=np.ones(1),
            group=np.zeros(1, np.int64),
            categories=("",),
            brands=("",),
        )
