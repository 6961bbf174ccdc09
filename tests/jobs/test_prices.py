"""`shopkeeper prices`: from a recommendation to prices that hold in the shop, and back."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import prepare, prices
from jobs.__main__ import main
from jobs.cli.context import Context, Outcome, Store, UsageFailure
from jobs.prices import Options, explored, lists_of, origin_of, request_of, rows_of
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES
from models.price_lists.rows import read_sales
from models.pricing.optimise import Settings
from models.pricing.recommend import recommend
from models.pricing.responses import RecommendResponse, response_of
from models.pricing.rules import parse_rules
from tests.kit.other_user import NOBODY, needs_other_user
from tests.models.pricing.fitted_shop import USUAL, fitted_to, offers_at, panel_with
from tests.models.pricing.shops import calendar

RULES = "ladder: {step: 0.1}\nlargest_change: {share: 0.1}\n"


def answered(price: float = USUAL) -> RecommendResponse:
    """The family's answer for two products, of which one should be dearer and one cheaper."""
    fitted, state = fitted_to(panel_with(np.array([-1.3, -4.0]), noise=0.2))
    offers = offers_at(state, np.full(2, price), np.full(2, 1.6))
    rules = parse_rules(RULES, Path("rules.yaml"))
    found = recommend(
        offers, state, fitted, rules, calendar=calendar(), settings=Settings(), flags=[[] for _ in range(2)]
    )
    return response_of(found, "3")


@pytest.fixture(scope="module")
def answer() -> RecommendResponse:
    return answered()


def propose(store: Store, answer: RecommendResponse) -> str:
    origin = origin_of(answer, model="models:/pricing/3", model_version="3", data="abc", rules=("rules.yaml", RULES))
    return lists_of(Context(store)).propose(rows_of(answer), origin, by="ann").record.id


def run(store: Store, *command: str, **options: Any) -> Outcome:
    return prices.run(Context(store), None, Options(command=command, **options), None)


