"""The command line, `shopkeeper VERB FAMILY --flags`: parses it, runs the verb and reports the result."""

from __future__ import annotations

import atexit
import dataclasses
import gc
import importlib
import importlib.metadata
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from jobs.cli.dry_run import resolved
from jobs.cli.environment import ENVIRONMENT
from jobs.cli.everywhere import Everywhere
from jobs.cli.flags import FlagsRejected, HelpRequested, Parser, UsageError, is_set
from jobs.cli.library_log import libraries_logged
from jobs.cli.output import OutputFailed, stdout_for_results, write
from jobs.cli.result import Result
from jobs.cli.signals import sigterm_interrupts
from jobs.cli.verbs import VERB_GROUPS, VERBS

if TYPE_CHECKING:
    from jobs.cli.context import Context

EPILOG = """exit codes: 0 done, 1 failed, 2 usage, 3 data rejected, 4 gate not met,
5 a dependency is down, 6 interrupted but resumable, 130 Ctrl-C

`shopkeeper VERB --help` and `shopkeeper VERB FAMILY --help` list the flags."""


@dataclass(frozen=True)
class Invocation:
    """A parsed command line."""

    verb: str
    family_name: str | None
    everywhere: Everywhere
    options: Any
    config: Any | None

    @property
    def context(self) -> Context:
        """The context that its flags and the environment describe."""
        from jobs.cli.context import Context, Store

        return Context(
            store=Store(self.everywhere.root),
            address=self.everywhere.address,
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None,
            name_prefix=self.everywhere.name_prefix,
            dry_run=self.everywhere.dry_run,
            submission_id=os.environ.get("SHOPKEEPER_SUBMISSION_ID") or None,
            git_commit=os.environ.get("SHOPKEEPER_GIT_COMMIT") or None,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    atexit.register(gc.freeze)  # with torch loaded, Python's last collection of garbage takes a second or two
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _log_to_stderr(quiet=is_set(given, "quiet"), debug=is_set(given, "debug"))
    try:
        with stdout_for_results() as stdout:
            return _execute(given, stdout)
    except OutputFailed as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _execute(given: Sequence[str], stdout: TextIO) -> int:
    """Read and run a command line and write its help or result; raises OutputFailed."""
    try:
        invocation = read(given)
    except HelpRequested as requested:
        write(stdout, requested.text(for_terminal=stdout.isatty()))
        return 0
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  every error gets its JSON line
        result = _unreadable(given, error)
        _report(result, stdout=stdout, as_json=is_set(given, "json"))
        return result.exit_code
    from jobs.cluster.connection import disconnected_at_end

    with sigterm_interrupts() as terminated:
        with _library_log(invocation) as library_log, disconnected_at_end():
            result = run(invocation)
        if result.error and result.exit_code != 2 and library_log is not None and library_log.is_file():
            result = dataclasses.replace(result, details={**result.details, "library_log": str(library_log)})
        if terminated.is_set() and result.error:
            result = dataclasses.replace(result, exit_code=6)
        _report(result, stdout=stdout, as_json=invocation.everywhere.json)
    return result.exit_code


def _unreadable(given: Sequence[str], error: BaseException) -> Result:
    """The result for a command line that cannot be read: a mistake of the user or a broken family."""
    from models.errors import PluginRejected

    if is_set(given, "debug"):
        traceback.print_exception(error, file=sys.stderr)
    names = [word for word in given[:2] if not word.startswith("-")]
    match error:
        case UsageError():
            exit_code, message = 2, str(error)
        case PluginRejected():
            exit_code, message = 1, str(error)
        case KeyboardInterrupt():
            exit_code, message = 130, "interrupted before it started"
        case _:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            command = " ".join(["shopkeeper", *names])
            exit_code, message = 1, f"the flags of `{command}` cannot be read: {reason}; --debug shows the traceback"
    verb, family = [*names, None, None][:2]
    return Result(exit_code=exit_code, verb=verb, family=family, error=message)


def read(given: Sequence[str]) -> Invocation:
    """Parse a command line; raises HelpRequested, UsageError, or PluginRejected for a family without valid flags."""
    from models.suggestions import suggestion

    if not given or given[0].startswith("-"):
        _overview(given)
    name, *rest = given
    if name not in VERBS:
        raise UsageError(f"unknown verb {name!r}{suggestion(name, list(VERBS))}; there are {', '.join(VERBS)}")
    verb = VERBS[name]
    family_name = rest.pop(0) if verb.takes_family != "no" and rest and not rest[0].startswith("-") else None
    wants_help = any(word in ("-h", "--help") for word in rest)
    if family_name is None and verb.takes_family == "required" and not wants_help:
        raise UsageError(f"{name} needs a family right after the verb, such as `shopkeeper {name} {_families()[0]}`")
    if family_name is not None and family_name not in _families():
        _check_installed(family_name)
        close = suggestion(family_name, _families())
        raise UsageError(f"unknown family {family_name!r}{close}; there are {', '.join(_families())}")
    parser = parser_of(name, family_name)
    if verb.takes_command:
        (options, *config, everywhere), command = parser.read_known(rest, unset=_environment())
        options = dataclasses.replace(options, command=tuple(command))
    else:
        options, *config, everywhere = parser.read(rest, unset=_environment())
    return Invocation(
        verb=name,
        family_name=family_name,
        everywhere=everywhere,
        options=options,
        config=config[0] if config else None,
    )


def parser_of(name: str, family_name: str | None) -> Parser:
    """The parser of the arguments after a verb and its family; raises PluginRejected for a family's invalid flags."""
    from models.errors import PluginRejected

    verb = VERBS[name]
    options_class, config_class = _dataclasses(name, family_name)
    about, placeholder = verb.summary, {"required": " FAMILY", "optional": " [FAMILY]", "no": ""}[verb.takes_family]
    if not family_name and verb.takes_family != "no":
        about += f"\n\nFAMILY is one of {', '.join(_families())}."
    if not family_name and (verb.config or name == "predict"):
        about += f" `shopkeeper {name} FAMILY --help` lists its {'flags' if verb.config else 'columns'} too."
    configs = {f"Flags of {name} {family_name}": config_class} if config_class else {}
    try:
        return Parser(
            {f"Flags of {name}": options_class, **configs, "Flags of every verb": Everywhere},
            prog=f"shopkeeper {name}{f' {family_name}' if family_name else placeholder}",
            description=about,
            epilog=_epilog(name, family_name),
            without=("command",) if verb.takes_command else (),
        )
    except FlagsRejected as error:
        raise PluginRejected(f"the family {family_name!r} cannot be used by {name}: {error}") from error


def run(invocation: Invocation) -> Result:
    """Run a verb and turn its outcome or exception into a result."""
    try:
        return _succeeded(invocation)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  the outermost handler: every error becomes an exit code and a JSON line
        from jobs.cli.context import details_of

        exit_code, message = _explained(error, invocation)
        details = details_of(error)
        if invocation.everywhere.debug:
            traceback.print_exception(error, file=sys.stderr)
        result = Result(exit_code, invocation.verb, invocation.family_name, error=message, details=details)
        return dataclasses.replace(result, run_id=details.get("run_id"), metrics=details.get("metrics", {}))


def _explained(error: BaseException, invocation: Invocation) -> tuple[int, str]:
    """Exit code and message for what ended a verb."""
    from jobs.cli.context import (
        EXIT_CTRL_C,
        EXIT_DATA_REJECTED,
        EXIT_FAILED,
        EXIT_INTERRUPTED,
        EXIT_USAGE,
        Failure,
        described,
    )
    from jobs.cluster.connection import is_lost
    from models.errors import DataRejected

    match error:
        case Failure():
            return error.exit_code, str(error)
        case DataRejected():
            return EXIT_DATA_REJECTED, str(error)
        case KeyboardInterrupt():
            status = invocation.context.command("status")
            return EXIT_CTRL_C, str(error) or f"{invocation.verb} was interrupted; `{status}` shows what is left"
        case ValueError():
            return EXIT_FAILED, str(error)
        case PermissionError():
            return EXIT_USAGE, described(error)
        case _ if is_lost(error):
            return EXIT_INTERRUPTED, f"the cluster lost a process of {invocation.verb}; run it again: {error}"
        case OSError():
            return EXIT_FAILED, described(error)
        case _:
            return EXIT_FAILED, f"{type(error).__name__}: {error}; --debug shows the traceback"


def check_settings(invocation: Invocation) -> None:
    """Raise UsageFailure for settings that the verb would refuse whatever is in the store."""
    check = getattr(importlib.import_module(VERBS[invocation.verb].module), "check", None)
    if check is not None:
        check(_family(invocation.family_name), invocation.options, invocation.config)


def _succeeded(invocation: Invocation) -> Result:
    from jobs.cli.context import Outcome

    everywhere, verb = invocation.everywhere, VERBS[invocation.verb]
    context = invocation.context
    context.store.check(writes=verb.writes and not everywhere.dry_run)
    outcome, family = Outcome(status="dry-run"), _family(invocation.family_name)
    check_settings(invocation)
    if not everywhere.dry_run or verb.handles_dry_run:
        outcome = importlib.import_module(verb.module).run(context, family, invocation.options, invocation.config)
    settings = {"options": invocation.options, "context": context, "config": invocation.config}
    return Result(
        exit_code=outcome.exit_code,
        verb=invocation.verb,
        family=invocation.family_name or outcome.details.get("family"),
        headline=family.metric.name if family else "",
        status=outcome.status,
        run_id=outcome.run_id,
        metrics=outcome.metrics,
        details=outcome.details,
        settings=resolved(settings) if everywhere.dry_run else {},
        summary=outcome.summary,
        table=outcome.table,
    )


def _library_log(invocation: Invocation) -> AbstractContextManager[Path | None]:
    everywhere = invocation.everywhere
    if not VERBS[invocation.verb].logs_libraries or everywhere.debug or everywhere.dry_run:
        return nullcontext()
    return libraries_logged(invocation.context.store.logs, invocation.verb)


def _environment() -> dict[str, str]:
    """Values from the environment for flags that are not given."""
    names = {"store": "SHOPKEEPER_STORE", "address": "RAY_ADDRESS", "name_prefix": "SHOPKEEPER_NAME_PREFIX"}
    return {flag: value for flag, name in names.items() if (value := os.environ.get(name))}


def _overview(given: Sequence[str]) -> NoReturn:
    if not given:
        raise UsageError("no verb given; see `shopkeeper --help`")
    if given[0] == "--version":
        text = f"shopkeeper {importlib.metadata.version('shopkeeper')}\n"
    elif given[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        groups = [
            "\n".join([f"{title}:", *(f"  {name:<{width}}  {verb.summary}" for name, verb in verbs.items())])
            for title, verbs in VERB_GROUPS.items()
        ]
        text = "\n\n".join(["Usage: shopkeeper VERB [FAMILY] [--flags]", *groups, EPILOG]) + "\n"
    else:
        raise UsageError(f"the verb comes first, then the flags; got {given[0]!r}; see `shopkeeper --help`")
    raise HelpRequested(lambda _: text)


def _epilog(name: str, family_name: str | None) -> str:
    """The end of the help of a verb; for `predict` also the columns of its input."""
    family = _family(family_name)
    if name != "predict" or family is None:
        return EPILOG
    from jobs.prediction.request_fields import help_text, request_fields

    return f"{help_text(request_fields(family.endpoints[0]))}\n\n{EPILOG}"


def _dataclasses(name: str, family_name: str | None) -> tuple[Any, Any]:
    """The verb's Options, and the family's dataclass with further flags of the verb or None."""
    verb, family = VERBS[name], _family(family_name)
    config_class = getattr(family, verb.config) if verb.config and family else None
    return importlib.import_module(verb.module).Options, config_class


def _family(name: str | None) -> Any:
    from models import FAMILIES

    return FAMILIES[name] if name else None


def _check_installed(name: str) -> None:
    """Raise UsageError for a family of ours whose packages are not installed."""
    from models import FAMILIES
    from models.extras import ExtraMissing

    try:
        FAMILIES[name]
    except ExtraMissing as error:
        raise UsageError(str(error)) from None
    except KeyError:
        return


def _families() -> list[str]:
    from models import FAMILIES

    return sorted(FAMILIES)


def _report(result: Result, *, stdout: TextIO, as_json: bool) -> None:
    if result.error:
        sys.stderr.write(f"error: {result.error}\n")
        if "library_log" in result.details:
            sys.stderr.write(f"the log of Ray and other libraries: {result.details['library_log']}\n")
    if as_json:
        write(stdout, result.to_json() + "\n")
    elif not result.error:
        write(stdout, result.to_text() + "\n")


def _log_to_stderr(*, quiet: bool, debug: bool) -> None:
    log = logging.getLogger("shopkeeper")
    log.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)


def _search_own_packages_first() -> None:
    """Remove the working directory, which `python -m jobs` puts first and which may hold another `models`."""
    own = Path(__file__).resolve().parents[1]
    try:
        here = Path.cwd()
    except FileNotFoundError:
        # Ray may unpack a job's code twice at once on a new node, and removes that of a job that begins meanwhile.
        sys.stderr.write("error: the working directory has been removed; run the verb again\n")
        sys.exit(6)  # EXIT_INTERRUPTED, whose module may be gone too
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() == here != own:
        del sys.path[0]


if __name__ == "__main__":
    _search_own_packages_first()
    sys.exit(main())
