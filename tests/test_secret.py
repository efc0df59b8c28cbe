"""A secret is seen by the step it is for, and by nothing and nobody else."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import logging
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import GraphError, Pipeline, PipelineResult, Run, Secret, StepContext, step
from asyncflow.events import Event
from tests.virtual_time import virtual_time

VALUE = "hunter2-do-not-print"


# --------------------------------------------------------------------- showing


@pytest.mark.parametrize("value", [VALUE, VALUE.encode(), 71077345, [VALUE], {VALUE: VALUE}, None])
def test_it_shows_as_stars_however_it_is_turned_into_text(value: object) -> None:
    secret = Secret(value)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r}",
        f"{secret!s:>12}",
        f"{secret:>12}",
        "%s" % secret,  # noqa: UP031 - a way in which people print things
        f"{secret=}",
        "{}".format(secret),  # noqa: UP032
        str([secret]),
        str({"token": secret}),
        ascii(secret),
    ]
    for text in shown:
        assert "***" in text
        assert "hunter2" not in text
        assert "71077345" not in text
        assert "None" not in text
    assert secret.reveal() is value


@given(st.text(min_size=1).filter(lambda text: text not in "Secret('***')"))
def test_no_text_is_ever_part_of_what_is_shown(text: str) -> None:
    secret = Secret(text)
    assert {repr(secret), str(secret), f"{secret}"} == {"Secret('***')", "***"}


def test_a_dataclass_that_holds_one_shows_stars() -> None:
    @dataclasses.dataclass
    class Settings:
        user: str
        token: Secret[str]

    settings = Settings("ann", Secret(VALUE))
    assert "token=Secret('***')" in repr(settings)
    assert dataclasses.asdict(settings)["token"].reveal() == VALUE


def test_a_logger_prints_stars(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test_secret")
    logger.error("token %s, %r", Secret(VALUE), Secret(VALUE))
    assert caplog.messages == ["token ***, Secret('***')"]


def test_it_has_no_attributes_to_stumble_upon() -> None:
    assert not hasattr(Secret(VALUE), "__dict__")
    assert [name for name in dir(Secret(VALUE)) if not name.startswith("_")] == ["reveal"]


# ------------------------------------------------------------ writing and copying


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_never_pickled(protocol: int) -> None:
    for holder in (Secret(VALUE), {"token": Secret(VALUE)}, [Secret(None)]):
        with pytest.raises(TypeError, match="a Secret is never written down; give it again"):
            pickle.dumps(holder, protocol)


@pytest.mark.parametrize("write", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode])
def test_no_encoder_takes_it(write: Any) -> None:
    with pytest.raises(TypeError) as caught:
        write({"token": Secret(VALUE)})
    assert VALUE not in str(caught.value)


def test_a_copy_of_it_is_the_secret_itself() -> None:
    secret = Secret([VALUE])
    assert copy.copy(secret) is secret
    assert copy.deepcopy(secret) is secret
    assert copy.deepcopy({"token": [secret]})["token"][0] is secret


def test_secrets_of_one_value_are_equal_and_equal_to_nothing_else() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret("other")
    assert Secret(VALUE) != VALUE
    assert len({Secret(VALUE), Secret(VALUE), VALUE}) == 2


# -------------------------------------------------------------------- in a run


@step
async def log_in(token: Secret[str], context: StepContext) -> int:
    context.logger.warning("logging in with %s", token)
    context.report(1, message=f"using {token}")
    await asyncio.sleep(1)
    return len(token.reveal())


@step
async def refuse(token: Secret[str], log_in: int) -> None:
    raise PermissionError(f"{token} was refused")


@step(when="failure")
async def keep(token: Secret[str]) -> Secret[str]:
    return token


def all_that_is_shown(run: Run, result: PipelineResult, events: list[Event]) -> str:
    errors = [found.error for found in result.step_results.values()]
    return " ".join(
        [
            repr(run),
            repr(result),
            result.summary(),
            json.dumps(result.to_dict()),
            str(result.outputs),
            str(list(result.step_results.values())),
            str(events),
            msgspec.json.encode(events).decode(),
            str(run.snapshot()),
            *(run.explain(name) for name in result.step_results),
            *map(repr, errors),
            *map(str, errors),
        ]
    )


@pytest.mark.parametrize("way", ["inputs", "services", "context", "given"])
@virtual_time
async def test_a_run_shows_it_nowhere(way: str) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler(0)
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logging.getLogger().addHandler(handler)
    secret = Secret(VALUE)
    pipeline = Pipeline(
        "p", [log_in, refuse, keep], context={"token": secret} if way == "context" else None
    )
    if way == "given":

        @step(outputs=["token"])
        async def read() -> Secret[str]:
            raise AssertionError("it is given")

        pipeline.add_step(read)
    options: dict[str, Any] = {} if way == "context" else {way: {"token": secret}}
    try:
        async with pipeline.start(**options) as run:
            stream = run.events()
            result = await run.result()
            events = [event async for event in stream]
    finally:
        logging.getLogger().removeHandler(handler)
    assert result["log_in"] == len(VALUE)
    assert result["keep"].reveal() == VALUE
    logged = [record.getMessage() for record in records]
    assert "logging in with ***" in logged
    shown = all_that_is_shown(run, result, events) + " ".join(logged)
    assert "using ***" in shown
    assert "*** was refused" in shown
    assert VALUE not in shown


@virtual_time
async def test_params_hide_it_as_well() -> None:
    pipeline = Pipeline("p").add_step(log_in, params={"token": Secret(VALUE)})
    assert (await pipeline.run())["log_in"] == len(VALUE)
    shown = f"{pipeline.steps} {pipeline.plan()} {pipeline.visualize()} {pipeline.build()}"
    assert VALUE not in shown


@virtual_time
async def test_a_declared_input_may_have_to_be_one() -> None:
    pipeline = Pipeline("p", [log_in], inputs={"token": Secret})
    assert (await pipeline.run({"token": Secret(VALUE)})).success
    with pytest.raises(GraphError, match="'token' is of type str, declared as Secret") as caught:
        await pipeline.run({"token": VALUE})
    assert VALUE not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": {"token": Secret(VALUE), "tokn": Secret(VALUE)}},
        {"inputs": Secret(VALUE)},
        {"services": {"tokn": Secret(VALUE)}},
        {"given": {"tokn": Secret(VALUE)}},
    ],
)
@virtual_time
async def test_refusals_do_not_show_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(GraphError) as caught:
        await Pipeline("p", [log_in]).run(**wrong)
    assert VALUE not in str(caught.value) + repr(caught.value)