def line(capsys: pytest.CaptureFixture[str], *command: str | Path) -> dict[str, Any]:
    """The JSON line of a command."""
    main(["prices", *map(str, command), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_recommendation_becomes_prices_that_hold_and_is_taken_back(
    store: Store, answer: RecommendResponse, capsys: pytest.CaptureFixture[str]
) -> None:
    found = propose(store, answer)
    where: Sequence[str | Path] = ("--store", store.root)

    shown = line(capsys, "show", found, *where)
    assert (shown["state"], shown["num_changes"], shown["verdict"]) == ("proposed", 2, "recommended")
    assert shown["claim"]["low"] > 0 and shown["rules"] == RULES
    assert [row["new"] for row in shown["prices"]] == pytest.approx([3.3, 2.7])
    assert all(row["reason"] and row["effect"] is not None for row in shown["prices"])

    assert line(capsys, "approve", found, "--by", "bob", "--reason", "seen", *where)["status"] == "approved"
    assert line(capsys, "apply", found, *where)["status"] == "applied"
    current = lists_of(Context(store)).current().prices
    assert current == pytest.approx({("p0", ""): 3.3, ("p1", ""): 2.7})
    assert line(capsys, "take-back", found, *where)["status"] == "taken back"
    assert lists_of(Context(store)).current().prices == {("p0", ""): 3.0, ("p1", ""): 3.0}
    listed = line(capsys, "list", *where)["lists"]
    assert [(one["id"], one["state"], one["history"][1]["by"]) for one in listed] == [(found, "taken back", "bob")]


def test_people_see_the_changes_their_reasons_and_the_next_step(
    store: Store, answer: RecommendResponse, capsys: pytest.CaptureFixture[str]
) -> None:
    found = propose(store, answer)

    assert main(["prices", "show", found, "--store", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "3.00  3.30" in shown and "demand is less elastic than its margin needs" in shown
    assert f"next: `shopkeeper prices approve {found} --store {store.root}`" in shown
    assert main(["prices", "list", "--store", str(store.root)]) == 0
    assert "proposed  2 of 2" in capsys.readouterr().out


def test_a_store_without_lists_says_how_to_make_one(store: Store) -> None:
    assert "prices propose --rules FILE" in (run(store, "list").summary or "")
    assert not store.root.exists(), "looking at lists writes nothing"


def test_a_list_of_another_model_is_approved_only_with_a_reason(store: Store, answer: RecommendResponse) -> None:
    found = propose(store, answer)

    with pytest.raises(UsageFailure, match=r"is by the model models:/pricing/3, and there is no champion; propose a"):
        run(store, "approve", found)
    assert lists_of(Context(store)).get(found).state == "proposed"

    run(store, "approve", found, reason="checked by hand")
    assert lists_of(Context(store)).get(found).history[-1].reason == "checked by hand"


def test_the_request_has_the_prices_that_hold_now(store: Store, answer: RecommendResponse, tmp_path: Path) -> None:
    context, some = Context(store), tmp_path / "some.txt"
    some.write_text("p1\n\n")
    assert request_of(context, Options(), RULES) == {"rules": RULES}
    found = propose(store, answer)
    run(store, "approve", found, reason="x")
    run(store, "apply", found)

    everything, one = request_of(context, Options(), RULES), request_of(context, Options(products=str(some)), RULES)

    assert [each["product_id"] for each in everything["current"]] == ["p0", "p1"]
    assert everything["current"][0]["price"] == pytest.approx(3.3)
    assert one["products"] == ["p1"] and one["current"] == everything["current"], "rivals' prices count, too"


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ((), {}, "say what to do with lists of prices: propose, list, show ID"),
        (("show",), {}, "got 'show'"),
        (("show", "1"), {}, "there is no list of prices '1'; there are none yet"),
        (("list", "--all"), {}, "unknown flag --all"),
        (("propose",), {}, "say which rules the prices must keep: --rules FILE"),
        (("reject", "1"), {}, "reject needs --reason TEXT"),
        (("apply", "1"), {"by": " "}, "--by ' ' is no name"),
        (("apply", "1"), {"by": "ann\nbob"}, "give that of who decides, in one line"),
    ],
)
def test_what_cannot_be_done_is_named_with_its_remedy(
    store: Store, command: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageFailure, match=said):
        run(store, *command, **options)


def test_a_file_of_products_without_one_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n \n")
    with pytest.raises(UsageFailure, match=r"none.txt has no product; give the id of one in each line"):
        request_of(Context(store), Options(products=str(tmp_path / "none.txt")), RULES)
    with pytest.raises(UsageFailure, match=r"there is no file .*missing.txt"):
        request_of(Context(store), Options(products=str(tmp_path / "missing.txt")), RULES)


def test_of_two_processes_at_once_one_applies_and_the_other_is_told(store: Store, answer: RecommendResponse) -> None:
    found = propose(store, answer)
    run(store, "approve", found, reason="x")
    command = [sys.executable, "-m", "jobs", "prices", "apply", found, "--store", str(store.root)]

    both = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted((one.wait(120), one.communicate()[1]) for one in both)

    assert [code for code, _ in told] == [0, 2]
    assert "is applied by" in told[1][1] and "cannot be applied" in told[1][1]
    assert len(lists_of(Context(store)).current().ledger) == 1


@needs_other_user
def test_another_user_can_look_but_changes_nothing(store: Store, answer: RecommendResponse) -> None:
    found = propose(store, answer)
    for path in (store.root, *store.root.parents):
        if path.owner() == "root" and path != Path("/tmp") and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)

    shown = _as_nobody(lambda: run(store, "show", found))
    refused = _as_nobody(lambda: run(store, "reject", found, reason="x"))

    assert (shown, refused) == (0, errno.EACCES)
    assert lists_of(Context(store)).get(found).state == "proposed"


def _as_nobody(action: Callable[[], object]) -> int:
    """The exit code of a child process of another user: that of the error where it is not allowed."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(int(NOBODY))
            os.setuid(int(NOBODY))
            action()
        except PermissionError as error:
            os._exit(error.errno or 1)
        except BaseException:  # noqa: BLE001  a child of a test must not go on with the test
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_list_of_exploration_says_so_and_its_outcome_is_estimated(
    store: Store, answer: RecommendResponse, tmp_path: Path
) -> None:
    origin = origin_of(answer, model="models:/pricing/3", model_version="3", data="abc", rules=("rules.yaml", RULES))
    seeds = (explored(origin, rows_of(answer), loss_budget=1e9, seed=seed) for seed in range(100))
    tried, rows = next((told, rows) for told, rows in seeds if [row.is_changed for row in rows] == [True, False])
    found = lists_of(Context(store)).propose(rows, tried, by="ann").record.id
    sales = tmp_path / "sales.csv"
    sales.write_text("product,units\np0,50\np0,40\np1,120\nzz,1\n")
    with pytest.raises(UsageFailure, match="prices that never held have no outcome"):
        run(store, "outcome", found, sales=str(sales))
    run(store, "approve", found, reason="x")
    run(store, "apply", found)

    told = run(store, "outcome", found, sales=str(sales)).details

    assert run(store, "list").details["lists"][0]["kind"] == "exploration"
    assert told["earned"] == pytest.approx(90 * (rows[0].new - 1.6) + 120 * 1.4)
    assert (told["num_offers"], told["unknown_offers"], told["offers_without_sales"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item,units\na,1\n", "it has no column product; the columns are item, units"),
        ("product,units\na,-1\n", "row 1 needs a product and units of 0 or more"),
        ("product,units\na,many\n", "cannot be read as sales"),
    ],
)
def test_a_file_of_sales_with_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sales.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"sales.csv.*{said}"):
        read_sales(tmp_path / "sales.csv")


def test_rules_that_exploration_cannot_keep_are_refused(answer: RecommendResponse) -> None:
    text = RULES + "mean_price: {at_most: 1.0}\n"
    origin = origin_of(answer, model="m", model_version="3", data="abc", rules=("rules.yaml", text))
    with pytest.raises(UsageFailure, match=r"rules.yaml:3: mean_price ties prices together"):
        explored(origin, rows_of(answer), loss_budget=1, seed=0)


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store with the prepared data of the family's sample, and a model that was hardly trained."""
    root = tmp_path_factory.mktemp("modelled")
    store, family = Store(root / "store"), FAMILIES[prices.FAMILY]
    assert family.sample is not None
    made = family.sample(root / "raw")
    prepare.run(Context(store), family, prepare.Options(), family.PrepareConfig(**made.prepare))
    result = run_training(
        family,
        config=family.Config(epochs=1, hidden=16, trees=10, members=2, batch_size=512, learning_rate=0.01),
        data=store.current_data(prices.FAMILY),
        directory=root / "run",
        worker=WorkerContext(),
        report=lambda _: None,
    )
    return store, result.best


def test_the_family_is_asked_for_all_offers_and_then_from_the_prices_that_hold(
    modelled: tuple[Store, Path], tmp_path: Path
) -> None:
    store, model = modelled
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "some.txt").write_text("tea-0\n")
    asked = {"rules": str(tmp_path / "rules.yaml"), "model": str(model)}

    tried = run(store, "propose", explore=50.0, **asked).details

    assert (tried["kind"], tried["num_offers"], tried["model"]) == ("exploration", 24, str(model))
    assert tried["data"] == store.current_data(prices.FAMILY).fingerprint
    assert all(abs(row["new"] - row["old"]) <= 0.1 + 1e-9 for row in tried["prices"])
    run(store, "approve", tried["id"], reason="test")
    run(store, "apply", tried["id"])
    after = run(store, "propose", explore=50.0, **asked, products=str(tmp_path / "some.txt")).details
    news = {(row["product"], row["store"]): row["new"] for row in tried["prices"]}
    assert {(row["product"], row["store"]) for row in after["prices"]} == {("tea-0", "north"), ("tea-0", "south")}
    assert all(row["old"] == pytest.approx(news[row["product"], row["store"]]) for row in after["prices"])


