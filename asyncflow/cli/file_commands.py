"""The commands that are only about pipelines in files: validate, schema, init and logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from asyncflow.cli.endings import CommandError, ExitCode, end, say, sentences
from asyncflow.cli.files import LaidOver, is_pipeline_file, load_orchestrator
from asyncflow.cli.options import Overlays, Settings, Traceback
from asyncflow.progress import shown

__all__ = ["add_commands"]

File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A .yaml, .toml or .json file.", show_default=False),
]


def add_commands(app: typer.Typer) -> None:
    """Make the commands known."""
    app.command()(validate)
    app.command()(schema)
    app.command()(init)
    app.command()(logs)


def validate(
    file: File,
    overlays: Overlays = None,
    settings: Settings = None,
    traceback: Traceback = False,
) -> None:
    """Check a pipeline's file, and what it names, without importing any module.

    The exit code is 2 if something is wrong. Every fault is named, with file and line.
    """
    from asyncflow.orchestrator.validation import faults_of

    with sentences(traceback):
        if not is_pipeline_file(file):
            raise CommandError(f"{file!r} is no .yaml, .toml or .json file")
        orchestrator = load_orchestrator(
            file, LaidOver(overlays=overlays or (), settings=settings or ())
        )
        warnings = faults_of(orchestrator)
    for warning in warnings:
        say(f"warning: {warning}")
    count = len(orchestrator.config.modules)
    typer.echo(shown(f"{file}: {count} module{'' if count == 1 else 's'}, no faults"))


def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors.

    A file whose first line is "# yaml-language-server: $schema=asyncflow.schema.json" is checked
    and completed by editors that know YAML, once this is saved as asyncflow.schema.json.
    """
    from asyncflow.orchestrator.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write it; made if it is not there.")
    ] = Path("."),
    traceback: Traceback = False,
) -> None:
    """Write a small project that runs: a pipeline, two modules and a script."""
    from asyncflow.orchestrator.project import write_project

    with sentences(traceback):
        written = write_project(folder)
    for path in written:
        typer.echo(shown(str(path)))
    typer.echo(shown(f"run it: asyncflow run {folder / 'pipeline.yaml'}"))


def logs(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run id, the folder of a run, or the file of the pipeline.",
            show_default=False,
        ),
    ],
    module: Annotated[
        str | None, typer.Argument(metavar="MODULE", help="Only this module.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on showing what is written, until Ctrl-C.")
    ] = False,
    directory: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The checkpoint folder that a run id is in.")
    ] = Path(".checkpoints"),
    traceback: Traceback = False,
) -> None:
    """Show what the modules of a run printed and logged.

    Of several modules each line begins with the module's name.
    """
    from asyncflow.cli.showing_logs import follow_logs, logs_of, show_logs

    with sentences(traceback):
        found = logs_of(run, module, directory)
        if follow:
            follow_logs(found)
        else:
            show_logs(found)
    end(ExitCode.SUCCESS)
