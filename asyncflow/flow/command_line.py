"""The command line of a project script: ``python project.py run -o ex``.

Written with argparse: flags such as ``-o NAME NAME`` and ``-p [N]`` are those that users of
signac-flow have in their scripts, and the library of the ``asyncflow`` command has no such flags.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncflow.errors import AsyncflowError, CapacityError, text_of
from asyncflow.flow.conditions import IgnoreConditions
from asyncflow.flow.errors import DirectivesError, FlowProjectDefinitionError
from asyncflow.flow.judging import Judge

if TYPE_CHECKING:
    from asyncflow.flow.project import FlowProject

__all__ = ["ended_by_signals", "main", "select_jobs"]

_LOGGER = logging.getLogger("asyncflow")

_FAILED, _WRONG, _INTERRUPTED = 1, 2, 130


def main(project: FlowProject, arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 for what failed, 2 for a wrong request."""
    options = _parser(project).parse_args(arguments)
    level = logging.DEBUG if options.debug else logging.WARNING - 10 * options.verbose
    _set_up_logging(max(level, logging.DEBUG), with_failures=options.debug)
    try:
        return int(options.command(project, options) or 0)
    except (ValueError, LookupError) as error:
        return _refused(error, _WRONG, options.debug)
    except CapacityError as error:
        return _refused(error, _WRONG, options.debug)
    except AsyncflowError as error:
        return _refused(error, _FAILED, options.debug)
    except _Stopped as stopped:
        print(f"stopped by {stopped}; what is complete is not done again", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("interrupted; what is complete is not done again", file=sys.stderr)
        return _INTERRUPTED


class _Stopped(KeyboardInterrupt):
    """A signal asks the program to end, and so to end what it runs."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end a run as Ctrl-C does, lest shell commands be left behind.

    One that is ignored stays so: that is how ``nohup`` works. Once there was one, all are.

    Raises:
        KeyboardInterrupt: there was one.
    """

    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:  # a second one would disturb the clean-up, which is short
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    is_main = threading.current_thread() is threading.main_thread()
    for name in ("SIGTERM", "SIGHUP") if is_main else ():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_up_logging(level: int, *, with_failures: bool) -> None:
    """Log to the error stream, unless the script does it in its own way.

    That a run failed is said by the command itself, in the words of the project.
    """
    handler = logging.StreamHandler()
    if not with_failures:
        handler.addFilter(lambda record: record.funcName != "log_failure")
        handler.setFormatter(_Plain())
    logging.basicConfig(level=level, handlers=[handler])


class _Plain(logging.Formatter):
    """``warning: …``, as everything else that a command says."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _refused(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        raise error
    if isinstance(error, FlowProjectDefinitionError | DirectivesError):
        code = _WRONG
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    print(f"error: {text or text_of(error)}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)
    cause = error.__cause__
    if cause is not None and getattr(cause, "__notes__", None):
        print("\n".join(cause.__notes__), file=sys.stderr)
    return code


def _parser(project: FlowProject) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Operations of {type(project).__name__}.")
    common = argparse.ArgumentParser(add_help=False)
    for target, kept in ((parser, None), (common, argparse.SUPPRESS)):
        target.add_argument(
            "-v", "--verbose", action="count", default=kept or 0, help="log more; -vv logs all"
        )
        target.add_argument(
            "--debug",
            action="store_true",
            default=kept or False,
            help="log everything, and show tracebacks",
        )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=summary, description=summary)
        made.set_defaults(command=function)
        return made

    run = command("run", _run, "Execute what is eligible, and what becomes so meanwhile.")
    _add_selection(run)
    _add_run(run)
    execute = command("exec", _exec, "Execute an operation or group whatever its conditions.")
    execute.add_argument("operation", help="name of an operation or a group")
    execute.add_argument("job_id", nargs="*", help="ids of jobs or aggregates; left out, all")
    following = command("next", _next, "List the jobs for which an operation is eligible.")
    following.add_argument("name", help="name of an operation")
    _add_status(command("status", _status, "Show what is done and what is to be done."))
    _add_submit(command("submit", _submit, "Submit what is eligible to the scheduler."))
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--job-id", nargs="+", help="only these jobs or aggregates")
    parser.add_argument("-f", "--filter", nargs="+", help="only jobs with these state points")
    parser.add_argument(
        "-o",
        "--operation",
        dest="names",
        nargs="+",
        help="only these operations or groups: regular expressions of whole names",
    )
    parser.add_argument("-n", "--num", type=int, help="at most so many operations or groups")
    _add_ignore(parser, "--ignore-conditions")


def _add_ignore(parser: argparse.ArgumentParser, flag: str) -> None:
    parser.add_argument(
        flag,
        type=_ignored,
        default=IgnoreConditions.NONE,
        metavar="{none,pre,post,all}",
        help="conditions that count for nothing",
    )


def _ignored(text: str) -> IgnoreConditions:
    try:
        return IgnoreConditions[text.upper()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"takes none, pre, post or all, not {text!r}") from None


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pretend", action="store_true", help="print the commands, and do nothing")
    parser.add_argument("--progress", action="store_true", help="show a live display")
    parser.add_argument(
        "--num-passes",
        type=int,
        default=1,
        help="how often an operation may be executed on a job; -1 for any number",
    )
    parser.add_argument("-t", "--timeout", type=float, help="seconds for each operation")
    parser.add_argument(
        "-p",
        "--parallel",
        type=int,
        nargs="?",
        const=-1,
        metavar="N",
        help="so many operations at once; without a number, one for each CPU",
    )
    parser.add_argument("--order", choices=["none", "by-job", "cyclic", "random"], default="none")
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after a failure with all the rest"
    )


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_selection(parser)
    parser.add_argument("--json", action="store_true", help="all there is, as JSON")
    parser.add_argument("-d", "--detailed", action="store_true", help="a row for each job")
    parser.add_argument(
        "-a", "--all-operations", action="store_true", help="also operations that are not eligible"
    )
    parser.add_argument(
        "--full", action="store_true", help="the same as --detailed --all-operations"
    )
    parser.add_argument(
        "--only-incomplete-operations", action="store_true", help="leave out what is complete"
    )
    parser.add_argument(
        "-e", "--expand", action="store_true", help="labels and operations in two tables"
    )
    parser.add_argument(
        "-m", "--overview-max-lines", type=int, metavar="N", help="so many labels at most"
    )
    parser.add_argument(
        "-p",
        "--parameters",
        nargs="*",
        help="state point keys to show (doc.KEY for the document); none named: all that vary",
    )
    parser.add_argument(
        "--ignore-errors", action="store_true", help="go on when the scheduler does not answer"
    )
    parser.add_argument(
        "--output-format", choices=["terminal", "markdown", "html"], default="terminal"
    )


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_selection(parser)
    _add_ignore(parser, "--ignore-conditions-on-execution")
    parser.add_argument("--pretend", action="store_true", help="print the scripts, submit nothing")
    parser.add_argument("--force", action="store_true", help="submit what is queued already, too")
    parser.add_argument(
        "-b",
        "--bundle",
        type=int,
        nargs="?",
        const=0,
        default=1,
        metavar="N",
        help="so many groups in one script; without a number, all",
    )
    parser.add_argument(
        "-p", "--parallel", action="store_true", help="run the groups of a bundle side by side"
    )
    parser.add_argument("--after", metavar="ID", help="begin when this scheduler job has succeeded")
    parser.add_argument("--hold", action="store_true", help="submit held")
    parser.add_argument("--job-output", metavar="FILE", help="where the scheduler puts the output")
    parser.add_argument("--partition", help="of the scheduler")
    parser.add_argument("--template", default="script.sh", help="name of the script's template")
    parser.add_argument("flags", nargs="*", help="after --: passed on to the scheduler")


def select_jobs(project: FlowProject, ids: list[str] | None, filter_: list[str] | None) -> Any:
    """The jobs and aggregates that ``-j`` and ``-f`` name; None for all.

    Raises:
        ValueError: both are given, or the filter is none.
        LookupError: there is no such job, or the beginning of an id fits several.
    """
    if ids and filter_:
        raise ValueError("-j/--job-id and -f/--filter cannot go together; choose one")
    if filter_:
        from signac.filterparse import parse_filter_arg

        found = [(job,) for job in project.find_jobs(parse_filter_arg(filter_))]
        if not found:
            _LOGGER.warning("no job matches the filter")
        return found
    if ids:
        return list({found: None for each in ids for found in [project.aggregate(each)]})
    return None


# -- commands ------------------------------------------------------------------------


def _run(project: FlowProject, options: argparse.Namespace) -> None:
    with ended_by_signals():
        project.run_sync(
            select_jobs(project, options.job_id, options.filter),
            names=options.names,
            pretend=options.pretend,
            np=options.parallel,
            timeout=options.timeout,
            num=options.num,
            num_passes=options.num_passes,
            progress=options.progress,
            order=options.order,
            ignore_conditions=options.ignore_conditions,
            keep_going=options.keep_going,
        )


def _exec(project: FlowProject, options: argparse.Namespace) -> None:
    project.execute(options.operation, options.job_id or None)


def _next(project: FlowProject, options: argparse.Namespace) -> None:
    if options.name not in project.operations:
        known = ", ".join(project.operations)
        raise ValueError(f"there is no operation {options.name!r}; there are: {known}")
    judge = Judge()
    for group, aggregate_id, jobs in project.selection(None, [options.name]):
        if group.eligible(jobs, judge):
            print(aggregate_id)


def _status(project: FlowProject, options: argparse.Namespace) -> None:
    from asyncflow.flow.status import StatusView

    parameters = options.parameters
    project.print_status(
        select_jobs(project, options.job_id, options.filter),
        names=options.names,
        view=StatusView(
            as_json=options.json,
            detailed=options.detailed or options.full or parameters is not None,
            all_operations=options.all_operations or options.full,
            only_incomplete=options.only_incomplete_operations,
            expand=options.expand,
            overview_max_lines=options.overview_max_lines,
            parameters=None if parameters is None else tuple(parameters),
            output_format=options.output_format,
        ),
        ignore_errors=options.ignore_errors,
    )


def _submit(project: FlowProject, options: argparse.Namespace) -> None:
    from asyncflow.flow.submission import SubmitOptions

    project.submit(
        select_jobs(project, options.job_id, options.filter),
        names=options.names,
        num=options.num,
        options=SubmitOptions(
            pretend=options.pretend,
            force=options.force,
            bundle_size=options.bundle,
            parallel=options.parallel,
            after=options.after,
            hold=options.hold,
            job_output=options.job_output,
            partition=options.partition,
            template=options.template,
            flags=tuple(options.flags),
            ignore=options.ignore_conditions,
            ignore_on_execution=options.ignore_conditions_on_execution,
        ),
    )
