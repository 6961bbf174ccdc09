"""`shopkeeper erase USER ...`: forgets users everywhere in a store, says what is left, and proves that it is gone."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import (
    EXIT_DEPENDENCY_DOWN,
    EXIT_FAILED,
    Context,
    Failure,
    Outcome,
    UsageFailure,
    described,
    log,
)
from jobs.erasure.pending import FEATURES, finish, update_receipts, with_users
from jobs.erasure.proof import proof
from jobs.erasure.purge import purge
from jobs.erasure.remaining import remaining
from jobs.serving.event_store import event_addresses
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import champion_uri
from models import FAMILIES
from models.erasure.erased import checked_id
from models.erasure.receipts import Receipt, Trace
from models.erasure.request import erase_at_once
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable
from models.family import Family

MAX_SHOWN = 20


@dataclass(frozen=True)
class Options:
    """Whom to erase, or what to do instead."""

    command: tuple[str, ...] = ()
    """User ids."""
    from_file: str | None = None
    """File with more user ids, one a line."""
    family: str | None = None
    """Only clean the prepared data of this family now; the user is unknown to all families all the same."""
    lift: bool = False
    """The user has consented anew: they are known again, and events from now on count."""
    pending: bool = False
    """Finish erasures, such as those that came over HTTP, without a user id."""
    verify: bool = False
    """Change nothing, and report what is left of a user now; exit code 1 if something is."""
    prove: bool = False
    """Change nothing, and check that a model and its data know nothing of a user; exit code 1 if a check fails."""
    model: str | None = None
    """Model to prove: runs:/RUN_ID, models:/FAMILY/VERSION, models:/FAMILY@ALIAS or a directory; default champion."""
    purge: bool = False
    """Delete the models that were trained with an erased user, but for the champion and what is deployed."""

    def __post_init__(self) -> None:
        modes = [name for name in ("lift", "pending", "verify", "prove", "purge") if getattr(self, name)]
        if len(modes) > 1:
            raise ValueError(f"--{modes[0]} and --{modes[1]} are two things to do; give one")
        if self.family is not None and self.family not in FAMILIES:
            raise ValueError(f"--family {self.family!r} is unknown; there are {', '.join(sorted(FAMILIES))}")
        if self.model is not None and not self.prove:
            raise ValueError("--model names the model of --prove; give both")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Erase users, or do what a flag says; raises UsageFailure for an id that nobody can have, and changes nothing."""
    users = _users(options)
    families = with_users([FAMILIES[options.family]] if options.family else None)
    context.store.check(writes=not (options.verify or options.prove))
    if not users and not (options.pending or options.purge):
        raise UsageFailure("name the user: `shopkeeper erase USER`, or --from-file FILE; --pending needs none")
    if users and (options.pending or options.purge):
        raise UsageFailure("--pending and --purge are for all erased users; leave the ids out")
    try:
        if options.lift:
            return _lift(context, users)
        if options.verify:
            return _verify(context, users)
        if options.prove:
            return _prove(context, users, options)
        if options.purge:
            return purge(context)
        return _erase(context, users, families)
    except TombstonesUnreadable as error:
        raise UsageFailure(str(error)) from error


def _users(options: Options) -> list[str]:
    flags = [word for word in options.command if word.startswith("--")]
    if flags:
        raise UsageFailure(f"unknown flag {flags[0]}; see `shopkeeper erase --help`; put such an id into --from-file")
    given = list(options.command)
    if options.from_file is not None:
        try:
            lines = Path(options.from_file).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UsageFailure(f"--from-file {options.from_file} is not UTF-8: {error}; write one id a line") from None
        given += [line.removesuffix("\r") for line in lines if line.strip()]
    try:
        return list(dict.fromkeys(checked_id(one) for one in given))
    except ValueError as error:
        raise UsageFailure(str(error)) from None


def _erase(context: Context, users: list[str], families: Collection[Family]) -> Outcome:
    receipts: list[Receipt] = []
    with _told_what_is_done(context, users):
        if users:
            addresses = event_addresses(context)
            receipts = erase_at_once(context.store.root, users, events=addresses[-1] if addresses else None)
            log.info("%d users are unknown from now on", len(users))
        found = finish(context, families)
        own = {receipt.user for receipt in receipts}
        later = update_receipts(context, found=found, users=own or None)
    asked = {receipt.receipt_id for receipt in receipts}
    outcome = _outcome(context, [each for each in later if each.receipt_id in asked or not asked])
    return dataclasses.replace(outcome, exit_code=_exit_code(found))


