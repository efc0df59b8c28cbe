"""What a module's ``path`` or ``script`` names: found and imported when a run starts.

The folder of the pipeline's file comes first on ``sys.path``, as that of a script would, and
stays there: a module may import its neighbours only when it runs. A file that has changed since
it was imported for an earlier run is imported anew.
"""

from __future__ import annotations

import contextvars
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from asyncflow.errors import text_of
from asyncflow.functions import is_coroutine_function
from asyncflow.graph.names import nearest

__all__ = [
    "Runnable",
    "Target",
    "TargetError",
    "Targets",
    "load_target",
    "make_importable",
    "version_of_imports",
]

# Name of a module that was imported for a pipeline → its file, as it was then.
_IMPORTED: dict[str, _FileVersion] = {}
_LOCK = threading.RLock()
# What is being imported by whoever looks, and all that follows from it.
_IMPORTING: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "asyncflow_importing", default=None
)


class TargetError(Exception):
    """What a module names cannot be had; the message is a sentence about it."""


class _FileVersion(msgspec.Struct, frozen=True):
    """A file as it was when it was read: enough to see that it was written since."""

    path: str
    modified_ns: int
    length_bytes: int

    @classmethod
    def of(cls, path: str) -> _FileVersion:
        found = os.stat(path)
        return cls(path, found.st_mtime_ns, found.st_size)

    def is_current(self) -> bool:
        try:
            return _FileVersion.of(self.path) == self
        except OSError:
            return False


class Target(msgspec.Struct, frozen=True):
    """What a module runs: a class by its module, or a function by its file.

    Args:
        folder: what relative names are relative to.
        text: ``package.module:Class`` or ``file.py:function``.
        is_script: which of the two.
    """

    folder: str
    text: str
    is_script: bool

    @property
    def place(self) -> str:
        """The module's name, or the path of the file."""
        return self.text.rpartition(":")[0]

    @property
    def name(self) -> str:
        """The name in it."""
        return self.text.rpartition(":")[2]

    @property
    def file(self) -> Path:
        """The file of a script."""
        return Path(os.path.normpath(Path(self.folder, self.place)))

    @property
    def module_name(self) -> str:
        """What its module is called; that of a script is made of its name and place."""
        if not self.is_script:
            return self.place
        place = blake2b(os.fsencode(self.file), digest_size=4).hexdigest()
        return f"script_{self.file.stem}_{place}"


class Targets(msgspec.Struct, frozen=True):
    """All targets of a pipeline: a result of one may be of a class that another defines."""

    folder: str
    scripts: tuple[Target, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.folder, self.scripts)

    def make_importable(self) -> None:
        """Have Python find what the pipeline's modules define, in this process."""
        for script in self.scripts:
            make_importable(str(script.file.parent))
            _SCRIPTS.known[script.module_name] = str(script.file)
        make_importable(self.folder)


def _arrived(folder: str, scripts: tuple[Target, ...]) -> Targets:
    """Targets in a worker: what is unpickled after them may be of what they name."""
    targets = Targets(folder, scripts)
    targets.make_importable()
    return targets


def make_importable(folder: str) -> None:
    """Put a folder first on ``sys.path``."""
    if sys.path[:1] != [folder]:
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)


class _Scripts(importlib.machinery.PathFinder):
    """Finds the modules of scripts, which no folder has under the names they are given."""

    known: dict[str, str] = {}  # noqa: RUF012 - one for the process, as sys.meta_path is

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        file = cls.known.get(fullname)
        return None if file is None else importlib.util.spec_from_file_location(fullname, file)


_SCRIPTS = _Scripts
sys.meta_path.append(_Scripts)


class Runnable(msgspec.Struct, frozen=True):
    """What a module runs.

    Args:
        function: called with the context; makes a new object of a class for each call.
        code: the class or function that the file names.
        body: the function whose result is the module's.
    """

    function: Callable[[Any], Any]
    code: Any
    body: Any


def load_target(target: Target) -> Runnable:
    """Import what a module runs.

    Raises:
        TargetError: there is no such module, file or name, importing it raised, or it is
            neither a class with ``run(context)`` nor a function of one argument.
    """
    importing = _IMPORTING.get()
    if importing is not None:
        # It would wait for the import that waits for it.
        raise TargetError(
            f"{importing!r} runs a pipeline while it is imported for one; put what it does when it "
            "is run as a program below: if __name__ == '__main__'"
        )
    token = _IMPORTING.set(target.place)
    try:
        with _LOCK:
            module = _module_of(target)
    finally:
        _IMPORTING.reset(token)
    found = _look_up(module, target)
    return _function(found, target) if target.is_script else _runner(found, target)


def version_of_imports() -> str:
    """Tells what was imported for pipelines from what it is once one of its files was written.

    A worker that is told of another version loads its modules anew.
    """
    known = repr(sorted((name, msgspec.to_builtins(file)) for name, file in _IMPORTED.items()))
    return blake2b(known.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


# -- importing ---------------------------------------------------------------------------


def _module_of(target: Target) -> ModuleType:
    if target.is_script and not target.file.is_file():
        beside = [file.name for file in sorted(target.file.parent.glob("*.py"))]
        raise TargetError(f"there is no file {target.place!r}{nearest(target.file.name, beside)}")
    _forget_what_changed()
    name = target.module_name
    if not target.is_script:
        _forget_namesake(name.partition(".")[0], target.folder)
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if target.is_script or not f"{name}.".startswith(f"{error.name}."):
            raise _raised(target, error) from error
        hint = nearest(error.name or "", _names_beside(error.name or "", target.folder))
        raise TargetError(f"there is no module {error.name!r}{hint}") from error
    except (Exception, SystemExit) as error:
        raise _raised(target, error) from error
    finally:
        _remember(set(sys.modules) - before, target.folder)


def _raised(target: Target, error: BaseException) -> TargetError:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename)
    ]
    own = [frame for frame in frames if os.path.dirname(__file__) not in frame.filename]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError):
        where = ""  # its text says where
    return TargetError(f"importing {target.place!r} raised {text_of(error)}{where}")