def test_a_second_list_of_the_same_data_needs_newer_sales_or_a_reason(
    modelled: tuple[Store, Path], answer: RecommendResponse, tmp_path: Path
) -> None:
    store, model = modelled
    (tmp_path / "rules.yaml").write_text(RULES)
    asked = {"rules": str(tmp_path / "rules.yaml"), "model": str(model)}
    data = store.current_data(prices.FAMILY).fingerprint
    origin = origin_of(answer, model="m", model_version="3", data=data, rules=("rules.yaml", RULES))
    found = lists_of(Context(store)).propose(rows_of(answer), origin, by="ann").record.id
    run(store, "approve", found, reason="test")
    run(store, "apply", found)

    with pytest.raises(UsageFailure, match=rf"the current data have no sales at the prices of .*{found}.* newer sales"):
        run(store, "propose", **asked)

    assert run(store, "propose", reason="a test", **asked).status in ("proposed", "none")
    run(store, "take-back", found)


def test_a_mistake_in_the_rules_is_named_and_no_list_is_made(modelled: tuple[Store, Path], tmp_path: Path) -> None:
    store, model = modelled
    (tmp_path / "rules.yaml").write_text("ladder: {step: 0.1}\nfixed: {only: {products: [tee-0]}}\n")
    before = len(lists_of(Context(store)).all())

    with pytest.raises(UsageFailure, match=r"fixed.only.products: 'tee-0' is none of the 12 products"):
        run(store, "propose", rules=str(tmp_path / "rules.yaml"), model=str(model), reason="x")

    assert len(lists_of(Context(store)).all()) == before
