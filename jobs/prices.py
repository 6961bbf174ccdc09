"""`shopkeeper prices propose|list|show|approve|reject|apply|take-back|outcome`: lists of prices as units."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jobs.cli.actions import chosen
from jobs.cli.context import Context, Outcome, UsageFailure, log
from jobs.cli.text_table import aligned
from jobs.prediction.answer_table import ERROR, TableAnswerer
from jobs.prediction.input_table import Columns
from jobs.prediction.recipe import recipe_of
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import CHAMPION, Registry, champion_uri
from models import FAMILIES
from models.documents import DocumentUnreadable, read_text
from models.family import Family
from models.price_lists.lists import Origin, PriceList, PriceListRefused, PriceLists
from models.price_lists.rows import PriceRow, read_sales

FAMILY = "pricing"
SHOWN = 40
"""So many changed prices are shown to people; --json has all rows."""
RESPONSE = "response"


@dataclass(frozen=True)
class Options:
    """What to do: propose, list, show ID, approve ID, reject ID, apply ID, take-back ID, outcome ID; with flags."""

    command: tuple[str, ...] = ()
    """What to do, such as show ID."""
    rules: str | None = None
    """For propose: the YAML file of rules that prices must keep."""
    products: str | None = None
    """For propose: a text file with an id of a product in each line; all products by default."""
    model: str | None = None
    """For propose: runs:/RUN_ID, models:/pricing@ALIAS, models:/pricing/VERSION or a directory; default is the
    champion."""
    explore: float | None = None
    """For propose: try out single steps of the ladder, drawn with known chances, for an expected loss of at most this
    profit a period."""
    sales: str | None = None
    """For outcome: a CSV or Parquet file with what was sold since: product, store (where there are stores), units."""
    periods: float = 1.0
    """For outcome: how many periods of the prepared data the sales are of."""
    by: str | None = None
    """Who decides, for the record; default is the login name."""
    reason: str | None = None
    """For reject, and to approve a list of another model or of other data than the current ones; for take-back too; to
    propose where the sales do not know the prices of an applied list yet."""

    def __post_init__(self) -> None:
        if self.explore is not None and not 0 <= self.explore < float("inf"):
            raise ValueError(f"--explore {self.explore} is not an amount of profit a period; use 0 or more")
        if not 0 < self.periods < float("inf"):
            raise ValueError(f"--periods {self.periods} is not a number of periods; use one above 0")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Make, show, decide on or apply a list; raises UsageFailure for what cannot be done, and changes nothing then."""
    actions: dict[str, Callable[[Context, Options, str], Outcome]] = {
        "propose": _propose,
        "list": _list,
        "show ID": _show,
        "approve ID": _approve,
        "reject ID": _reject,
        "apply ID": _apply,
        "take-back ID": _take_back,
        "outcome ID": _outcome,
    }
    action, rest = chosen(options.command, actions, verb="prices", what="lists of prices")
    try:
        return action(context, options, *(rest or [""]))
    except PriceListRefused as error:
        raise UsageFailure(str(error)) from error


def lists_of(context: Context) -> PriceLists:
    """The lists of prices of a store."""
    return PriceLists(context.store.root / FAMILY)


def origin_of(response: BaseModel, *, model: str, model_version: str, data: str, rules: tuple[str, str]) -> Origin:
    """What a response of the family says of its prices; `rules` are the name and the text of the file."""
    told, (name, text) = response.model_dump(mode="json"), rules
    return Origin(
        model=model,
        model_version=model_version,
        data=data,
        rules_name=name,
        rules=text,
        rules_sha256=hashlib.sha256(text.encode()).hexdigest(),
        verdict=told["verdict"],
        reason=told["reason"],
        claim=told["claim"],
        left_out=tuple(told.get("left_out", ())),
        broken=tuple(told.get("broken", ())),
    )


def rows_of(response: BaseModel) -> list[PriceRow]:
    """The rows of a response of the family."""
    return [PriceRow.model_validate(row) for row in response.model_dump(mode="json")["prices"]]


def request_of(context: Context, options: Options, rules: str) -> dict[str, Any]:
    """The request to the family: all offers or those of some products, at the prices that hold now."""
    request: dict[str, Any] = {"rules": rules}
    if options.products is not None:
        names = [line.strip() for line in _text(options.products, "products").splitlines()]
        request["products"] = wanted = [name for name in names if name]
        if not wanted:
            raise UsageFailure(f"--products {options.products} has no product; give the id of one in each line")
    current = [
        {"product_id": product, **({"store_id": store} if store else {}), "price": price}
        for (product, store), price in sorted(lists_of(context).current().prices.items())
    ]
    return {**request, "current": current} if current else request


