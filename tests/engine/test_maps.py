"""Mapped nodes: one node for each element, elements flow on, the asset is the ordered list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from asyncflow import Pipeline, StepCancelled, step
from tests.virtual_time import now, virtual_time


@step
async def numbers(values: object) -> object:
    return values


@step
async def slow(number: int) -> int:
    await asyncio.sleep(number)
    return number * 10


@pytest.mark.parametrize("values", [[3, 1, 2], [], (2, 1), {"a": 3, "b": 1}])
def test_the_asset_is_the_list_in_input_order(values: object) -> None:
    @virtual_time
    async def main() -> None:
        pipeline = Pipeline("p").add_step(numbers, params={"values": values})
        result = await pipeline.add_step(slow, inputs=["numbers"], map="numbers").run()
        elements = values.values() if isinstance(values, dict) else values
        assert result["slow"] == [number * 10 for number in elements]  # type: ignore[attr-defined]

    main()


@virtual_time
async def test_what_cannot_be_iterated_over_fails_the_mapped_node() -> None:
    pipeline = Pipeline("p").add_step(numbers, params={"values": 7})
    result = await pipeline.add_step(slow, inputs=["numbers"], map="numbers").run()
    assert not result.success
    assert "maps over 'numbers'" in str(result.step_results["slow"].error)


@virtual_time
async def test_nothing_failed_above_a_mapped_node_that_was_cancelled() -> None:
    @step
    async def total(slow: list[int]) -> int:
        return sum(slow)

    pipeline = Pipeline("p").add_step(numbers, params={"values": [1, 5]})
    pipeline.add_step(slow, inputs=["numbers"], map="numbers").add_step(total)
    async with pipeline.start() as run:
        await asyncio.sleep(3)
        await run.cancel("no longer needed")
        result = await run.result()
    states = {name: str(state) for name, state in result.states().items()}
    assert states == {
        "numbers": "succeeded",
        "slow": "cancelled",
        "slow[0]": "succeeded",
        "slow[1]": "cancelled",
        "total": "cancelled",
    }
    with pytest.raises(StepCancelled, match="no longer needed"):
        result["total"]


@virtual_time
async def test_elements_flow_on_without_a_barrier() -> None:
    began: list[float] = []

    @step
    async def after(slow: int) -> int:
        began.append(now())
        return slow + 1

    pipeline = Pipeline("p").add_step(numbers, params={"values": [5, 1, 3]})
    pipeline.add_step(slow, inputs=["numbers"], map="numbers").add_step(after, map="slow")
    result = await pipeline.run()
    assert result["after"] == [51, 11, 31]
    assert began == pytest.approx([1, 3, 5])


@virtual_time
async def test_elements_whose_keys_read_alike_fail_the_mapped_node() -> None:
    pipeline = Pipeline("p").add_step(numbers, params={"values": {1: 1, "1": 2}})
    result = await pipeline.add_step(slow, inputs=["numbers"], map="numbers").run()
    assert "two of them have the key '1'" in str(result.step_results["slow"].error)


@virtual_time
async def test_a_source_that_raises_midway_fails_the_mapped_node_and_its_elements_end() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            yield from range(300)
            raise OSError("the disk is gone")

    pipeline = Pipeline("p", failure_policy="collect_all")
    pipeline.add_step(numbers, params={"values": Broken()})
    result = await pipeline.add_step(slow, inputs=["numbers"], map="numbers").run()
    assert "elements cannot be had: OSError: the disk is gone" in str(
        result.step_results["slow"].error
    )
    assert result.step_results["slow[299]"].success
