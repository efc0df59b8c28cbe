"""What can be known of module code without running it: its source is read, never imported.

``validate`` finds misspelt files, classes and functions this way, and plans know which modules
are coroutines. Where Python itself would have to run to know (compiled modules, names that code
makes), nothing is claimed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from asyncflow.graph.names import nearest
from asyncflow.orchestrator.compiling import target_of
from asyncflow.orchestrator.config import Loaded
from asyncflow.orchestrator.knots import Problems
from asyncflow.orchestrator.targets import Target

__all__ = ["coroutine_modules", "look_at_sources"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_MAKES_NAMES = frozenset({"exec", "globals", "setattr", "vars"})


class _Unknown(Exception):
    """Only running the code would tell."""


class _Missing(Exception):
    """Something is not there; ``certain`` unless it may be elsewhere on the machine of the run."""

    def __init__(self, sentence: str, *, certain: bool = True) -> None:
        super().__init__(sentence)
        self.certain = certain


def look_at_sources(loaded: Loaded, problems: Problems) -> list[str]:
    """Note what modules name and their source lacks.

    Returns:
        Warnings: modules that are not to be found here, and may be where the pipeline runs.
    """
    warnings = []
    for at, entry in enumerate(loaded.config.modules):
        key = "script" if entry.script is not None else "path"
        mark = loaded.mark_of("modules", at, key)
        try:
            _definition_of(target_of(loaded, entry))
        except _Missing as missing:
            if missing.certain:
                problems.add(mark, str(missing), ("pipeline", "modules", at, key))
            else:
                warnings.append(f"{mark}: {missing}")
        except _Unknown:
            continue
    return warnings


def coroutine_modules(loaded: Loaded) -> frozenset[str]:
    """The modules whose source shows that they are coroutines."""
    found = set()
    for entry in loaded.config.modules:
        try:
            definition = _definition_of(target_of(loaded, entry))
        except (_Unknown, _Missing):
            continue
        if isinstance(definition, ast.ClassDef):
            definition = _method(definition, "run")
        if isinstance(definition, ast.AsyncFunctionDef):
            found.add(entry.name)
    return frozenset(found)


def _definition_of(target: Target) -> Definition | None:
    """The code of what a target names; None where the name is bound in another way."""
    file = target.file if target.is_script else _file_of(target.place, Path(target.folder))
    if target.is_script and not file.is_file():
        beside = sorted(found.name for found in file.parent.glob("*.py"))
        raise _Missing(f"there is no file {target.place!r}{nearest(file.name, beside)}")
    names = _names_in(file)
    name, dot, _ = target.name.partition(".")
    if name not in names:
        raise _Missing(f"{target.place} has no {name!r}{nearest(name, names)}")
    if dot:
        raise _Unknown
    found = names[name]
    _check_kind(target, found)
    return found


def _check_kind(target: Target, found: Definition | None) -> None:
    is_class = isinstance(found, ast.ClassDef)
    if target.is_script and is_class:
        raise _Missing(f"{target.text} is a class, and script takes a function")
    if not target.is_script and found is not None and not is_class:
        raise _Missing(f"{target.text} is a function, and path takes a class")
    if isinstance(found, ast.ClassDef) and not found.bases and "run" not in _bound_in(found.body):
        raise _Missing(f"class {target.text} has no method run(self, context)")


def _method(found: ast.ClassDef, name: str) -> Definition | None:
    return next(
        (
            part
            for part in found.body
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.name == name
        ),
        None,
    )


# -- finding files -----------------------------------------------------------------------


def _file_of(dotted: str, folder: Path) -> Path:
    """The file of a module, looked for where an import would look."""
    places: Sequence[Path] = [folder, *(Path(place or ".") for place in sys.path)]
    parts = dotted.split(".")
    for number, part in enumerate(parts, start=1):
        file, inside = _in_places(part, places)
        if file is not None and number == len(parts):
            return file
        if file is not None and not inside:
            raise _Unknown  # a module that plays a package, as os does with os.path
        if not inside:
            _report_missing(".".join(parts[:number]), places, certain=number > 1)
        places = inside
    raise _Unknown  # a folder without __init__.py has no names of its own


def _in_places(part: str, places: Iterable[Path]) -> tuple[Path | None, list[Path]]:
    """The file of a module, and the folders in which what is below it would be."""
    folders = []
    for place in places:
        package = place / part
        if (package / "__init__.py").is_file():
            return package / "__init__.py", [package]
        if (place / f"{part}.py").is_file():
            return place / f"{part}.py", []
        if any(place.glob(f"{part}.*so")) or place.is_file():
            raise _Unknown
        if package.is_dir():
            folders.append(package)
    return None, folders


def _report_missing(dotted: str, places: Sequence[Path], *, certain: bool) -> None:
    if dotted in sys.stdlib_module_names or dotted in sys.modules:
        raise _Unknown
    last = dotted.rpartition(".")[2]
    # Only its own folder: of all that is installed something is always alike.
    beside = {found.stem for found in places[0].glob("*") if found.stem.isidentifier()}
    if certain:
        raise _Missing(f"there is no module {dotted!r}{nearest(last, sorted(beside))}")
    hint = nearest(last, sorted(beside), "is it installed where the pipeline runs?")
    raise _Missing(f"module {dotted!r} is not to be found here{hint}", certain=False)


# -- reading files -----------------------------------------------------------------------


def _names_in(file: Path) -> dict[str, Definition | None]:
    try:
        found = file.stat()
        return _read(file, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError) as error:
        raise _Missing(f"{file.name} cannot be read: {error}") from error


@lru_cache(maxsize=64)
def _read(file: Path, modified_ns: int, length_bytes: int) -> dict[str, Definition | None]:
    """The names of a file as it is: all modules of a pipeline may stand in one."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise _Missing(f"{file.name} is no Python: {error.msg} (line {error.lineno})") from error
    except (RecursionError, MemoryError) as error:
        raise _Missing(f"{file.name} cannot be read: {error}") from error
    names = _bound_in(tree.body)
    if "*" in names or "__getattr__" in names or _makes_names(tree):
        raise _Unknown
    return names


def _makes_names(tree: ast.AST) -> bool:
    """Whether something that runs on import may bind names that do not stand there."""
    for part in ast.iter_child_nodes(tree):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        called = part.func if isinstance(part, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in _MAKES_NAMES:
            return True
        if _makes_names(part):
            return True
    return False


def _bound_in(body: Iterable[ast.stmt]) -> dict[str, Definition | None]:
    """The names that statements bind, those in branches included."""
    bound: dict[str, Definition | None] = {}
    for statement in body:
        if isinstance(statement, Definition):
            # One that is decorated may be anything afterwards.
            bound[statement.name] = None if statement.decorator_list else statement
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                bound[alias.asname or alias.name.partition(".")[0]] = None
            continue
        for part in _targets_in(statement):
            bound[part] = None
        for block in ("body", "orelse", "finalbody"):
            bound.update(_bound_in(getattr(statement, block, ())))
        for handler in getattr(statement, "handlers", ()):
            bound.update(_bound_in(handler.body))
    return bound


def _targets_in(statement: ast.stmt) -> Iterator[str]:
    for part in ast.walk(statement):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
