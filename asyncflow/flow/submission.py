"""Submitting: one script for each group on each aggregate, or for a bundle of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from hashlib import md5
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.circles import Circles
from asyncflow.flow.commands import run_group_command
from asyncflow.flow.conditions import All, IgnoreConditions
from asyncflow.flow.errors import SubmitError
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import Judge, asking, is_eligible
from asyncflow.flow.slurm import JobState, QueuedJob, Slurm

if TYPE_CHECKING:
    from asyncflow.flow.project import FlowProject
    from asyncflow.flow.selecting import Selection

__all__ = ["Submission", "SubmitOptions", "submission_id", "submit"]

_BUNDLES = Path(".asyncflow", "bundles")


class SubmitOptions(msgspec.Struct, frozen=True):
    """How a selection is submitted.

    Args:
        pretend: print the scripts, and leave no trace.
        force: also what is in the queue already.
        bundle_size: so many groups in one script; 0 for all.
        parallel: the groups of a bundle run side by side.
        after: number of a scheduler's job that has to succeed first.
        hold: submit held.
        job_output: file for the scheduler's output.
        partition: of the scheduler.
        template: name of the script's template, in the folder ``templates`` of the project or
            here.
        flags: passed on to the scheduler as they are.
        ignore, ignore_on_execution: conditions that count for nothing now, and then.
    """

    pretend: bool = False
    force: bool = False
    bundle_size: int = 1
    parallel: bool = False
    after: str | None = None
    hold: bool = False
    job_output: str | None = None
    partition: str | None = None
    template: str = "script.sh"
    flags: tuple[str, ...] = ()
    ignore: IgnoreConditions = IgnoreConditions.NONE
    ignore_on_execution: IgnoreConditions = IgnoreConditions.NONE


class Submission(msgspec.Struct, frozen=True):
    """One group on one aggregate, as templates see it."""

    id: str
    name: str
    aggregate_id: str
    command: str
    directives: dict[str, Any]
    waits_for: tuple[str, ...] = ()


def submission_id(project: FlowProject, group: str, aggregate_id: str) -> str:
    """The name under which a scheduler knows a group on an aggregate.

    It begins with what a person can read; the digest at its end tells projects and groups apart.
    """
    full = f"{project.path}%{aggregate_id}%{group}"
    digest = md5(full.encode(), usedforsecurity=False).hexdigest()
    return f"{type(project).__name__[:12]}/{aggregate_id[:12]}/{group[:24]}/{digest}"


def submit(
    project: FlowProject, selection: Selection, num: int | None, options: SubmitOptions
) -> int:
    """Submit what is eligible, and what will be once others of the selection are done.

    Returns:
        How many groups were submitted.

    Raises:
        NoSchedulerError, SubmitError: there is no scheduler, or it refused.
        UserConditionError, DirectivesError: a condition raised; a directive is wrong.
    """
    scheduler = Slurm()
    queued = (
        _queued_if_known(project, scheduler) if options.pretend else _queued(project, scheduler)
    )
    judge = Judge()
    Circles(group for group, _, _ in selection).warn(selection, judge, options.ignore)
    found = _submissions(project, selection, queued, judge, options)
    chosen = list(found if num is None or num < 0 else islice(found, num))
    numbers = {name: job.number for name, job in queued.items()}
    for bundle in _bundles(chosen, options.bundle_size):
        waits_for = {
            numbers.get(name, f"<number of {name}>")
            for each in bundle
            for name in each.waits_for
            if name not in {other.id for other in bundle}
        }
        name, script = _script(project, bundle, sorted(waits_for), options)
        if options.pretend:
            print(script)
            continue
        number = scheduler.submit(script, options.flags, directory=project.path)
        print(f"submitted {name} as job {number}")
        numbers.update({each.id: number for each in bundle})
        if len(bundle) > 1:
            _remember_bundle(project, name, bundle)
    if not chosen:
        print("nothing to submit: no selected operation is eligible", file=sys.stderr)
    return len(chosen)


def _submissions(
    project: FlowProject,
    selection: Selection,
    queued: Mapping[str, QueuedJob],
    judge: Judge,
    options: SubmitOptions,
) -> Iterable[Submission]:
    # What will have run by then: by operation and job, the name of its submission.
    coming: dict[tuple[str, str], str] = {}
    for group, aggregate_id, jobs in selection:
        name = submission_id(project, group.name, aggregate_id)
        if name in queued and not options.force:
            _note_coming(coming, group, jobs, name)
    for group, aggregate_id, jobs in _in_order(selection):
        name = submission_id(project, group.name, aggregate_id)
        if name in queued and not options.force:
            continue
        waits_for: tuple[str, ...] = ()
        if not group.eligible(jobs, judge, options.ignore):
            waits_for = _waits_for(group, jobs, coming, options.ignore)
            if not waits_for:
                continue
        _note_coming(coming, group, jobs, name)
        yield _submission(project, group, aggregate_id, jobs, waits_for, options)


def _note_coming(
    coming: dict[tuple[str, str], str], group: FlowGroup, jobs: Aggregate, name: str
) -> None:
    for operation in group.operations:
        for job in jobs:
            coming[operation, job.id] = name


def _in_order(selection: Selection) -> Selection:
    """Groups whose operations come after others after them; else as they were."""
    ranks: dict[str, int] = {}

    def rank(operation: Any, above: tuple[str, ...] = ()) -> int:
        if operation.name not in ranks:
            before = [
                other
                for condition in operation.pre
                if isinstance(condition, All) and condition.kind == "post"
                for other in condition.operations
                if other.name not in above
            ]
            above = (*above, operation.name)
            ranks[operation.name] = max((1 + rank(other, above) for other in before), default=0)
        return ranks[operation.name]

    return sorted(selection, key=lambda pair: min(rank(op) for op in pair[0].operations.values()))


def _waits_for(
    group: FlowGroup,
    jobs: Aggregate,
    coming: Mapping[tuple[str, str], str],
    ignore: IgnoreConditions,
) -> tuple[str, ...]:
    """The submissions after which an operation of the group is eligible; none if there are none."""
    for operation in group.operations.values():
        names: set[str] = set()
        rest = []
        for condition in operation.pre:
            found = (
                _coming_for(condition, jobs, coming)
                if isinstance(condition, All) and condition.kind == "post"
                else None
            )
            if found:
                names |= found
            else:
                rest.append(condition)
        ask = asking(operation.name, jobs)
        if names and is_eligible(rest, operation.post, ask, int(ignore)):
            return tuple(sorted(names))
    return ()


def _coming_for(
    condition: All, jobs: Aggregate, coming: Mapping[tuple[str, str], str]
) -> set[str] | None:
    """The submissions that will make a condition true; None if something is missing."""
    names = set()
    for operation in condition.operations:
        for job in jobs:
            name = coming.get((operation.name, job.id))
            if name is not None:
                names.add(name)
            elif not all(part.holds(asking(operation.name, (job,))) for part in operation.post):
                return None
    return names


def _submission(
    project: FlowProject,
    group: FlowGroup,
    aggregate_id: str,
    jobs: Aggregate,
    waits_for: tuple[str, ...],
    options: SubmitOptions,
) -> Submission:
    directives = group.directives(jobs)
    words = [group.submit_options] if group.submit_options else []
    if options.ignore_on_execution:
        words.append(f"--ignore-conditions={options.ignore_on_execution}")
    return Submission(
        id=submission_id(project, group.name, aggregate_id),
        name=group.name,
        aggregate_id=aggregate_id,
        # The operation's own executable is that of the run command, which finds it there.
        command=run_group_command(
            project.entrypoint, group.name, aggregate_id, None, " ".join(words)
        ),
        directives=directives,
        waits_for=waits_for,
    )


# -- scripts -------------------------------------------------------------------------


def _bundles(submissions: Sequence[Submission], size: int) -> Iterable[Sequence[Submission]]:
    size = size if size > 0 else max(len(submissions), 1)
    for begin in range(0, len(submissions), size):
        yield submissions[begin : begin + size]


def _script(
    project: FlowProject,
    bundle: Sequence[Submission],
    waits_for: Sequence[str],
    options: SubmitOptions,
) -> tuple[str, str]:
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

    name = bundle[0].id
    if len(bundle) > 1:
        digest = md5("".join(each.id for each in bundle).encode(), usedforsecurity=False)
        name = f"{type(project).__name__[:12]}/bundle/{digest.hexdigest()}"
    environment = Environment(
        loader=ChoiceLoader(
            [
                FileSystemLoader(Path(project.path, "templates")),
                PackageLoader("asyncflow.flow", "templates"),
            ]
        ),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = shlex.quote
    after = [*waits_for, *([options.after] if options.after else [])]
    context = {
        "base_script": "slurm.sh",
        "id": name,
        "project_path": project.path,
        "operations": bundle,
        "parallel": options.parallel and len(bundle) > 1,
        "after": after,
        "hold": options.hold,
        "job_output": options.job_output,
        "partition": options.partition,
        **_resources(bundle, side_by_side=options.parallel),
    }
    return name, environment.get_template(options.template).render(context)


def _resources(bundle: Sequence[Submission], *, side_by_side: bool) -> dict[str, Any]:
    def total(name: str) -> Any:
        values = [each.directives[name] or 0 for each in bundle]
        return sum(values) if side_by_side else max(values)

    hours = [each.directives["walltime"] or 0 for each in bundle]
    walltime = max(hours) if side_by_side else sum(hours)
    ntasks = max(1, total("nranks"))
    return {
        "ntasks": ntasks,
        "cpus_per_task": max(1, -(-total("np") // ntasks)),
        "gpus": total("ngpu"),
        "memory_megabytes": round(total("memory") * 1024),
        "walltime": _hours(walltime) if walltime else "",
    }


def _hours(hours: float) -> str:
    seconds = max(60, round(timedelta(hours=hours).total_seconds()))
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


# -- the queue -----------------------------------------------------------------------


def _queued(project: FlowProject, scheduler: Slurm) -> dict[str, QueuedJob]:
    """What is in the queue, by the names of submissions; those of a bundle one by one."""
    found: dict[str, QueuedJob] = {}
    for job in scheduler.queue():
        if job.state is JobState.ERROR:
            continue
        for name in _members_of(project, job.name):
            found[name] = job
    return found


def states_in_queue(project: FlowProject, *, ignore_errors: bool = False) -> dict[str, str]:
    """What the scheduler says of each submission; nothing where there is no scheduler.

    Raises:
        SubmitError: it did not answer, and that is not to be ignored.
    """
    scheduler = Slurm()
    if not scheduler.is_there():
        return {}
    read = _queued_if_known if ignore_errors else _queued
    try:
        return {name: str(job.state) for name, job in read(project, scheduler).items()}
    except SubmitError as error:
        error.add_note("--ignore-errors (ignore_errors=True) shows all that needs no scheduler")
        raise


def _queued_if_known(project: FlowProject, scheduler: Slurm) -> dict[str, QueuedJob]:
    """What is in the queue; nothing, and a warning, where the scheduler does not tell."""
    if not scheduler.is_there():
        return {}
    try:
        return _queued(project, scheduler)
    except SubmitError as error:
        print(f"warning: {error}", file=sys.stderr)
        return {}


def _bundle_file(project: FlowProject, name: str) -> Path:
    return Path(project.path) / _BUNDLES / name.rsplit("/", 1)[-1]


def _remember_bundle(project: FlowProject, name: str, bundle: Sequence[Submission]) -> None:
    path = _bundle_file(project, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(each.id for each in bundle) + "\n")


def _members_of(project: FlowProject, name: str) -> list[str]:
    if "/bundle/" not in name:
        return [name]
    path = _bundle_file(project, name)
    return path.read_text().splitlines() if path.is_file() else [name]
