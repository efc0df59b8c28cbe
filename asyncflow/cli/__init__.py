"""The command line: ``asyncflow run``, ``plan`` and ``graph``."""

from asyncflow.cli.commands import app, main

__all__ = ["app", "main"]
