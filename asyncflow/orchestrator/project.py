"""``asyncflow init``: a small pipeline that runs at once, to begin with."""

from __future__ import annotations

from pathlib import Path

from asyncflow.errors import GraphError

__all__ = ["write_project"]

_PIPELINE = """\
# yaml-language-server: $schema=asyncflow.schema.json
# `asyncflow schema > asyncflow.schema.json` writes the schema that editors read.
pipeline:
  name: "words"
  execution:
    mode: "parallel"         # or sequential
    worker_type: "thread"    # or process
    failure_policy: "fail_fast"
  checkpoint:
    enabled: true            # a second run goes on where the first one ended
    directory: "./.checkpoints"
  modules:
    - name: "load"
      path: "modules.load:Load"
      params:
        text: "the quick brown fox jumps over the lazy dog"
    - name: "count"
      path: "modules.count:Count"
      depends_on: ["load"]
      resources:
        cpus: 1
    - name: "report"
      script: "report.py:report"
      depends_on: ["load", "count"]
"""

_LOAD = '''\
"""Where the words come from."""

from asyncflow.orchestrator import BaseModule, ModuleContext


class Load(BaseModule):
    def run(self, context: ModuleContext) -> list[str]:
        words = context.params["text"].split()
        context.logger.info("loaded %d words", len(words))
        return words
'''

_COUNT = '''\
"""Counts letters, one nested task for each word."""

from asyncflow.orchestrator import BaseModule, ModuleContext


class Count(BaseModule):
    def run(self, context: ModuleContext) -> dict[str, int]:
        words = context.get_result("load")
        lengths = context.execute_tasks([lambda word=word: len(word) for word in words])
        return dict(zip(words, lengths))
'''

_REPORT = '''\
"""A module may be a plain function, too."""


def report(context) -> str:
    lengths = context.get_result("count")
    longest = max(lengths, key=lengths.get)
    line = f"{len(context.get_result('load'))} words, the longest is {longest!r}"
    print(line)
    return line
'''

_FILES = {
    "pipeline.yaml": _PIPELINE,
    "modules/__init__.py": "",
    "modules/load.py": _LOAD,
    "modules/count.py": _COUNT,
    "report.py": _REPORT,
}


def write_project(folder: Path) -> list[Path]:
    """Write the files of a project; never over one that is there.

    Returns:
        What was written.

    Raises:
        GraphError: a file is there already, or cannot be written.
    """
    there = [name for name in _FILES if (folder / name).exists()]
    if there:
        raise GraphError(
            f"{folder / there[0]} is there already; name an empty folder: asyncflow init FOLDER"
        )
    try:
        for name, content in _FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise GraphError(f"{folder} cannot be written: {error.strerror or error}") from error
    return [folder / name for name in _FILES]
