"""The commands and their options."""

from __future__ import annotations

import io
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asyncflow import __version__
from asyncflow.blocking import run_blocking
from asyncflow.cli import housekeeping
from asyncflow.cli.attended import Order, attend, make_runtime, tell
from asyncflow.cli.endings import CommandError, ExitCode, end, log_to_stderr, sentences
from asyncflow.cli.event_stream import claim_stdout
from asyncflow.cli.file_commands import add_commands
from asyncflow.cli.files import LaidOver, load_any
from asyncflow.cli.inputs import parse_inputs
from asyncflow.cli.options import AsJson, Directory, Overlays, RunName, Settings, Traceback, Values
from asyncflow.cli.pictures import Pictures
from asyncflow.cli.recorded import add_recorded_commands, check_recorded
from asyncflow.cli.recorded import runs as recorded_runs
from asyncflow.orchestrator.orchestrator import PipelineOrchestrator
from asyncflow.progress import shown
from asyncflow.request import FailurePolicy

__all__ = ["app", "main"]

app = typer.Typer(
    name="asyncflow",
    help="Run pipelines, and look at them before they run.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Policy(StrEnum):
    """The values of --failure-policy."""

    FAIL_FAST = "fail_fast"
    COLLECT_ALL = "collect_all"


class EventFormat(StrEnum):
    """The values of --events."""

    JSONL = "jsonl"


class Drawing(StrEnum):
    """The values of --format."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="file.py:name or package.module:name: a Pipeline, or a function that returns one. "
        "The name may be left out where there is only one Pipeline. Or a .yaml, .toml or .json "
        "file.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="A run input; JSON if it is JSON, else text. Repeat it for more.",
    ),
]
MaxCpus = Annotated[
    str | None, typer.Option(help="CPUs to share, such as 4, 0.5 or 500m; left out, all there are.")
]
MaxGpus = Annotated[
    str | None, typer.Option(help="How many GPUs to declare, or their types with commas between.")
]


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        # A drawing on a terminal that knows only ASCII is ugly; a traceback is worse.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="asyncflow")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncflow {__version__}")
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def run(
    target: Target,
    inputs: Inputs = None,
    max_cpus: MaxCpus = None,
    max_gpus: MaxGpus = None,
    failure_policy: Annotated[
        Policy | None, typer.Option(help="What a failure does to the rest of the run.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for the whole run.")] = None,
    run_id: Annotated[
        str | None,
        typer.Option(help="A name for the run; a recorded run of that name goes on."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Record the run in this directory, such as .asyncflow."),
    ] = None,
    events: Annotated[
        EventFormat | None,
        typer.Option(help="Write each event to standard output; all else goes to standard error."),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the pipeline with the states of its steps."),
    ] = None,
    gantt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what ran when, as an SVG.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no progress, and nothing after a success.")
    ] = False,
    values: Values = False,
    overlays: Overlays = None,
    settings: Settings = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Run again what is recorded as done, too: begin the run anew."
        ),
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Run a pipeline.

    Ctrl-C once starts nothing new and lets what runs end, twice cancels, a third time exits.
    The exit code is 0 after a success, 1 after a failure, 2 if the command or the pipeline is
    wrong, 3 if the run could not be recorded any more, 130 if it was interrupted.
    """
    with sentences(traceback):
        # On a terminal the events are what there is to see.
        progress = not quiet and not (events and sys.stdout.isatty())
        pictures = Pictures(svg, gantt)
        pictures.check()
        descriptor = None if events is None else claim_stdout()
        policy: FailurePolicy | None = None if failure_policy is None else failure_policy.value
        over = LaidOver(overlays or (), settings or (), max_cpus, max_gpus, policy, checkpoint)
        pipeline = load_any(target, over)
        if restart and run_id is None and not isinstance(pipeline, PipelineOrchestrator):
            raise CommandError("--restart begins a recorded run anew; say which with --run-id")
        log_to_stderr("log_failure", *(["log_advice"] if progress else []))
        order = Order(
            target=target,
            pipeline=pipeline,
            inputs=parse_inputs(pipeline, inputs or ()),
            max_cpus=max_cpus,
            max_gpus=max_gpus,
            failure_policy=policy,
            timeout_seconds=timeout,
            run_id=run_id,
            checkpoint=checkpoint,
            restart=restart,
            progress=progress,
            events=descriptor,
        )
        ending = run_blocking(lambda: attend(order), "asyncflow run")
    # First, as nobody may be there to be told: `| head` ends the command.
    complete = pictures.write(pipeline, ending.result)
    tell(ending, order, quiet=quiet, with_values=values, with_traceback=traceback)
    end(ending.exit_code or (ExitCode.SUCCESS if complete else ExitCode.FAILED), ending.abandoned)


@app.command()
def plan(
    target: Target,
    max_cpus: MaxCpus = None,
    max_gpus: MaxGpus = None,
    overlays: Overlays = None,
    settings: Settings = None,
    traceback: Traceback = False,
) -> None:
    """Show what would run where, in which order, and what it would hold.

    With --max-cpus or --max-gpus it also says what such a runtime would refuse; the exit code
    is 2 if it would.
    """
    with sentences(traceback):
        over = LaidOver(overlays or (), settings or (), max_cpus, max_gpus)
        pipeline = load_any(target, over)
        log_to_stderr("log_advice")
        given = max_cpus is not None or max_gpus is not None
        is_file = isinstance(pipeline, PipelineOrchestrator)  # it has limits of its own
        found = pipeline.plan(make_runtime(max_cpus, max_gpus) if given and not is_file else None)
    typer.echo(shown(found.to_text(), lines=True))
    end(ExitCode.WRONG if found.problems else ExitCode.SUCCESS)


@app.command()
def graph(
    target: Target,
    format: Annotated[Drawing, typer.Option(help="How to draw it.")] = Drawing.TEXT,
    overlays: Overlays = None,
    settings: Settings = None,
    traceback: Traceback = False,
) -> None:
    """Draw a pipeline."""
    with sentences(traceback):
        pipeline = load_any(target, LaidOver(overlays or (), settings or ()))
        log_to_stderr()
        drawn = pipeline.visualize(format.value)
    # A drawing is text of many lines, and an SVG has nothing that a terminal would obey.
    typer.echo(drawn.rstrip("\n") if format is Drawing.SVG else shown(drawn, lines=True))


@app.command()
def doctor(
    as_json: AsJson = False,
) -> None:
    """Show what this machine and environment offer, and what a Runtime() will use of it."""
    # Here, because it looks into installed packages, which no other command needs to do.
    from asyncflow.cli.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        typer.echo(shown(found.as_text(), lines=True))


@app.command()
def resume(
    run: RunName,
    target: Target,
    directory: Directory = ".asyncflow",
    inputs: Inputs = None,
    max_cpus: MaxCpus = None,
    max_gpus: MaxGpus = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no progress, and nothing after a success.")
    ] = False,
    values: Values = False,
    traceback: Traceback = False,
) -> None:
    """Go on with a recorded run of a pipeline, with the inputs that were recorded.

    Secrets never are: give them again. Which code to run is never taken from the record:
    name the pipeline.
    """
    with sentences(traceback):
        pipeline = load_any(
            target, LaidOver(max_cpus=max_cpus, max_gpus=max_gpus, checkpoint=directory)
        )
        check_recorded(directory, run)
        log_to_stderr("log_failure", *(["log_advice"] if not quiet else []))
        order = Order(
            target=target,
            pipeline=pipeline,
            inputs=parse_inputs(pipeline, inputs or ()),
            max_cpus=max_cpus,
            max_gpus=max_gpus,
            run_id=run,
            checkpoint=directory,
            progress=not quiet,
        )
        ending = run_blocking(lambda: attend(order), "asyncflow resume")
    tell(ending, order, quiet=quiet, with_values=values, with_traceback=traceback)
    end(ending.exit_code, ending.abandoned)


add_commands(app)
app.add_typer(housekeeping.cache)
recorded_runs.command("prune")(housekeeping.prune_runs)
add_recorded_commands(app)
