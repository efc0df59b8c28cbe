"""A nest uses what the work above it holds, and nobody in it gets what another one has taken."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from asyncflow.engine.limiter import Capacity, Demand, Device, GpuDemand, Lease, Limiter

WHOLE, TWO = Demand(gpu=GpuDemand()), Demand(gpu=GpuDemand(2))


def share(of_one: float) -> Demand:
    return Demand(gpu=GpuDemand(0, int(of_one * 1_000_000)))


def memory(amount: int) -> Demand:
    return Demand(0, amount)


class Nest:
    """A limiter of 4 units of memory and some devices, asked by a tree of names."""

    def __init__(self, devices: int = 1) -> None:
        capacity = Capacity(4_000, 4, tuple(Device(str(i)) for i in range(devices)))
        self.limiter = Limiter(capacity)
        self.leases: dict[Hashable, Lease] = {}

    def ask(self, name: str, demand: Demand, under: str | None = None) -> bool:
        """Ask, and grant what can be granted; returns whether this was."""
        above = None if under is None else self.leases[under]
        self.limiter.request(name, demand, owner="run", under=above)
        self._grant()
        return name in self.leases

    def end(self, name: str) -> None:
        self.limiter.release(self.leases.pop(name))
        self._grant()

    def _grant(self) -> None:
        while (granted := self.limiter.grant()) is not None:
            ticket, lease = granted
            self.leases[ticket] = lease
            self.limiter.validate()

    def busy(self) -> tuple[int, int]:
        """Memory and millionths of devices that are held."""
        found = self.limiter.statistics()
        return found.memory_bytes_held, found.gpu_micro_units_held


@pytest.mark.parametrize("demand", [WHOLE, share(0.6), memory(4)])
def test_siblings_take_turns_at_what_their_parent_holds(demand: Demand) -> None:
    nest = Nest()
    assert nest.ask("parent", demand)
    held = nest.busy()
    assert nest.ask("first", demand, "parent")
    assert not nest.ask("second", demand, "parent")
    assert nest.busy() == held
    nest.end("first")
    assert "second" in nest.leases
    nest.end("second")
    assert nest.busy() == held
    nest.end("parent")
    assert nest.busy() == (0, 0)


def test_grandchildren_take_from_whoever_above_them_has_something_left() -> None:
    nest = Nest()
    nest.ask("parent", WHOLE)
    assert nest.ask("child", Demand(1_000), "parent")
    assert nest.ask("grandchild", WHOLE, "child")
    assert nest.leases["grandchild"].gpu_ids == ("0",)
    assert not nest.ask("sibling", WHOLE, "parent")


def test_what_a_child_took_is_there_for_its_own_children_only() -> None:
    nest = Nest()
    nest.ask("parent", WHOLE)
    nest.ask("child", share(0.5), "parent")
    assert nest.ask("grandchild", share(0.5), "child")
    assert nest.ask("another", share(0.5), "child"), "from what the parent has left"
    assert not nest.ask("sibling", share(0.5), "parent")
    nest.end("grandchild")
    assert "sibling" not in nest.leases, "what came free is the child's"
    nest.end("another")
    assert "sibling" in nest.leases


def test_what_the_work_above_lacks_comes_from_the_pool() -> None:
    nest = Nest(devices=2)
    nest.ask("parent", Demand(0, 1, GpuDemand()))
    assert nest.ask("child", Demand(0, 3, GpuDemand(2)), "parent")
    assert nest.busy() == (3, 2_000_000)
    nest.end("child")
    assert nest.busy() == (1, 1_000_000)


def test_a_nest_gets_the_rest_of_a_device_of_which_its_parent_holds_a_part() -> None:
    nest = Nest()
    nest.ask("parent", share(0.25))
    assert nest.ask("child", WHOLE, "parent")
    assert nest.busy() == (0, 1_000_000)
    nest.end("child")
    assert nest.busy() == (0, 250_000)


def test_a_nest_prefers_what_its_parent_holds_to_what_is_free() -> None:
    nest = Nest(devices=3)
    nest.ask("other", WHOLE)
    nest.ask("parent", WHOLE)
    nest.end("other")
    nest.ask("child", WHOLE, "parent")
    assert nest.leases["child"].gpu_ids == nest.leases["parent"].gpu_ids == ("1",)


def test_one_nest_that_waits_does_not_hold_up_another() -> None:
    nest = Nest(devices=2)
    nest.ask("a", WHOLE)
    nest.ask("b", WHOLE)
    nest.ask("child of a", WHOLE, "a")
    assert not nest.ask("waits", WHOLE, "a")
    assert nest.ask("child of b", WHOLE, "b")
    assert nest.ask("grandchild", WHOLE, "child of a"), "or 'waits' would wait for ever"


def test_what_a_nest_holds_stays_with_it_when_the_work_above_ends_first() -> None:
    nest = Nest()
    nest.ask("parent", Demand(0, 3, GpuDemand()))
    nest.ask("child", Demand(0, 2, GpuDemand()), "parent")
    nest.ask("grandchild", Demand(0, 1, GpuDemand()), "child")
    nest.end("parent")
    assert nest.busy() == (2, 1_000_000)
    assert not nest.ask("outsider", WHOLE)
    nest.end("child")
    assert nest.busy() == (1, 1_000_000)
    nest.end("grandchild")
    assert "outsider" in nest.leases
    assert nest.busy() == (0, 1_000_000)


def test_what_a_child_that_ends_early_passed_down_still_counts_against_the_parent() -> None:
    nest = Nest()
    nest.ask("parent", memory(3))
    nest.ask("child", memory(3), "parent")
    nest.ask("grandchild", memory(2), "child")
    nest.end("child")
    assert nest.busy() == (3, 0)
    assert not nest.ask("sibling", memory(3), "parent")
    nest.end("grandchild")
    assert "sibling" in nest.leases


def test_a_waiting_nest_is_explained_by_what_it_lacks() -> None:
    nest = Nest()
    nest.ask("parent", memory(4))
    nest.ask("first", memory(3), "parent")
    nest.ask("second", memory(2), "parent")
    words = nest.limiter.explain("second")
    assert "'second' waits for 2 bytes of memory" in words
    assert "0 bytes free of 4 bytes, 1 byte left of what it is nested in, held by" in words
