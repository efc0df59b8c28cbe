"""Capacity is granted all-or-nothing, comes back exactly once, and always adds up."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest

from asyncflow.engine.limiter import (
    Capacity,
    Demand,
    Device,
    GpuDemand,
    Lease,
    Limiter,
    demand_of,
)
from asyncflow.resources import ResourceRequirements

GIB = 2**30


def a_limiter(
    cpus: float = 4, memory_bytes: int = 8 * GIB, *types: str | None, max_overtakes: int = 64
) -> Limiter:
    devices = tuple(Device(str(index), kind) for index, kind in enumerate(types))
    capacity = Capacity(int(1000 * cpus), memory_bytes, devices)
    return Limiter(capacity, max_overtakes=max_overtakes)


def cpus(count: float) -> Demand:
    return Demand(int(1000 * count))


def gpus(count: int = 1, gpu_type: str | None = None) -> Demand:
    return Demand(gpu=GpuDemand(count, 0, gpu_type))


def share(of_one: float) -> Demand:
    return Demand(gpu=GpuDemand(0, int(of_one * 1_000_000)))


def ask(limiter: Limiter, ticket: Hashable, demand: Demand, under: Lease | None = None) -> None:
    limiter.request(ticket, demand, owner="run", under=under)


def grant_all(limiter: Limiter) -> dict[Hashable, Lease]:
    granted = dict(iter(limiter.grant, None))
    limiter.validate()
    return granted


def give(limiter: Limiter, ticket: Hashable, demand: Demand) -> Lease:
    ask(limiter, ticket, demand)
    return grant_all(limiter)[ticket]


# ------------------------------------------------------------------ granting


def test_what_fits_is_granted_and_the_rest_waits() -> None:
    limiter = a_limiter(4)
    for ticket in "abc":
        ask(limiter, ticket, cpus(2))
    granted = grant_all(limiter)
    assert list(granted) == ["a", "b"]
    assert limiter.waiting() == ["c"]
    limiter.release(granted["a"])
    assert list(grant_all(limiter)) == ["c"]


def test_a_request_gets_all_it_asks_for_or_nothing() -> None:
    limiter = a_limiter(4, 8 * GIB, "T4")
    give(limiter, "holder", Demand(1000, 7 * GIB))
    ask(limiter, "big", Demand(1000, 2 * GIB, GpuDemand()))
    assert limiter.grant() is None
    statistics = limiter.statistics()
    assert statistics.cpu_millis_held == 1000
    assert statistics.memory_bytes_held == 7 * GIB
    assert statistics.busy_devices == ()


def test_a_lease_says_what_it_holds() -> None:
    lease = give(a_limiter(4, 8 * GIB, "T4"), "a", Demand(1500, GIB, GpuDemand()))
    assert (lease.ticket, lease.owner) == ("a", "run")
    assert (lease.cpu_millis, lease.memory_bytes) == (1500, GIB)
    assert (lease.gpus, lease.gpu_ids) == (((0, 1_000_000),), ("0",))


def test_requests_for_nothing_are_granted_on_a_full_machine() -> None:
    limiter = a_limiter(1)
    give(limiter, "holder", cpus(1))
    assert give(limiter, "free", Demand()).cpu_millis == 0


def test_fractions_of_a_cpu_add_up_exactly() -> None:
    limiter = a_limiter(1)
    for ticket in range(11):
        ask(limiter, ticket, cpus(0.1))
    assert len(grant_all(limiter)) == 10


def test_a_waiting_ticket_may_not_be_used_twice() -> None:
    limiter = a_limiter(4)
    ask(limiter, "a", cpus(1))
    with pytest.raises(ValueError, match="'a' waits already"):
        ask(limiter, "a", cpus(2))
    limiter.validate()


def test_a_demand_that_can_never_be_met_is_not_queued() -> None:
    limiter = a_limiter(4)
    with pytest.raises(ValueError, match="'a' can never be granted: 5 CPUs asked for"):
        ask(limiter, "a", cpus(5))
    assert limiter.waiting() == []


@pytest.mark.parametrize(
    "build",
    [
        lambda: Limiter(Capacity(-1, 0)),
        lambda: Limiter(Capacity(0, -1)),
        lambda: Limiter(Capacity(0, 0), max_overtakes=-1),
        lambda: Limiter(Capacity(0, 0, (Device("0"), Device("0")))),
    ],
)
def test_a_senseless_capacity_is_refused(build: Callable[[], Limiter]) -> None:
    with pytest.raises(ValueError, match=r"negative|share an id"):
        build()


# ------------------------------------------------------------------- releasing


def test_a_lease_is_released_exactly_once() -> None:
    limiter = a_limiter(4)
    lease = give(limiter, "a", cpus(1))
    limiter.release(lease)
    with pytest.raises(RuntimeError, match=r"lease of 'a' \(owner 'run'\).*it was released"):
        limiter.release(lease)
    limiter.validate()
    assert limiter.statistics().cpu_millis_free == 4000


def test_a_withdrawn_request_is_never_granted() -> None:
    limiter = a_limiter(1)
    for ticket in "abc":
        ask(limiter, ticket, cpus(1))
    assert limiter.withdraw("a")
    assert not limiter.withdraw("a")
    assert list(grant_all(limiter)) == ["b"]


def test_all_requests_of_an_owner_are_withdrawn_at_once() -> None:
    limiter = a_limiter(1)
    limiter.request("other", cpus(1), owner="second")
    ask(limiter, "a", cpus(1))
    ask(limiter, "b", cpus(0.5))
    assert limiter.withdraw_owner("run") == ["a", "b"]
    assert limiter.waiting() == ["other"]
    assert limiter.withdraw_owner("run") == []
    limiter.validate()


def test_withdrawing_what_closed_the_line_opens_it() -> None:
    limiter = a_limiter(2, max_overtakes=0)
    give(limiter, "holder", cpus(1))
    ask(limiter, "large", cpus(2))
    ask(limiter, "small", cpus(1))
    assert limiter.grant() is None
    limiter.withdraw("large")
    assert list(grant_all(limiter)) == ["small"]


# ------------------------------------------------------------------------ GPUs


def test_whole_devices_must_be_completely_free() -> None:
    limiter = a_limiter(4, GIB, None, None)
    give(limiter, "part", share(0.1))
    ask(limiter, "two", gpus(2))
    assert limiter.grant() is None
    assert give(limiter, "one", gpus(1)).gpu_ids == ("1",)


def test_the_least_capable_device_that_suffices_is_taken() -> None:
    limiter = a_limiter(4, GIB, "H100", "T4", "quantum-1", "A100", "T4")
    order = [give(limiter, n, gpus()).gpu_ids[0] for n in range(5)]
    assert order == ["2", "1", "4", "3", "0"]


def test_a_typed_request_gets_devices_of_its_type() -> None:
    limiter = a_limiter(4, GIB, "T4", "NVIDIA A100-SXM4-80GB", "T4")
    assert give(limiter, "a", gpus(1, "nvidia-a100")).gpu_ids == ("1",)
    assert give(limiter, "t", gpus(2, "nvidia-tesla-t4")).gpu_ids == ("0", "2")


def test_a_device_has_the_memory_that_was_asked_for() -> None:
    devices = (Device("small", "T4", 16 * GIB), Device("large", "T4", 80 * GIB))
    limiter = Limiter(Capacity(1000, GIB, devices))
    lease = give(limiter, "a", Demand(gpu=GpuDemand(1, memory_bytes=40 * GIB)))
    assert lease.gpu_ids == ("large",)


def test_a_declared_device_of_any_type_serves_every_type() -> None:
    assert give(a_limiter(1, GIB, None), "a", gpus(1, "H100")).gpu_ids == ("0",)


def test_ten_tenths_fill_one_device() -> None:
    limiter = a_limiter(4, GIB, None)
    for ticket in range(11):
        ask(limiter, ticket, demand_of(ResourceRequirements(gpu=0.1)))
    assert len(grant_all(limiter)) == 10
    assert limiter.statistics().gpu_micro_units_free == 0


def test_a_share_goes_to_the_fullest_device_with_room_for_it() -> None:
    limiter = a_limiter(4, GIB, None, None, None)
    assert give(limiter, "a", share(0.7)).gpu_ids == ("0",)
    assert give(limiter, "b", share(0.4)).gpu_ids == ("1",)
    assert give(limiter, "c", share(0.3)).gpu_ids == ("0",)
    assert give(limiter, "d", share(0.3)).gpu_ids == ("1",)
    assert give(limiter, "e", gpus()).gpu_ids == ("2",)


# --------------------------------------------------------------------- lending


def test_lent_cpus_serve_others_while_memory_and_devices_stay() -> None:
    limiter = a_limiter(1, GIB, None)
    parent = give(limiter, "parent", Demand(1000, GIB, GpuDemand()))
    assert limiter.lend_cpus(parent) == 1000
    child = give(limiter, "child", cpus(1))
    statistics = limiter.statistics()
    assert statistics.memory_bytes_free == 0
    assert statistics.busy_devices == ("0",)
    limiter.request_cpus("parent", parent, owner="run")
    assert limiter.grant() is None
    limiter.release(child)
    assert limiter.grant() == ("parent", parent)
    assert not parent.lent
    assert limiter.statistics().cpu_millis_free == 0
    limiter.validate()


def test_cpus_are_lent_once_and_taken_back_once() -> None:
    limiter = a_limiter(1)
    lease = give(limiter, "a", cpus(1))
    with pytest.raises(RuntimeError, match="was not called"):
        limiter.request_cpus("back", lease, owner="run")
    limiter.lend_cpus(lease)
    with pytest.raises(RuntimeError, match="lent them already"):
        limiter.lend_cpus(lease)
    limiter.request_cpus("back", lease, owner="run")
    with pytest.raises(RuntimeError, match="'back' waits for them"):
        limiter.request_cpus("again", lease, owner="run")
    limiter.validate()


def test_a_released_lease_neither_lends_nor_takes_back() -> None:
    limiter = a_limiter(1)
    lease = give(limiter, "a", cpus(1))
    limiter.release(lease)
    with pytest.raises(RuntimeError, match="lend its CPUs: it was released"):
        limiter.lend_cpus(lease)
    with pytest.raises(RuntimeError, match="take CPUs back: it was released"):
        limiter.request_cpus("back", lease, owner="run")
    with pytest.raises(RuntimeError, match="be above the request 'child': it was released"):
        ask(limiter, "child", cpus(1), under=lease)


def test_releasing_a_lease_that_waits_for_its_cpus_withdraws_that_wish() -> None:
    limiter = a_limiter(1)
    parent = give(limiter, "parent", cpus(1))
    limiter.lend_cpus(parent)
    child = give(limiter, "child", cpus(1))
    limiter.request_cpus("back", parent, owner="run")
    limiter.release(parent)
    assert limiter.waiting() == []
    limiter.release(child)
    assert limiter.grant() is None
    assert limiter.statistics().cpu_millis_free == 1000


def test_a_withdrawn_wish_for_cpus_can_be_made_again() -> None:
    limiter = a_limiter(1)
    lease = give(limiter, "a", cpus(1))
    limiter.lend_cpus(lease)
    limiter.request_cpus("back", lease, owner="run")
    assert limiter.withdraw("back")
    limiter.request_cpus("back", lease, owner="run")
    assert limiter.grant() == ("back", lease)


def test_nests_thirty_two_deep_end_on_one_cpu() -> None:
    limiter = a_limiter(1)
    leases: list[Lease] = []
    for depth in range(32):
        ask(limiter, depth, cpus(1), under=leases[-1] if leases else None)
        leases.append(grant_all(limiter)[depth])
        limiter.lend_cpus(leases[-1])
    for depth in reversed(range(32)):
        limiter.request_cpus(depth, leases[depth], owner="run")
        assert limiter.grant() == (depth, leases[depth])
        limiter.release(leases[depth])
        limiter.validate()
    assert limiter.statistics().leases == 0


# -------------------------------------------------------------------- resizing


def test_shrinking_below_what_is_held_grants_nothing_until_enough_is_released() -> None:
    limiter = a_limiter(4)
    leases = [give(limiter, n, cpus(1)) for n in range(4)]
    limiter.resize(cpu_millis=2000)
    ask(limiter, "next", cpus(1))
    assert limiter.statistics().cpu_millis_free == -2000
    for lease in leases[:2]:
        limiter.release(lease)
        assert limiter.grant() is None
    limiter.release(leases[2])
    assert list(grant_all(limiter)) == ["next"]


def test_growing_lets_what_waits_go() -> None:
    limiter = a_limiter(1, GIB)
    give(limiter, "holder", Demand(1000, GIB))
    ask(limiter, "next", Demand(1000, GIB))
    assert limiter.grant() is None
    limiter.resize(cpu_millis=2000, memory_bytes=2 * GIB)
    assert list(grant_all(limiter)) == ["next"]
    assert limiter.capacity == Capacity(2000, 2 * GIB)


def test_what_waits_is_clamped_to_a_machine_that_shrank_and_runs_alone() -> None:
    limiter = a_limiter(4, 4 * GIB)
    holder = give(limiter, "holder", cpus(1))
    ask(limiter, "large", cpus(4))
    limiter.resize(cpu_millis=2000)
    assert limiter.grant() is None
    limiter.release(holder)
    lease = grant_all(limiter)["large"]
    assert (lease.cpu_millis, lease.memory_bytes) == (2000, 4 * GIB)


def test_a_machine_that_shrank_no_longer_takes_requests_above_it() -> None:
    limiter = a_limiter(4)
    limiter.release(give(limiter, "a", cpus(4)))
    limiter.resize(cpu_millis=2000)
    with pytest.raises(ValueError, match="4 CPUs asked for, but there are 2 CPUs"):
        ask(limiter, "b", cpus(4))


def test_cpus_are_taken_back_from_a_machine_that_shrank() -> None:
    limiter = a_limiter(4)
    lease = give(limiter, "a", cpus(4))
    limiter.lend_cpus(lease)
    limiter.resize(cpu_millis=1000, memory_bytes=0)
    limiter.request_cpus("back", lease, owner="run")
    assert limiter.grant() == ("back", lease)
    assert lease.cpu_millis == 1000
    limiter.validate()


def test_a_holder_of_too_much_memory_can_still_take_its_cpus_back() -> None:
    limiter = a_limiter(1, 2 * GIB)
    lease = give(limiter, "a", Demand(1000, 2 * GIB))
    limiter.lend_cpus(lease)
    limiter.resize(memory_bytes=GIB)
    limiter.request_cpus("back", lease, owner="run")
    assert limiter.grant() == ("back", lease)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="Cannot resize to -1"):
        a_limiter(1).resize(cpu_millis=-1)


# -------------------------------------------------------- refusing and clamping


@pytest.mark.parametrize(
    "demand, sentence",
    [
        (cpus(4), None),
        (cpus(5), "5 CPUs asked for, but there are 4 CPUs."),
        (Demand(0, 9 * GIB), "9 GiB of memory asked for, but there are 8 GiB."),
        (gpus(2, "T4"), None),
        (share(0.5), None),
        (
            gpus(4),
            "4 GPUs asked for, but of 3 only 3 will do (0: T4; 1: T4; 2: A100).",
        ),
        (
            gpus(1, "H100"),
            "1 GPU of type 'H100' asked for, but of 3 only 0 will do (0: T4; 1: T4; 2: A100).",
        ),
    ],
)
def test_a_demand_above_the_machine_is_refused_in_a_sentence(
    demand: Demand, sentence: str | None
) -> None:
    assert a_limiter(4, 8 * GIB, "T4", "T4", "A100").refusal(demand) == sentence


def test_gpus_are_refused_where_there_are_none_or_too_small_ones() -> None:
    assert a_limiter(1).refusal(share(0.5)) == "0.5 of a GPU asked for, but there are no GPUs."
    small = Limiter(Capacity(1000, 0, (Device("0", None, 16 * GIB),)))
    assert small.refusal(Demand(gpu=GpuDemand(memory_bytes=40 * GIB))) == (
        "1 GPU with 40 GiB asked for, but of 1 only 0 will do (0: any type, 16 GiB)."
    )


def test_clamping_takes_the_whole_machine_and_leaves_gpus_alone() -> None:
    limiter = a_limiter(4, 8 * GIB)
    everything = Demand(4000, 8 * GIB)
    assert limiter.clamped(cpus(4)) == cpus(4)
    assert limiter.clamped(cpus(5)) == everything
    assert limiter.clamped(Demand(0, 9 * GIB)) == everything
    assert limiter.clamped(Demand(5000, 0, GpuDemand(9))) == Demand(4000, 8 * GIB, GpuDemand(9))


def test_a_clamped_demand_runs_alone() -> None:
    limiter = a_limiter(4)
    lease = give(limiter, "all", limiter.clamped(cpus(100)))
    ask(limiter, "small", cpus(0.1))
    ask(limiter, "tiny", Demand(0, 1))
    assert limiter.grant() is None
    limiter.release(lease)
    assert list(grant_all(limiter)) == ["small", "tiny"]


# ------------------------------------------------------------------- explaining


def test_a_waiting_request_is_explained_by_what_is_short_and_who_holds_it() -> None:
    limiter = a_limiter(4, 8 * GIB, "T4")
    for ticket in "abcd":
        give(limiter, ticket, cpus(1))
    give(limiter, "trainer", Demand(0, 7 * GIB, GpuDemand()))
    ask(limiter, "first", cpus(4))
    ask(limiter, "second", Demand(0, 2 * GIB, GpuDemand()))
    assert limiter.explain("first") == (
        "'first' waits for 4 CPUs "
        "(0 CPUs free of 4 CPUs, held by 'a', 'b', 'c' and 1 more). 0 requests are before it."
    )
    assert limiter.explain("second") == (
        "'second' waits for 2 GiB of memory (1 GiB free of 8 GiB, held by 'trainer') and 1 GPU "
        "(0 of 1 devices that will do wholly free, held by 'trainer'). 1 request is before it."
    )


def test_a_closed_line_is_explained_to_who_closed_it_and_who_waits_behind() -> None:
    limiter = a_limiter(2, max_overtakes=1)
    give(limiter, "holder", cpus(1))
    ask(limiter, "large", cpus(2))
    overtaker = give(limiter, "overtaker", cpus(1))
    limiter.release(overtaker)
    ask(limiter, "small", cpus(1))
    assert limiter.grant() is None
    ask(limiter, "elsewhere", Demand(0, GIB))
    assert limiter.explain("large").endswith(
        "What it wants is kept for it from those behind it, "
        "because it has been overtaken as often as is allowed (1)."
    )
    assert limiter.explain("small") == (
        "'small' waits for its turn: what it asks for is free. 1 request is before it. "
        "'large' goes first, because it has been overtaken as often as is allowed (1) "
        "and both want the same."
    )
    assert "goes first" not in limiter.explain("elsewhere")


def test_who_waits_for_devices_that_are_kept_is_told_for_whom() -> None:
    limiter = a_limiter(2, GIB, "T4", "A100", max_overtakes=0)
    give(limiter, "holder", gpus(2))
    ask(limiter, "first", gpus(1, "A100"))
    ask(limiter, "second", gpus(1))
    ask(limiter, "third", gpus(1, "T4"))
    assert "'first' goes first" in limiter.explain("second")
    assert "'first' goes first" not in limiter.explain("third")


def test_a_line_shut_because_of_nests_is_explained() -> None:
    limiter = a_limiter(2, max_overtakes=0)
    parent = give(limiter, "parent", cpus(1))
    ask(limiter, "large", cpus(2))
    ask(limiter, "child", cpus(1), under=parent)
    limiter.release(grant_all(limiter)["child"])
    ask(limiter, "elsewhere", Demand(0, GIB))
    assert limiter.grant() is None
    why = "because it has been held up by nested requests more often than is allowed."
    assert limiter.explain("large").endswith(
        f"It is next: nothing behind it starts outside nests, {why}"
    )
    assert limiter.explain("elsewhere").endswith(f"'large' goes first, {why}")


def test_a_holder_is_explained_by_what_it_holds() -> None:
    limiter = a_limiter(2, GIB, "T4")
    lease = give(limiter, "a", Demand(2000, GIB, GpuDemand()))
    assert limiter.explain("a") == "'a' holds 2 CPUs, 1 GiB, GPUs 0."
    limiter.lend_cpus(lease)
    assert limiter.explain("a").startswith("'a' holds 2 CPUs (lent while it waits)")
    limiter.request_cpus("a", lease, owner="run")
    assert limiter.explain("a").startswith("'a' waits for its turn")


def test_an_unknown_ticket_cannot_be_explained() -> None:
    with pytest.raises(LookupError, match="No request 'x' waits or holds"):
        a_limiter(1).explain("x")


def test_statistics_count_what_is_free_held_and_waiting() -> None:
    limiter = a_limiter(4, 8 * GIB, "T4", "T4")
    give(limiter, "a", Demand(1000, GIB, GpuDemand()))
    give(limiter, "b", share(0.25))
    ask(limiter, "c", cpus(4))
    found = limiter.statistics()
    assert (found.cpu_millis_total, found.cpu_millis_held, found.cpu_millis_free) == (
        4000,
        1000,
        3000,
    )
    assert (found.memory_bytes_held, found.memory_bytes_free) == (GIB, 7 * GIB)
    assert (found.gpu_micro_units_held, found.gpu_micro_units_free) == (1_250_000, 750_000)
    assert found.busy_devices == ("0", "1")
    assert (found.leases, found.waiting, found.granted_total) == (2, 1, 2)


# ---------------------------------------------------------------------- demands


def test_requirements_become_demands() -> None:
    assert demand_of(None) == Demand()
    assert demand_of(None, default_cpu_millis=1000) == cpus(1)
    assert demand_of(ResourceRequirements(memory="1Gi"), default_cpu_millis=1000) == Demand(
        1000, GIB
    )
    assert demand_of(ResourceRequirements(cpu=0), default_cpu_millis=1000) == Demand()
    asked = ResourceRequirements(cpu="500m", gpu={"gpu_type": "T4", "count": 2, "memory": "1Gi"})
    assert demand_of(asked) == Demand(500, 0, GpuDemand(2, 0, "T4", GIB))
    assert demand_of(ResourceRequirements(gpu=0.5)) == share(0.5)


# ------------------------------------------------------------------- lost devices


def test_a_lost_device_is_handed_out_no_more_and_its_holder_keeps_it() -> None:
    limiter = a_limiter(4, GIB, "T4", "T4")
    lease = give(limiter, "holder", gpus())
    assert limiter.lose(lease.gpu_ids) == ("0",)
    assert limiter.lose(lease.gpu_ids) == ()
    limiter.validate()
    assert [device.id for device in limiter.capacity.devices] == ["1"]
    assert limiter.statistics().gpu_micro_units_total == 1_000_000
    limiter.release(lease)
    limiter.validate()
    assert give(limiter, "next", gpus()).gpu_ids == ("1",)
    ask(limiter, "late", gpus())
    assert limiter.grant() is None


def test_requests_that_a_loss_makes_hopeless_are_named_with_the_reason() -> None:
    limiter = a_limiter(4, GIB, "A100", "T4")
    held = give(limiter, "holder", gpus(2))
    for ticket, demand in {"two": gpus(2), "one": gpus(), "large": gpus(1, "A100")}.items():
        ask(limiter, ticket, demand)
    assert limiter.hopeless() == {}
    limiter.lose(["0"])
    assert limiter.hopeless() == {
        "two": "2 GPUs asked for, but of 2 only 1 will do (0: A100 (lost); 1: T4).",
        "large": "1 GPU of type 'A100' asked for, but of 2 only 0 will do (0: A100 (lost); 1: T4).",
    }
    for hopeless in limiter.hopeless():
        limiter.withdraw(hopeless)
    limiter.release(held)
    assert grant_all(limiter)["one"].gpu_ids == ("1",)


def test_devices_that_were_looked_for_late_are_given_once() -> None:
    limiter = a_limiter(4)
    give(limiter, "before", cpus(1))
    limiter.provide((Device("GPU-a", "T4"),))
    assert give(limiter, "after", gpus()).gpu_ids == ("GPU-a",)
    with pytest.raises(RuntimeError, match="given once"):
        limiter.provide(())
    with pytest.raises(ValueError, match="share an id"):
        a_limiter(4).provide((Device("0"), Device("0")))


def test_many_small_shares_fill_two_devices_and_never_span_them() -> None:
    limiter = a_limiter(4, GIB, "T4", "T4")
    for ticket in range(10):
        ask(limiter, ticket, share(0.3))
    held: dict[Hashable, Lease] = {}
    ended: list[Hashable] = []
    while len(ended) < 10:
        held |= grant_all(limiter)
        assert len(held) == min(6, 10 - len(ended))
        assert all(len(lease.gpus) == 1 for lease in held.values())
        first = next(iter(held))
        limiter.release(held.pop(first))
        ended.append(first)
    assert ended == list(range(10))
