"""How the jobs of a project are put together before an operation gets them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import md5
from typing import Any

__all__ = ["Aggregate", "aggregator", "get_aggregate_id"]

Aggregate = tuple[Any, ...]
"""The jobs that one operation is called with, in order."""

JobKey = Callable[[Any], Any]


class aggregator:  # noqa: N801 - the name its users know
    """How jobs become aggregates: tuples of jobs, each one call of an operation.

    Args:
        aggregator_function: takes all jobs and gives tuples of them; left out, one aggregate
            of all jobs.
        sort_by: jobs are sorted before: by a state point key, or by a function of the job.
        sort_ascending: False sorts the other way.
        select: a function of the job; only those for which it is true take part.

    Raises:
        TypeError: an argument is not of its kind.

    Example:
        >>> pairs = aggregator.groupsof(2)
        >>> pairs.aggregates(["a", "b", "c"])
        [('a', 'b'), ('c',)]
    """

    def __init__(
        self,
        aggregator_function: Callable[[Sequence[Any]], Iterable[Iterable[Any]]] | None = None,
        sort_by: str | JobKey | None = None,
        sort_ascending: bool = True,
        select: Callable[[Any], Any] | None = None,
    ) -> None:
        _check_callable("aggregator_function", aggregator_function)
        if not isinstance(sort_by, str):
            _check_callable("sort_by", sort_by)
        _check_callable("select", select)
        self._function = _all_in_one if aggregator_function is None else aggregator_function
        self._sort_by = sort_by
        self._sort_ascending = bool(sort_ascending)
        self._select = select
        self._is_single = False

    @property
    def is_single(self) -> bool:
        """Whether every job is an aggregate of its own, in the project's order."""
        return self._is_single

    @classmethod
    def groupsof(
        cls,
        num: int = 1,
        sort_by: str | JobKey | None = None,
        sort_ascending: bool = True,
        select: Callable[[Any], Any] | None = None,
    ) -> aggregator:
        """Aggregates of ``num`` jobs; the last one has what is left.

        Raises:
            TypeError, ValueError: ``num`` is not a whole number of 1 or more.
        """
        size = _whole_number(num)
        made = cls(lambda jobs: _slices(jobs, size), sort_by, sort_ascending, select)
        made._is_single = size == 1 and sort_by is None and select is None and made._sort_ascending
        return made

    @classmethod
    def groupby(
        cls,
        key: str | Iterable[str] | JobKey,
        default: Any = None,
        sort_by: str | JobKey | None = None,
        sort_ascending: bool = True,
        select: Callable[[Any], Any] | None = None,
    ) -> aggregator:
        """Aggregates of the jobs that agree in ``key``.

        Args:
            key: a state point key, several of them, or a function of the job.
            default: stands in where a job lacks the key; one for each of several keys.
            sort_by, sort_ascending, select: as for the class.

        Raises:
            TypeError, ValueError: ``key`` is none of these, or ``default`` does not match it.
        """
        value_of = _grouping_key(key, default)

        def grouped(jobs: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
            for _, group in itertools.groupby(sorted(jobs, key=value_of), key=value_of):
                yield tuple(group)

        return cls(grouped, sort_by, sort_ascending, select)

    def aggregates(self, jobs: Iterable[Any]) -> list[Aggregate]:
        """The aggregates of these jobs, empty ones left out."""
        chosen = list(jobs if self._select is None else filter(self._select, jobs))
        if self._sort_by is not None:
            by = self._sort_by
            key = (lambda job: job.cached_statepoint[by]) if isinstance(by, str) else by
            chosen.sort(key=key, reverse=not self._sort_ascending)
        return [made for aggregate in self._function(chosen) if (made := tuple(aggregate))]


def get_aggregate_id(jobs: Sequence[Any]) -> str:
    """The id of an aggregate: that of the job, or ``agg-`` and a digest of the ids of several."""
    if len(jobs) == 1:
        return str(jobs[0].id)
    joined = ",".join(job.id for job in jobs)
    return f"agg-{md5(joined.encode(), usedforsecurity=False).hexdigest()}"


def _check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"aggregator: {name} takes a function, got {value!r}")


def _whole_number(num: Any) -> int:
    if isinstance(num, bool) or not isinstance(num, int | float) or num != int(num):
        raise TypeError(f"groupsof() takes a whole number of jobs, got {num!r}")
    if num < 1:
        raise ValueError(f"groupsof() takes 1 job or more, got {num!r}")
    return int(num)


def _all_in_one(jobs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    yield jobs


def _slices(jobs: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(jobs), size):
        yield jobs[begin : begin + size]


def _grouping_key(key: Any, default: Any) -> JobKey:
    if isinstance(key, str):
        return _one_key(key, default)
    if callable(key):
        return key  # type: ignore[no-any-return]
    if not isinstance(key, Iterable):
        raise TypeError(f"groupby() takes a key, several keys or a function, got {key!r}")
    keys = list(key)
    if default is None:
        defaults: list[Any] = [None] * len(keys)
    elif isinstance(default, str) or not isinstance(default, Iterable):
        raise TypeError(f"groupby() with {len(keys)} keys takes as many defaults, got {default!r}")
    else:
        defaults = list(default)
        if len(defaults) != len(keys):
            raise ValueError(
                f"groupby() has {len(keys)} keys and {len(defaults)} defaults; give one for each"
            )
    parts = [_one_key(one, its) for one, its in zip(keys, defaults, strict=True)]
    return lambda job: [part(job) for part in parts]


def _one_key(key: str, default: Any) -> JobKey:
    if default is None:
        return lambda job: job.cached_statepoint[key]
    return lambda job: job.cached_statepoint.get(key, default)
