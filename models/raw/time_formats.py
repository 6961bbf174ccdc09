"""Formats of times that prepare does not read by itself: which one some values have, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from models.raw.times import DAY_FIRST, EARLIEST_S, MONTH_FIRST

MAX_EXCEL_DAYS, MIN_EXCEL_DAYS = 54_789, 32_874
"""Serial numbers of Excel for 1990 to 2049."""
_DATES = (
    (r"(\d{4})([/.])\d{1,2}\2\d{1,2}", ("%Y{0}%m{0}%d",), 2),
    (r"\d{1,2}([/.-])\d{1,2}\1\d{4}", ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y"), 1),
    (r"\d{1,2}([/.-])\d{1,2}\1\d{2}", ("%d{0}%m{0}%y", "%m{0}%d{0}%y"), 1),
    (r"\d{1,2}([ /-])[A-Za-z]{3}\1\d{4}", ("%d{0}%b{0}%Y",), 1),
    (r"\d{1,2}([ /-])[A-Za-z]{3}\1\d{2}", ("%d{0}%b{0}%y",), 1),
    (r"\d{1,2}( )[A-Za-z]{4,9}\1\d{4}", ("%d{0}%B{0}%Y",), 1),
    (r"[A-Za-z]{3} \d{1,2}(,?) \d{4}", ("%b %d{0} %Y",), 1),
    (r"[A-Za-z]{4,9} \d{1,2}(,?) \d{4}", ("%B %d{0} %Y",), 1),
    (r"(\d{4})-\d{1,2}-\d{1,2}", ("%Y-%m-%d",), 0),
    (r"\d{8}()", ("%Y%m%d",), 1),
)
"""Pattern of a date, its formats, and the group of the separator, which replaces {0}."""
_TIME = re.compile(r"(?P<before>.*?)(?P<time>\d{1,2}:\d{2}(?P<second>:\d{2}(?P<fraction>\.\d+)?)?)(?P<after>.*)$")
_WEEKDAY = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)(day|sday|nesday|rsday|urday)?(,? )")


def format_remedy(samples: Sequence[str]) -> str:
    """What to do about times that cannot be read: the --timestamp-format that the samples have, if one is known."""
    likely = likely_formats(samples)
    if not likely:
        return (
            "write RFC 3339 such as 2024-05-01T12:00:00Z, or epoch seconds or milliseconds, or name the format, "
            "e.g. --timestamp-format '%d/%m/%Y %H:%M'"
        )
    if len(likely) > 1:
        either = " or ".join(f"'{format}' if they are {_words(format)}" for format in likely)
        return f"the log does not tell days from months: use --timestamp-format {either}"
    (format,) = likely
    if not all(_is_parsed(sample, format) for sample in samples) and re.match("%[dm]([/.-])%[dm]\\1%Y", format):
        return f"looks like {_words(format)}: use --timestamp-format {DAY_FIRST if format[1] == 'd' else MONTH_FIRST}"
    return f"looks like {_words(format)}: use --timestamp-format '{format}'"


def likely_formats(samples: Sequence[str]) -> list[str]:
    """The formats of strptime that parse most of the samples: none, one, or two that parse equally many."""
    candidates = list(dict.fromkeys(format for sample in samples for format in _formats(sample.strip())))
    parsed = {format: sum(_is_parsed(sample, format) for sample in samples) for format in candidates}
    best = max(parsed.values(), default=0)
    return [format for format in candidates if parsed[format] == best][:2] if 4 * best > len(samples) else []


def unit_remedy(value: str) -> str:
    """What to do about a time before 1990 or after tomorrow."""
    try:
        number = abs(float(value))
    except ValueError:
        return "times must be between 1990 and tomorrow: is it in another unit, or a placeholder for a missing time?"
    if 19_000_101 <= number <= 21_001_231:
        return "a date without dashes? Use --timestamp-format '%Y%m%d'; if it is minutes, multiply by 60"
    if MIN_EXCEL_DAYS <= number <= MAX_EXCEL_DAYS:
        return "it looks like a date of Excel: format its cells as yyyy-mm-dd hh:mm:ss and save the file again"
    for unit, seconds, remedy in (
        ("microseconds", number / 1e6, "divide by 1,000,000"),
        ("nanoseconds", number / 1e9, "divide by 1,000,000,000"),
        ("minutes", number * 60, "multiply by 60"),
        ("hours", number * 3600, "multiply by 3,600"),
        ("days", number * 86400, "multiply by 86,400"),
    ):
        if EARLIEST_S <= seconds <= 3 * EARLIEST_S:
            return f"it looks like {unit}: {remedy} to get seconds"
    return "times must be between 1990 and tomorrow, in epoch seconds or milliseconds"


def _formats(sample: str) -> list[str]:
    """The formats that a time could have, by its shape."""
    weekday = _WEEKDAY.match(sample)
    prefix = ""
    if weekday:
        prefix = ("%A" if weekday[2] else "%a") + weekday[3]
        sample = sample[weekday.end() :]
    for pattern, formats, group in _DATES:
        date = re.match(pattern, sample)
        rest = None if date is None else _rest_format(sample[date.end() :])
        if date is not None and rest is not None:
            return [prefix + format.format(date[group] if group else "") + rest for format in formats]
    return []


def _rest_format(rest: str) -> str | None:
    """The format of what follows a date: a time of day and perhaps a zone; None for anything else."""
    if not rest:
        return ""
    match = _TIME.match(rest)
    if match is None or re.search(r"[\w%]", match["before"].replace("T", "")):
        return None
    after = re.fullmatch(r"(\s?)(AM|PM|am|pm)?(\s?)([+-]\d{2}:?\d{2}|Z|UTC|GMT)?", match["after"])
    if after is None:
        return None
    clock = ("%I" if after[2] else "%H") + ":%M" + (":%S" if match["second"] else "")
    half = f"{after[1]}%p{after[3]}" if after[2] else after[1] + after[3]
    zone = after[4] if after[4] in ("UTC", "GMT") else "%z" if after[4] else ""
    return match["before"] + clock + (".%f" if match["fraction"] else "") + half + zone


def _is_parsed(sample: str, format: str) -> bool:
    try:
        datetime.strptime(sample.strip(), format)
    except ValueError:
        return False
    return True


def _words(format: str) -> str:
    names = {"d": "day", "m": "month", "b": "month", "B": "month", "Y": "year", "y": "year"}
    return "/".join(names[code] for code in re.findall("%(.)", format) if code in names)
