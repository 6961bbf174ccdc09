"""`shopkeeper keys create|list|revoke|rotate`: the API keys of the store's endpoint."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.cli.actions import chosen
from jobs.cli.context import Context, Failure, Outcome, UsageFailure
from jobs.cli.text_table import aligned
from jobs.serving.access import changed_keys
from models.family import Family
from models.keys import INTERNAL, NAME, SCOPES, Key, KeysUnreadable, Scope, make_key, read_keys

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Options:
    """What to do: create NAME, list, revoke ID, rotate NAME; and the flags of create and rotate."""

    command: tuple[str, ...] = ()
    """What to do, such as create NAME."""
    scopes: tuple[str, ...] = ()
    """For create: what the key is good for, of read, events, erase and admin."""
    rate: str | None = None
    """For create: most requests with the key, such as 50/s, 1000/min or 10000/h; no limit by default."""
    overlap_days: float = 7.0
    """For rotate: days during which the old key is valid too."""

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise ValueError(f"--scopes {scope} is unknown; there are {', '.join(SCOPES)}")
        if self.rate is not None:
            requests_per_s(self.rate)
        if not 0.0 <= self.overlap_days <= 3650.0:
            raise ValueError(f"--overlap-days {self.overlap_days} is not a number of days; use 0 to 3650")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Change or list the keys; a running endpoint follows within seconds."""
    actions: dict[str, Callable[[Context, Options, str], Outcome]] = {
        "create NAME": _create,
        "list": _list,
        "revoke ID": _revoke,
        "rotate NAME": _rotate,
    }
    action, rest = chosen(options.command, actions, verb="keys", what="the keys")
    return action(context, options, *(rest or [""]))


def requests_per_s(rate: str) -> float:
    """`50/s`, `1000/min`, `10000/h` -> requests per second; raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|min|h)", rate)
    if not found or not float(found[1]):
        raise ValueError(f"--rate {rate} is not a rate; give one such as 50/s, 1000/min or 10000/h")
    return float(found[1]) / SECONDS[found[2]]


def _create(context: Context, options: Options, name: str) -> Outcome:
    _check_name(name)
    if not options.scopes:
        raise UsageFailure(f"say what the key is good for, such as --scopes read,events; there are {', '.join(SCOPES)}")
    scopes: list[Scope] = [scope for scope in SCOPES if scope in options.scopes]
    rate = requests_per_s(options.rate) if options.rate else None
    with changed_keys(context.store) as keys:
        if any(key.name == name and key.is_valid(time.time()) for key in keys.values()):
            rotate = context.command(f"keys rotate {name}")
            raise UsageFailure(f"there is a key {name} already; `{rotate}` replaces it, or choose another name")
        key, secret = make_key(name, scopes=scopes, requests_per_s=rate, taken=keys)
        keys[key.id] = key
    return _made(key, secret)


def _rotate(context: Context, options: Options, name: str) -> Outcome:
    now_s = time.time()
    with changed_keys(context.store) as keys:
        valid = [key for key in keys.values() if key.name == name and key.is_valid(now_s)]
        if name == INTERNAL:
            raise UsageFailure(f"{INTERNAL} is the verbs' own key; `revoke` it, and a new one is made")
        if not valid:
            raise UsageFailure(f"there is no valid key {name}; `{context.command('keys list')}` shows what there is")
        if len(valid) > 1:
            ids = ", ".join(key.id for key in sorted(valid, key=lambda key: key.created_s))
            raise UsageFailure(f"two keys {name} are valid already ({ids}); revoke the old one first")
        (old,) = valid
        key, secret = make_key(name, scopes=old.scopes, requests_per_s=old.requests_per_s, taken=keys)
        ends_s = now_s + options.overlap_days * DAY_S
        keys[old.id] = old.model_copy(update={"ends_s": min(ends_s, old.ends_s or ends_s)})
        keys[key.id] = key
    return _made(key, secret, old={"id": old.id, "ends": _time(keys[old.id].ends_s)})


def _revoke(context: Context, options: Options, identifier: str) -> Outcome:
    with changed_keys(context.store) as keys:
        if identifier not in keys:
            known = context.command("keys list")
            raise UsageFailure(f"there is no key with the id {identifier!r}; `{known}` shows the ids")
        key = keys.pop(identifier)
    valid = [other for other in keys.values() if other.name != INTERNAL and other.is_valid(time.time())]
    if key.name == INTERNAL:
        note = "\n  the verbs have a new one"
    elif not valid:
        note = "\n  no key of a client is left: the endpoint refuses their requests until there is one"
    else:
        note = "".join(
            f"\n  {other.name} ({other.id}) is still valid{f', until {_time(other.ends_s)}' if other.ends_s else ''}"
            for other in valid
            if other.name == key.name
        )
    return Outcome(status="revoked", details={"id": key.id, "name": key.name}, summary=f"  {key.name} ({key.id}){note}")


def _list(context: Context, options: Options, nothing: str) -> Outcome:
    try:
        keys = read_keys(context.store.keys)
    except KeysUnreadable as error:
        raise Failure(str(error)) from error
    if keys is None:
        text = "no keys: an endpoint is open, on this machine only unless --unguarded; one that had keys refuses all"
        return Outcome(status="none", details={"keys": []}, summary=f"  {text}")
    rows = [_described(key) for key in sorted(keys.by_id.values(), key=lambda key: (key.name, key.created_s))]
    return Outcome(details={"keys": rows}, summary="\n".join(_table(rows)))


def _made(key: Key, secret: str, **more: Any) -> Outcome:
    old = f"\n  the old key, {more['old']['id']}, is valid until {more['old']['ends']}" if more else ""
    summary = f"  {_in_words(key)}{old}\n  shown this once, keep it safe:\n\n{secret}\n"
    return Outcome(status="created", details={**_described(key), "key": secret, **more}, summary=summary)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [["id", "name", "scopes", "rate", "created", "ends"]]
    for row in rows:
        rate = f"{row['requests_per_s']:g}/s" if row["requests_per_s"] else "no limit"
        ends = f"{row['ends'] or 'no end'}{'' if row['valid'] else ' (ended)'}"
        lines.append([row["id"], row["name"], ",".join(row["scopes"]), rate, row["created"], ends])
    return [f"  {line}" for line in aligned(lines, to_the_right=False)]


def _in_words(key: Key) -> str:
    return f"{key.name} ({key.id}), scopes {', '.join(sorted(key.scopes))}"


def _described(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": [scope for scope in SCOPES if scope in key.scopes],
        "requests_per_s": key.requests_per_s,
        "created": _time(key.created_s),
        "ends": _time(key.ends_s),
        "valid": key.is_valid(time.time()),
    }


def _time(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name == INTERNAL:
        raise UsageFailure(f"{name!r} cannot be a key's name; use letters, digits, - and _, and not {INTERNAL!r}")
