"""The house holds: imports go one way, the core stays pure, modules stay small."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.programs import output_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "asyncflow"

# Top to bottom. A part (a module or folder right under asyncflow) imports its own layer and
# those below it, never one above.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"cli", "web", "__main__"}),
    frozenset({"pipeline", "orchestrator", "flow"}),
    frozenset(
        {
            "progress",
            "testing",
            "ambient",
            "checkpoints",
            "kept_runs",
            "launching",
            "recorded_inputs",
            "runtime",
            "run",
            "streams",
            "blocking",
            "request",
            "owned_runs",
            "single_runs",
            "viewing",
            "closing",
        }
    ),
    frozenset({"engine", "lanes", "storage"}),
    frozenset(
        {
            "result",
            "gantt",
            "timeline",
            "graph",
            "step",
            "functions",
            "context",
            "retry",
            "nested_map",
            "pickling",
        }
    ),
    frozenset(
        {
            "failure",
            "secret",
            "limits",
            "states",
            "resources",
            "quantities",
            "accelerators",
            "paper",
            "environment",
            "events",
            "errors",
        }
    ),
)

# Within a layer: who may not import whom, part or module.
FORBIDDEN: tuple[tuple[str, str], ...] = (
    ("pipeline", "orchestrator"),
    ("pipeline", "flow"),
    ("orchestrator", "pipeline"),
    ("orchestrator", "flow"),
    ("flow", "pipeline"),
    ("flow", "orchestrator"),
    ("lanes", "engine.scheduler"),
    ("lanes", "engine.pump"),
)

# The functional core decides; only the scheduler around it waits, reads clocks or does I/O.
PURE_MODULES = (
    "engine/account.py",
    "engine/capacity.py",
    "engine/frontier.py",
    "engine/limiter.py",
    "engine/named.py",
    "engine/queues.py",
    "engine/turns.py",
    "storage/framing.py",
)
IMPURE_IMPORTS = frozenset({"asyncio", "anyio", "time", "os", "threading", "random"})
AWAITING_NODES = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

# What `import asyncflow` must not pull in: it would cost every program that imports it.
HEAVY_IMPORTS = ("aiofiles", "anyio", "numpy", "psutil", "pynvml", "rich", "typer", "yaml")

MAX_MODULE_LINES = 500
NAMES_THAT_SAY_NOTHING = frozenset({"base", "common", "helpers", "manager", "misc", "utils"})
HOME_PATH = re.compile(r"/(?:home|Users)/\w|/(?:root)/|[A-Z]:\\(?:Users)\\")

MODULES = sorted(PACKAGE.rglob("*.py"))


def _dotted(path: Path) -> str:
    """The module's name below asyncflow: "engine.limiter", "graph", "" for the package."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_module = pytest.mark.parametrize("path", MODULES, ids=_shown)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute dotted name that the module imports, with its line."""
    package = ["asyncflow", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = [*above, *([node.module] if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*origin, alias.name])


def _imports_of_the_package(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in _imported_names(path):
        head, _, rest = name.partition(".")
        if head == "asyncflow":
            yield line, rest


def _layer(part: str) -> int:
    for depth, parts in enumerate(LAYERS):
        if part in parts:
            return depth
    raise AssertionError(f"asyncflow.{part} stands in no layer: add it to LAYERS")


def _is_module_or_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _is_module(part: str) -> bool:
    known = any(part in layer for layer in LAYERS)
    return known or (PACKAGE / f"{part}.py").exists() or (PACKAGE / part).is_dir()


def _wrong_arrow(importer: str, imported: str) -> str | None:
    """Why this import is not allowed, or None if it is; names are relative to asyncflow."""
    own, other = importer.partition(".")[0], imported.partition(".")[0]
    if not _is_module(other):
        # A public name taken from the package itself: only what stands on top may do that.
        return None if _layer(own) == 0 else "imports from the package's own front"
    if _layer(other) < _layer(own):
        return f"imports asyncflow.{imported} from a layer above"
    for source, target in FORBIDDEN:
        if _is_module_or_inside(importer, source) and _is_module_or_inside(imported, target):
            return f"imports asyncflow.{imported}, which {source} may not know"
    return None


@every_module
def test_imports_go_down_the_layers_only(path: Path) -> None:
    importer = _dotted(path)
    if not importer:
        return  # the package's front re-exports from everywhere
    faults = [
        f"{_shown(path)}:{line} {why}"
        for line, imported in _imports_of_the_package(path)
        if (why := _wrong_arrow(importer, imported))
    ]
    assert not faults, "\n".join(faults)


def test_every_part_of_the_package_stands_in_exactly_one_layer() -> None:
    parts = {_dotted(path).partition(".")[0] for path in MODULES} - {""}
    assert {part: sum(part in layer for layer in LAYERS) for part in parts} == dict.fromkeys(
        parts, 1
    )


@pytest.mark.parametrize(
    "importer, imported, allowed",
    [
        ("engine.scheduler", "lanes.thread.ThreadLane", True),
        ("lanes.thread", "engine.limiter.Lease", True),
        ("lanes.thread", "engine.scheduler.Scheduler", False),
        ("lanes.thread", "engine.scheduler", False),
        ("lanes.thread", "engine.scheduler_events", True),
        ("engine.limiter", "errors.GraphError", True),
        ("errors", "engine.limiter.Limiter", False),
        ("cli.app", "__version__", True),
        ("engine.scheduler", "Runtime", False),
    ],
)
def test_the_table_of_layers_reads_as_meant(importer: str, imported: str, allowed: bool) -> None:
    assert (_wrong_arrow(importer, imported) is None) == allowed


@pytest.mark.parametrize("module", PURE_MODULES)
def test_the_core_neither_waits_nor_looks_outside(module: str) -> None:
    path = PACKAGE / module
    assert path.exists(), f"{module} is gone: if the pure core moved, change PURE_MODULES"
    waits = [node.lineno for node in ast.walk(_tree(path)) if isinstance(node, AWAITING_NODES)]
    assert not waits, f"{module} awaits in lines {waits}"
    outside = [
        f"line {line}: {name}"
        for line, name in _imported_names(path)
        if name.partition(".")[0] in IMPURE_IMPORTS
    ]
    assert not outside, f"{module} imports what a pure module may not: {outside}"


def test_importing_asyncflow_loads_nothing_heavy() -> None:
    program = f"import sys, asyncflow; print(*[m for m in {HEAVY_IMPORTS!r} if m in sys.modules])"
    assert output_of(program) == ""


@every_module
def test_no_module_outgrows_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_MODULE_LINES, f"{_shown(path)} has {lines} lines: give it two homes"


@every_module
def test_every_module_says_in_its_name_what_it_is_about(path: Path) -> None:
    empty_names = NAMES_THAT_SAY_NOTHING & set(_dotted(path).split("."))
    assert not empty_names, f"{_shown(path)}: {empty_names} could hold anything"


def _files_in_version_control() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of committed files")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def test_no_file_mentions_somebody_s_home_folder() -> None:
    found = []
    for path in _files_in_version_control():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or other binary file holds no text to read
        found += [
            f"{_shown(path)}:{number}"
            for number, line in enumerate(text.splitlines(), start=1)
            if HOME_PATH.search(line)
        ]
    assert not found, f"these lines only make sense on one machine: {found}"
