"""Finding the pipeline that a command is about: ``file.py:name`` or ``package.module:name``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from asyncflow.cli.endings import CommandError
from asyncflow.errors import GraphError, text_of
from asyncflow.graph.names import nearest
from asyncflow.orchestrator.reading import SUFFIXES
from asyncflow.pipeline.pipeline import Pipeline
from asyncflow.step import Step

__all__ = ["load_pipeline", "split_target"]

# A drive's colon comes before ".py", the one that sets the name apart after it.
_TARGET = re.compile(r"(?P<place>.+?\.py|[^:]*)(?::(?P<name>.*))?", re.DOTALL)


_IN_USE = "__target"  # after the name of a file that is called as a module in use


def load_pipeline(target: str) -> Pipeline:
    """Import the module of a target and give the pipeline it names.

    Args:
        target: ``file.py:name`` or ``package.module:name``. The name is that of a Pipeline,
            or of a function that needs no arguments and returns one; it may be left out
            where the module has exactly one Pipeline.

    Raises:
        CommandError: there is no such file, module or name, it is no pipeline, or its
            module raised while it was imported.
    """
    place, name = split_target(target)
    _refuse_folder(place)
    is_file = place.endswith(".py") or os.sep in place
    module = _load_file(place) if is_file else _load_module(place)
    if name is None:
        found = _only_pipeline(module, place)
    else:
        found = _as_pipeline(_look_up(module, place, name), place, name)
    if module.__name__.endswith(_IN_USE) and "process" in found.build().units.lanes:
        raise CommandError(
            f"{place} has the name of a module that Python or a library needs, so worker processes "
            "would import that one; rename the file"
        )
    return found


def split_target(target: str) -> tuple[str, str | None]:
    """The file or module of a target, and the name in it if one is given.

    Raises:
        CommandError: one of them is empty.
    """
    match = _TARGET.fullmatch(target)
    if match is None or not match["place"] or match["name"] == "":
        raise CommandError(
            f"{target!r} names no pipeline; write file.py:name or package.module:name"
        )
    return match["place"], match["name"]


def _refuse_folder(place: str) -> None:
    """A folder that is no package would be imported as one, and have nothing in it."""
    folder = Path(place)
    if folder.is_dir() and not (folder / "__init__.py").is_file():
        suffixes = (".py", *SUFFIXES)
        inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
        such_as = f", such as {str(inside[0])!r}" if inside else ""
        raise CommandError(f"{place!r} is a folder; name a file of Python or YAML in it{such_as}")


# -- importing ---------------------------------------------------------------------------


def _load_file(place: str) -> ModuleType:
    path = Path(place).resolve()
    if path.suffix != ".py" and path.exists():
        raise CommandError(f"{place!r} is no Python file: its name does not end with .py")
    if path.suffix != ".py" or not path.is_file():
        known = [found.name for found in sorted(path.parent.glob("*.py"))]
        raise CommandError(f"there is no Python file {place!r}{nearest(path.name, known)}")
    folder, dotted = _package_of(path)
    sys.path.insert(0, str(folder))
    with _blaming(place, "cannot be loaded"):
        if "." in dotted:
            return importlib.import_module(dotted)
        return _load_alone(path, dotted)


def _package_of(path: Path) -> tuple[Path, str]:
    """Where Python would find the file, and under which name: its relative imports need it."""
    parts = [] if path.stem == "__init__" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _load_alone(path: Path, name: str) -> ModuleType:
    # A script may be called as a module that is in use already, such as "queue.py".
    name = f"{name}{_IN_USE}" if name in sys.modules else name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(dotted: str) -> ModuleType:
    # As with `python -m`: modules in the current folder come first.
    sys.path.insert(0, os.getcwd())
    try:
        with _blaming(f"module {dotted}", "cannot be loaded"):
            return importlib.import_module(dotted)
    except CommandError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{dotted}.".startswith(f"{missing.name}."):
            raise CommandError(
                f"there is no module {dotted!r}{nearest(missing.name or '', _beside(missing))}"
            ) from missing
        raise


def _beside(missing: ModuleNotFoundError) -> Iterator[str]:
    """Modules that stand where the missing one was looked for."""
    parent = (missing.name or "").rpartition(".")[0]
    # A module that is no package has nothing beside it.
    places = getattr(sys.modules.get(parent), "__path__", ()) if parent else [os.getcwd()]
    for found in pkgutil.iter_modules(places):
        yield f"{parent}.{found.name}" if parent else found.name


@contextmanager
def _blaming(culprit: str, fault: str) -> Iterator[None]:
    """Say where somebody's code raised, in a sentence."""
    try:
        yield
    except (Exception, SystemExit) as error:
        said = "; ".join(error.problems) if isinstance(error, GraphError) else text_of(error)
        raise CommandError(
            f"{culprit} {fault}: {said}{_line_of(error)}; --traceback shows more"
        ) from error


def _line_of(error: BaseException) -> str:
    """The file and line that raised, unless it lies in the machinery of imports."""
    if isinstance(error, SyntaxError):
        return ""  # its text says where
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_file()]
    last = own[-1] if own else None
    if last is None or Path(last.filename) == Path(__file__):
        return ""
    return f" ({Path(last.filename).name}, line {last.lineno})"


# -- looking up --------------------------------------------------------------------------


def _pipelines_of(module: ModuleType) -> dict[str, Pipeline]:
    """The pipelines of a module by name; one with two names counts once."""
    found: dict[int, tuple[str, Pipeline]] = {}
    for name, value in vars(module).items():
        if isinstance(value, Pipeline):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _only_pipeline(module: ModuleType, place: str) -> Pipeline:
    found = _pipelines_of(module)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise CommandError(
            f"{place} has no pipeline at its top level; name a function of it that returns one: "
            f"{place}:name"
        )
    names = ", ".join(map(repr, list(found)[:5]))
    more = " and more" if len(found) > 5 else ""
    raise CommandError(
        f"{place} has {len(found)} pipelines, {names}{more}; say which: {place}:{next(iter(found))}"
    )


def _look_up(module: ModuleType, place: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [*_pipelines_of(module), *vars(found)] if found is module else dir(found)
            raise CommandError(f"{place} has nothing called {name!r}{nearest(part, known)}")
        found = getattr(found, part)
    return found


def _as_pipeline(found: Any, place: str, name: str) -> Pipeline:
    if isinstance(found, Pipeline):
        return found
    if not callable(found) or isinstance(found, Step):
        kind = "a step" if isinstance(found, Step) else f"of type {type(found).__name__}"
        raise CommandError(
            f"{place}:{name} is {kind}, not a Pipeline or a function that returns one"
        )
    return _called(found, place, name)


def _called(make: Callable[..., Any], place: str, name: str) -> Pipeline:
    needed = _required_parameters(make)
    if needed:
        raise CommandError(
            f"{place}:{name} needs arguments ({', '.join(needed)}), and a command has none to "
            "give; name a function without, or give them defaults"
        )
    with _blaming(f"{place}:{name}", "raised"):
        made = make()
    if inspect.iscoroutine(made):
        made.close()
    if not isinstance(made, Pipeline):
        raise CommandError(
            f"{place}:{name} returned a value of type {type(made).__name__}, not a Pipeline"
        )
    return made


def _required_parameters(make: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return []  # some built-in callables do not tell; calling it will
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
