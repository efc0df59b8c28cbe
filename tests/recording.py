"""Pipelines whose hosts die: runs of them one after the other in one directory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncflow import Pipeline, PipelineResult, Runtime
from asyncflow.engine.recording import Recorder


class Host:
    """Runs pipelines in a directory, and counts which steps were called.

    Attributes:
        calls: how often each step was called, by the name it gave itself.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: Counter[str] = Counter()

    def called(self, name: str) -> None:
        self.calls[name] += 1

    async def run(self, pipeline: Pipeline, **options: Any) -> PipelineResult:
        """Run it under one and the same run id."""
        self.calls.clear()
        return await pipeline.run(run_id="nightly", checkpoint=self.directory, **options)

    async def die_in(self, pipeline: Pipeline, when: Callable[[], bool], **options: Any) -> None:
        """Run it until ``when`` is true, then leave everything as a killed host would: what is
        acknowledged is in the journal, nothing else is, and the lock is free."""
        self.calls.clear()
        async with Runtime(directory=self.directory) as runtime:
            run = await runtime.start(pipeline, run_id="nightly", **options)
            record = run._record
            recorder = record.recorder
            assert recorder is not None
            await until(lambda: when() and not recorder.is_busy)
            await cut_off(recorder)
            await run.cancel("the host died")


async def until(there: Callable[[], bool]) -> None:
    """Let the loop go round until something is so."""
    while not there():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


async def cut_off(recorder: Recorder) -> None:
    """Have a run record nothing any more, as if its host were gone."""
    recorder.give_up(RuntimeError("the host died"))
    await recorder._writer.close()
