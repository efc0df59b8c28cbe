"""What is found out about one file."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import msgspec

from examples.census.sources import is_test

__all__ = ["FileFacts", "FunctionFacts", "LineCounts", "count_lines", "parse_file"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.match_case,
    ast.comprehension,
)
# The library's tests hold odd escapes on purpose; only warnings about files parsed here are
# silenced, by the name they are parsed under.
_PARSED_AS = "census:"
warnings.filterwarnings("ignore", module=_PARSED_AS)


class LineCounts(msgspec.Struct, frozen=True):
    """The lines of one file. Docstrings count as code: telling them apart takes a parser."""

    path: Path
    package: str
    code: int
    comments: int
    blank: int

    @property
    def lines(self) -> int:
        return self.code + self.comments + self.blank

    @property
    def comment_share(self) -> float:
        """Comments among the lines that are not blank, from 0 to 1."""
        return self.comments / (self.code + self.comments or 1)


class FunctionFacts(msgspec.Struct, frozen=True):
    """A function or method: its name, its length in lines and how often it branches."""

    name: str
    lines: int
    branches: int


class FileFacts(msgspec.Struct, frozen=True):
    """What the parser knows about one file; ``fault`` says why it refused it, if it did."""

    path: Path
    package: str
    functions: tuple[FunctionFacts, ...] = ()
    classes: int = 0
    imports: frozenset[str] = frozenset()
    fault: str = ""

    @property
    def is_test(self) -> bool:
        return is_test(self.path)

    @property
    def module(self) -> str:
        """The dotted name it is imported by."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def count_lines(path: Path, package: str, source: bytes) -> LineCounts:
    """Tell code, comments and blank lines apart without parsing."""
    stripped = [line.strip() for line in source.splitlines()]
    blank = stripped.count(b"")
    comments = sum(line.startswith(b"#") for line in stripped)
    return LineCounts(path, package, len(stripped) - blank - comments, comments, blank)


def parse_file(path: Path, package: str, source: bytes) -> FileFacts:
    """Parse a file and look at its functions, classes and imports."""
    try:
        tree = ast.parse(source, filename=f"{_PARSED_AS}{path}")
    except (SyntaxError, ValueError) as error:
        # Some of the library's tests are wrong on purpose: a fact as good as any other.
        return FileFacts(path, package, fault=str(error).replace(_PARSED_AS, ""))
    reader = _Reader()
    reader.visit(tree)
    return FileFacts(
        path, package, tuple(reader.functions), reader.classes, frozenset(reader.imports)
    )


class _Reader:
    """Walks a tree once; a branch counts for the innermost function around it."""

    def __init__(self) -> None:
        self.functions: list[FunctionFacts] = []
        self.classes = 0
        self.imports: set[str] = set()

    def visit(self, node: ast.AST) -> int:
        """Look at everything below a node; returns the branches outside inner functions."""
        branches = 0
        for child in ast.iter_child_nodes(node):
            below = self.visit(child)
            if isinstance(child, _FUNCTIONS):
                self._add_function(child, below)
                continue
            branches += below + isinstance(child, _BRANCHES)
            self._look_at(child)
        return branches

    def _add_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, branches: int) -> None:
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        self.functions.append(FunctionFacts(node.name, lines, branches))

    def _look_at(self, node: ast.AST) -> None:
        if isinstance(node, ast.ClassDef):
            self.classes += 1
        elif isinstance(node, ast.Import):
            self.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            self.imports.add(node.module.partition(".")[0])