def explored(
    origin: Origin, rows: Sequence[PriceRow], *, loss_budget: float, seed: int
) -> tuple[Origin, list[PriceRow]]:
    """A list of exploration instead of the recommendation; raises UsageFailure for rules that it cannot keep."""
    from models.pricing.exploration import explore  # with scipy, which lists need for nothing else
    from models.pricing.rules import parse_rules

    try:
        found = explore(rows, parse_rules(origin.rules, Path(origin.rules_name)), loss_budget=loss_budget, seed=seed)
    except ValueError as error:
        raise UsageFailure(str(error)) from error
    reason = (
        f"exploration: single steps, drawn with known chances from the seed {seed}; expected to lose {found.loss:.2f} "
        f"of profit a period, at most {loss_budget:g}"
    )
    changed = {"kind": "exploration", "verdict": "exploration", "reason": reason, "claim": None, "left_out": ()}
    return origin.model_copy(update=changed), found.rows


def _propose(context: Context, options: Options, nothing: str) -> Outcome:
    if options.rules is None:
        raise UsageFailure("say which rules the prices must keep: --rules FILE; see docs/pricing-rules.md")
    if FAMILY not in FAMILIES:
        raise UsageFailure(f"the family {FAMILY} is not installed; install shopkeeper[{FAMILY}]")
    rules = _rules(options.rules)
    if options.explore is None and not (options.reason or "").strip():
        _require_newer_sales(context)
    request = request_of(context, options, rules)
    tracking = Tracking(context)
    tracking.deliver_spool()
    located = locate_model(context, options.model or champion_uri(FAMILY), tracking=tracking)
    log.info("asking %s for prices of %s", located.uri, "some products" if "products" in request else "all products")
    response = _asked(context, located, request)
    origin = origin_of(
        response,
        model=located.uri,
        model_version=located.name,
        data=context.store.current_data(FAMILY).fingerprint,
        rules=(Path(options.rules).name, rules),
    )
    rows = rows_of(response)
    if not rows:
        raise UsageFailure(origin.reason)
    if options.explore is not None:
        origin, rows = explored(origin, rows, loss_budget=options.explore, seed=secrets.randbits(32))
    if not any(row.is_changed for row in rows):
        details = {"id": None, "verdict": origin.verdict, "reason": origin.reason, "claim": origin.claim}
        rows_told = [row.model_dump(mode="json") for row in rows]
        return Outcome("none", details={**details, "prices": rows_told}, summary=f"  no list was made: {origin.reason}")
    return _described(context, lists_of(context).propose(rows, origin, by=_by(options)), "proposed")


def _require_newer_sales(context: Context) -> None:
    """Raise UsageFailure if prices hold that the sales do not know: the same data would go on from guesses."""
    data = context.store.current_data(FAMILY).fingerprint
    same = [one for one in lists_of(context).all() if one.state == "applied" and one.record.origin.data == data]
    if same:
        ids = ", ".join(one.record.id for one in same)
        prepare = context.command(f"prepare {FAMILY} --raw PATH")
        raise UsageFailure(
            f"the current data have no sales at the prices of {ids}, which was computed from them and is applied; run "
            f"`{prepare}` with newer sales first, try steps out with --explore, or give --reason TEXT"
        )


def _asked(context: Context, located: LocatedModel, request: dict[str, Any]) -> BaseModel:
    """The response of the family's first endpoint; raises UsageFailure with its reason if there is none."""
    family = FAMILIES[FAMILY]
    recipe = recipe_of(context, family, located, columns=Columns({}, ()))
    (cells,) = TableAnswerer(recipe, to_cells=lambda response: {RESPONSE: response}).answer_rows([request])
    if cells.get(ERROR):
        raise UsageFailure(cells[ERROR])
    response: BaseModel = cells[RESPONSE]
    return response


def _list(context: Context, options: Options, nothing: str) -> Outcome:
    found = [_facts(one) for one in lists_of(context).all()]
    if not found:
        propose = context.command("prices propose --rules FILE")
        return Outcome("none", details={"lists": []}, summary=f"  no lists of prices; `{propose}` makes one")
    lines = [["id", "state", "changes", "kind", "claim", "since", "by"]]
    for one in found:
        last = one["history"][-1]
        claim = f"{one['claim']['reestimated']:+.1%}" if one["claim"] else "-"
        changes = f"{one['num_changes']} of {one['num_offers']}"
        lines.append([one["id"], one["state"], changes, one["kind"], claim, last["at"][:19], last["by"]])
    return Outcome(
        details={"lists": found}, summary="\n".join(f"  {line}" for line in aligned(lines, to_the_right=False))
    )


def _show(context: Context, options: Options, list_id: str) -> Outcome:
    return _described(context, lists_of(context).get(list_id), "ok")


def _approve(context: Context, options: Options, list_id: str) -> Outcome:
    lists = lists_of(context)
    wanted = lists.get(list_id)
    if not (options.reason or "").strip() and (changed := _outdated(context, wanted)):
        raise UsageFailure(f"{list_id} {changed}; propose a new list, or approve it with --reason TEXT")
    return _described(context, lists.approve(list_id, by=_by(options), reason=options.reason or ""), "approved")


def _outdated(context: Context, wanted: PriceList) -> str | None:
    """What is no longer as it was when the list was made, as a part of a sentence."""
    origin = wanted.record.origin
    champion = Registry(Tracking(context)).get_alias(FAMILY, CHAMPION)
    if origin.model_version != champion:
        now = f"the champion is version {champion}" if champion else "there is no champion"
        return f"is by the model {origin.model}, and {now}"
    data = context.store.current_data(FAMILY).fingerprint
    if origin.data != data:
        return f"is of the data {origin.data[:16]}, and the current data are {data[:16]}"
    return None


