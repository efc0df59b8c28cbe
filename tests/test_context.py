"""What a step learns about itself by taking a StepContext."""

from __future__ import annotations

import logging

import pytest

from asyncflow import GrantedLease, Pipeline, StepCancelled, StepContext, step
from tests.virtual_time import virtual_time


class Control:
    """Stands in for the attempt behind a context."""

    def __init__(self, cancel_requested: bool = False) -> None:
        self.cancel_requested = cancel_requested
        self.reports: list[tuple[float, float | None, str | None]] = []

    def report(self, done: float, total: float | None, message: str | None) -> None:
        self.reports.append((done, total, message))


def a_context(control: Control) -> StepContext:
    return StepContext(
        run_id="night",
        node="load",
        attempt=2,
        lease=GrantedLease(cpus=2, memory_bytes=1024, gpu_ids=("0",)),
        logger=logging.getLogger("asyncflow.step.test"),
        control=control,  # type: ignore[arg-type]  # it nests nothing
    )


def test_it_says_which_attempt_of_which_node_of_which_run() -> None:
    context = a_context(Control())
    assert (context.run_id, context.node, context.attempt) == ("night", "load", 2)
    assert context.idempotency_key == "night/load"
    assert context.lease == GrantedLease(2, 1024, ("0",))


def test_it_follows_the_attempt_in_whether_to_stop() -> None:
    control = Control()
    context = a_context(control)
    context.raise_if_cancelled()
    before, control.cancel_requested = context.cancelled, True
    assert (before, context.cancelled) == (False, True)
    with pytest.raises(StepCancelled, match="step 'load' was told to stop") as caught:
        context.raise_if_cancelled()
    assert (caught.value.step, caught.value.attempt) == ("load", 2)


def test_it_passes_reports_on() -> None:
    control = Control()
    a_context(control).report(1)
    a_context(control).report(2, total=3, message="half way")
    assert control.reports == [(1, None, None), (2, 3, "half way")]


def test_a_lease_of_nothing_is_all_zeros() -> None:
    assert GrantedLease() == GrantedLease(0.0, 0, ())


@virtual_time
async def test_its_logger_is_named_after_pipeline_and_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @step
    def logs(context: StepContext) -> None:
        context.logger.warning("careful")

    with caplog.at_level(logging.WARNING):
        await Pipeline("nightly", steps=[logs]).run()
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("asyncflow.step.nightly.logs", "careful")


@virtual_time
async def test_it_is_given_by_annotation_wherever_the_parameter_stands() -> None:
    @step
    async def keyword(*, about: StepContext) -> str:
        return about.node

    @step
    def optional(keyword: str, about: StepContext | None = None) -> str:
        assert about is not None
        return f"{keyword} before {about.node}"

    result = await Pipeline("p", steps=[keyword, optional]).run()
    assert result["optional"] == "keyword before optional"
