"""What several commands take, each with one wording."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "Directory", "Overlays", "RunName", "Settings", "Traceback", "Values"]

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The id of a recorded run.")]
Directory = Annotated[
    str, typer.Option(metavar="PATH", help="The directory of the runtime.", show_default=True)
]
Overlays = Annotated[
    list[str] | None,
    typer.Option(
        "--overlay",
        "-f",
        metavar="FILE",
        help="A file laid over that of the pipeline: its values replace those. Repeat it for more.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One value of the pipeline's file, such as execution.mode=sequential or "
        "modules.train.params.epochs=3. Repeat it for more.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write it as JSON.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show tracebacks of errors.")]
Values = Annotated[
    bool, typer.Option("--values", help="Show the values of steps at the end, a line each.")
]