@contextmanager
def _told_what_is_done(context: Context, users: Sequence[str]) -> Iterator[None]:
    """An error after the tombstones says that the users are unknown, and how to finish."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        try:
            are_unknown = all(Tombstones(context.store.tombstones).erased_of(users)) and bool(users)
        except TombstonesUnreadable:
            are_unknown = False
        if not are_unknown:
            raise
        reason = described(error) if type(error) is OSError else str(error)
        raise Failure(
            f"{reason}; {len(users)} users are unknown from now on, but not all of their data are deleted: "
            f"`{context.command('erase --pending')}` finishes it"
        ) from error


def _exit_code(found: Collection[Trace]) -> int:
    """Of what could not be deleted: a store that does not answer now, or a file that somebody has to mend."""
    failed = {trace.what for trace in found if trace.state == "pending"}
    if failed & {"events", FEATURES}:
        return EXIT_DEPENDENCY_DOWN
    return EXIT_FAILED if failed else 0


def _lift(context: Context, users: list[str]) -> Outcome:
    tombstones = Tombstones(context.store.tombstones)
    lifted = sum(tombstones.lift(user) for user in users)
    return Outcome(status="lifted" if lifted else "unchanged", details={"lifted": lifted, "users": len(users)})


def _verify(context: Context, users: list[str]) -> Outcome:
    found = {user: remaining(context, user) for user in users}
    left = {user: traces for user, traces in found.items() if any(trace.state != "outside" for trace in traces)}
    tombstones = Tombstones(context.store.tombstones)
    erased = dict(zip(users, tombstones.erased_of(users), strict=True))
    details = {
        "users": [
            {"user": user, "is_erased": erased[user], "left": [_as_json(trace) for trace in traces]}
            for user, traces in found.items()
        ]
    }
    lines = [line for user, traces in found.items() for line in _lines(user, traces)]
    if left:
        raise Failure("\n".join([f"something is left of {len(left)} of {len(users)} users:", *lines]), **details)
    return Outcome(status="none", details=details, summary="\n".join(lines))


def _prove(context: Context, users: list[str], options: Options) -> Outcome:
    family = FAMILIES[options.family or "recommender"]
    located = locate_model(context, options.model or champion_uri(family.name))
    checks = [(user, check) for user in users for check in proof(context.store, family, located.directory, user)]
    details = {"model": located.uri, "checks": [{"user": user, **dataclasses.asdict(check)} for user, check in checks]}
    lines = [f"  {'ok    ' if check.passed else 'FAILED'} {check.name}: {check.found}" for _, check in checks]
    if not all(check.passed for _, check in checks):
        raise Failure("\n".join([f"{located.uri} is not proven to be without the user:", *lines]), **details)
    return Outcome(status="proven", details=details, summary="\n".join([f"  {located.uri}", *lines]))


def _outcome(context: Context, receipts: Collection[Receipt]) -> Outcome:
    """The receipts for programs, and for people what was deleted, what is left, and the commands that finish it."""
    states = {receipt.status for receipt in receipts}
    status = next((state for state in ("pending", "held", "maybe") if state in states), "erased")
    lines = [line for receipt in list(receipts)[:MAX_SHOWN] for line in _receipt_lines(context, receipt)]
    if len(receipts) > MAX_SHOWN:
        lines.append(f"  and {len(receipts) - MAX_SHOWN} more receipts in {context.store.root / 'erasures'}")
    shown = [{"status": each.status, **each.model_dump(mode="json", exclude_none=True)} for each in receipts]
    return Outcome(status=status, details={"receipts": shown}, summary="\n".join(lines) or "  nobody was ever erased")


def _receipt_lines(context: Context, receipt: Receipt) -> list[str]:
    head = f"  receipt {receipt.receipt_id}: {receipt.status}"
    if not any(trace.state in ("deleted", "pending", "held", "maybe") for trace in receipt.traces):
        head += "; nothing was found, and the user stays unknown to later data"
    return [head, *_lines("", receipt.traces)[1:]]


def _lines(user: str, traces: Collection[Trace]) -> list[str]:
    lines = [f"  {user}: {'' if traces else 'nothing is left'}"]
    for trace in traces:
        count = f", {trace.count:,} rows" if trace.count is not None else ""
        new = f", replaced by {trace.new_fingerprint[:16]}" if trace.new_fingerprint else ""
        note = f" ({trace.note})" if trace.note else ""
        lines.append(f"    {trace.state:<8} {trace.what} {trace.where}{count}{new}{note}")
    remedies = dict.fromkeys(trace.remedy for trace in traces if trace.remedy and trace.state != "deleted")
    return [*lines, *(f"    to do: {remedy}" for remedy in remedies)]


def _as_json(trace: Trace) -> dict[str, Any]:
    return trace.model_dump(mode="json", exclude_none=True)