def _names_beside(missing: str, folder: str) -> Iterator[str]:
    """Modules that stand where the missing one was looked for."""
    parent, _, _ = missing.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", ()) if parent else [folder]
    for place in places:
        for file in sorted(Path(place).glob("*")):
            if file.suffix == ".py" or (file.is_dir() and file.name.isidentifier()):
                yield f"{parent}.{file.stem}" if parent else file.stem


def _remember(names: set[str], folder: str) -> None:
    """Note what was imported from the pipeline's folder, to see later whether it changed."""
    known = set(_Scripts.known.values())
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or "site-packages" in Path(file).parts:
            continue  # a virtual environment may well stand in the folder
        if Path(file).is_relative_to(folder) or file in known:
            _IMPORTED[name] = _FileVersion.of(file)


def _forget_what_changed() -> None:
    """Have all that was imported imported anew once any of it has been written since: what did
    not change may hold functions of what did."""
    if all(version.is_current() for version in _IMPORTED.values()):
        return
    for name in _IMPORTED:
        sys.modules.pop(name, None)
    _IMPORTED.clear()


def _forget_namesake(top: str, folder: str) -> None:
    """Two pipelines may have a package ``modules`` each: the one of this folder is meant.

    Raises:
        TargetError: the other one was not imported for a pipeline, and is still in use.
    """
    loaded = sys.modules.get(top)
    meant = importlib.machinery.PathFinder.find_spec(top, [folder])
    if loaded is None or meant is None or _is_from(loaded, meant):
        return
    its_folder = _folder_of(loaded)
    if top not in _IMPORTED and _has_namesakes_file(top) is None and its_folder in sys.path:
        raise TargetError(
            f"module {top!r} stands in this pipeline's folder, but another one of that name is in "
            f"use already, from {its_folder}; rename one of them"
        )
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{top}.")]:
        del sys.modules[name]
        _IMPORTED.pop(name, None)


def _has_namesakes_file(top: str) -> str | None:
    """A module below ``top`` that was imported for a pipeline: a folder without ``__init__.py``
    has no file of its own."""
    return next((name for name in _IMPORTED if name.startswith(f"{top}.")), None)


def _is_from(loaded: ModuleType, meant: importlib.machinery.ModuleSpec) -> bool:
    file = getattr(loaded, "__file__", None)
    if file is not None or meant.origin is not None:
        return file is not None and meant.origin is not None and _same(file, meant.origin)
    places = {os.path.realpath(place) for place in getattr(loaded, "__path__", ())}
    return not places.isdisjoint(
        os.path.realpath(place) for place in meant.submodule_search_locations or ()
    )


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _folder_of(loaded: ModuleType) -> str:
    """The folder on ``sys.path`` that a top-level module came from."""
    file = getattr(loaded, "__file__", None)
    if file is None:
        return os.path.dirname(next(iter(getattr(loaded, "__path__", ())), ""))
    folder: str = os.path.dirname(file)
    return os.path.dirname(folder) if os.path.basename(file) == "__init__.py" else folder


# -- looking up --------------------------------------------------------------------------


def _look_up(module: ModuleType, target: Target) -> Any:
    found: Any = module
    for part in target.name.split("."):
        if not hasattr(found, part):
            known = [name for name in vars(found) if not name.startswith("_")]
            raise TargetError(f"{target.place} has no {target.name!r}{nearest(part, known)}")
        found = getattr(found, part)
    return found


def _runner(found: Any, target: Target) -> Runnable:
    if not inspect.isclass(found):
        kind = "a function" if inspect.isfunction(found) else f"of type {type(found).__name__}"
        hint = "; name a function by script: file.py:function" if kind == "a function" else ""
        raise TargetError(f"{target.text} is {kind}, and path takes a class{hint}")
    made: Any = found
    run = getattr(made, "run", None)
    if not callable(run):
        raise TargetError(f"class {target.text} has no method run(self, context)")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(made.__abstractmethods__))
        raise TargetError(f"class {target.text} is abstract: it does not define {lacking}")
    _check_call(made, (), f"class {target.text} is made without arguments")
    is_static = isinstance(inspect.getattr_static(made, "run"), staticmethod)
    arguments = (None,) if is_static else (None, None)
    _check_call(run, arguments, f"{target.text}.run takes one argument, the context")
    _refuse_generator(run, f"{target.text}.run")

    if is_coroutine_function(run):

        async def run_async(context: Any) -> Any:
            return await made().run(context)

        return Runnable(run_async, made, run)
    return Runnable(lambda context: made().run(context), made, run)


def _function(found: Any, target: Target) -> Runnable:
    if inspect.isclass(found) or not callable(found):
        kind = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
        hint = "; name a class by path: package.module:Class" if kind == "a class" else ""
        raise TargetError(f"{target.text} is {kind}, and script takes a function{hint}")
    _check_call(found, (None,), f"function {target.text} takes one argument, the context")
    _refuse_generator(found, f"function {target.text}")
    return Runnable(found, found, found)


def _check_call(called: Any, arguments: tuple[Any, ...], rule: str) -> None:
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return  # some built-in callables do not tell; calling it will
    if inspect.ismethod(called):
        arguments = arguments[1:]  # a class method is bound already
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TargetError(f"{rule}, and its signature is {signature}") from error


def _refuse_generator(function: Any, what: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TargetError(f"{what} is a generator, which has no one result; return a list")