def _reject(context: Context, options: Options, list_id: str) -> Outcome:
    if not (options.reason or "").strip():
        raise UsageFailure("reject needs --reason TEXT, which is kept with the list")
    found = lists_of(context).reject(list_id, by=_by(options), reason=options.reason or "")
    return _described(context, found, "rejected")


def _apply(context: Context, options: Options, list_id: str) -> Outcome:
    return _described(context, lists_of(context).apply(list_id, by=_by(options)), "applied")


def _take_back(context: Context, options: Options, list_id: str) -> Outcome:
    found = lists_of(context).take_back(list_id, by=_by(options), reason=options.reason or "")
    return _described(context, found, "taken back")


def _outcome(context: Context, options: Options, list_id: str) -> Outcome:
    from models.pricing.exploration import outcome

    if options.sales is None:
        raise UsageFailure("outcome needs --sales FILE, with the columns product, store and units")
    found = lists_of(context).get(list_id)
    if found.state not in ("applied", "taken back"):
        raise UsageFailure(f"{list_id} is {found.state}: prices that never held have no outcome")
    rows = found.rows()
    try:
        units = read_sales(Path(options.sales))
        told = outcome(rows, units, num_periods=options.periods)
    except ValueError as error:
        raise UsageFailure(str(error)) from error
    unknown = len(units.keys() - {row.key for row in rows})
    unsold = sum(row.key not in units for row in rows)
    details = {"id": list_id, **dataclasses.asdict(told), "unknown_offers": unknown, "offers_without_sales": unsold}
    summary = (
        f"  profit of {told.num_offers} offers that were tried out: {told.earned:.2f}\n"
        f"  at the prices of before, estimated: {told.at_old_prices:.2f} ± {told.error:.2f} (standard error, by "
        f"{told.effective_offers:.1f} effective offers)\n"
        f"  {unsold} offers of the list have no sales and count as zero; {unknown} of the sales are not of the list"
    )
    return Outcome(details=details, summary=summary)


def _described(context: Context, found: PriceList, status: str) -> Outcome:
    """The list with its changed prices, and what can be done with it next."""
    facts, rows = _facts(found), found.rows()
    details = {**facts, "current_prices": str(lists_of(context).current_directory)}
    lines = [f"  {found.record.id} is {found.state}: {facts['num_changes']} of {facts['num_offers']} prices change"]
    lines += [f"  {found.record.origin.reason}"]
    lines += [f"  left out: {text}" for text in found.record.origin.left_out]
    lines += [f"  today's prices do not keep {text}" for text in found.record.origin.broken]
    lines += [
        f"  {entry['state']} by {entry['by']} at {entry['at'][:19]} {entry['reason']}" for entry in facts["history"]
    ]
    lines += _table([row for row in rows if row.is_changed])
    if following := {"proposed": "approve", "approved": "apply", "applied": "take-back"}.get(found.state):
        lines.append(f"  next: `{context.command(f'prices {following} {found.record.id}')}`")
    told = [row.model_dump(mode="json") for row in rows]
    return Outcome(status, details={**details, "prices": told}, summary="\n".join(line.rstrip() for line in lines))


def _table(rows: Sequence[PriceRow]) -> list[str]:
    lines = [["product", "store", "old", "new", "profit a period", "reason"]]
    for row in rows[:SHOWN]:
        both = row.profit is not None and row.profit_today is not None
        profit = f"{row.profit_today:.2f} -> {row.profit:.2f}" if both else "-"
        lines.append([row.product, row.store, f"{row.old:.2f}", f"{row.new:.2f}", profit, row.reason])
    more = [f"  and {len(rows) - SHOWN} more, see --json"] if len(rows) > SHOWN else []
    return [f"  {line}" for line in aligned(lines, to_the_right=False)] + more


def _facts(found: PriceList) -> dict[str, Any]:
    origin = found.record.origin.model_dump(mode="json")
    history = [{"state": one.state, "by": one.by, "at": one.at, "reason": one.reason} for one in found.history]
    own = {"id": found.record.id, "state": found.state, "directory": str(found.directory), "history": history}
    return {**own, "num_offers": found.record.num_offers, "num_changes": found.record.num_changes, **origin}


def _rules(path: str) -> str:
    """The text of a file of rules; raises UsageFailure with every mistake in it."""
    from models.pricing.rules import parse_rules

    text = _text(path, "rules")
    try:
        parse_rules(text, Path(path))
    except ValueError as error:
        raise UsageFailure(str(error)) from error
    return text


def _text(path: str, what: str) -> str:
    try:
        return read_text(Path(path).expanduser(), what)
    except DocumentUnreadable as error:
        raise UsageFailure(str(error)) from error


def _by(options: Options) -> str:
    if options.by is not None:
        if not options.by.strip() or not options.by.isprintable():
            raise UsageFailure(f"--by {options.by!r} is no name; give that of who decides, in one line")
        return options.by.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return f"user {os.getuid()}"
