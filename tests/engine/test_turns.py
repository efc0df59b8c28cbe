"""Owners take turns, nobody starves, and nests finish what they started."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from asyncflow.engine.limiter import Capacity, Demand, Device, GpuDemand, Lease, Limiter

ONE = Demand(1000)
HALF = Demand(500)


def a_limiter(cpus: int = 1, *, devices: int = 0, max_overtakes: int = 64) -> Limiter:
    gpus = tuple(Device(str(index)) for index in range(devices))
    return Limiter(Capacity(1000 * cpus, 1000, gpus), max_overtakes=max_overtakes)


def drain(limiter: Limiter, count: int | None = None) -> list[Hashable]:
    """Grant and release one request after the other; return the order."""
    order: list[Hashable] = []
    while count is None or len(order) < count:
        granted = limiter.grant()
        if granted is None:
            break
        order.append(granted[0])
        limiter.release(granted[1])
    return order


def ask_all(limiter: Limiter, owner: str, count: int, demand: Demand = ONE) -> None:
    for number in range(count):
        limiter.request((owner, number), demand, owner=owner)


def owners_of(order: Iterable[Hashable]) -> str:
    return "".join(ticket[0] for ticket in order if isinstance(ticket, tuple))


# -------------------------------------------------------------------- fairness


def test_a_lone_owner_is_served_in_order_of_arrival() -> None:
    limiter = a_limiter()
    for number in range(100):
        limiter.request(number, (ONE, HALF)[number % 3 == 0], owner="run")
    assert limiter.waiting() == list(range(100))
    assert drain(limiter) == list(range(100))


def test_one_who_comes_later_is_served_in_turn_with_ten_thousand_that_wait() -> None:
    limiter = a_limiter()
    ask_all(limiter, "a", 10_000)
    drain(limiter, 5)
    ask_all(limiter, "b", 100)
    assert owners_of(drain(limiter, 200)) in ("ab" * 100, "ba" * 100)
    assert owners_of(drain(limiter, 50)) == "a" * 50


def test_many_owners_take_turns_one_by_one() -> None:
    limiter = a_limiter()
    for owner in "abcdef":
        ask_all(limiter, owner, 50)
    assert owners_of(drain(limiter)) == "abcdef" * 50


def test_one_who_asks_for_one_at_a_time_does_not_shut_out_those_who_wait() -> None:
    limiter = a_limiter()
    ask_all(limiter, "a", 100)
    served = ""
    for number in range(50):
        limiter.request(("b", number), ONE, owner="b")
        served += owners_of(drain(limiter, 1))
    assert abs(served.count("a") - served.count("b")) <= 2


def test_one_who_was_served_for_long_does_not_wait_for_that() -> None:
    limiter = a_limiter()
    ask_all(limiter, "a", 1000)
    drain(limiter)
    ask_all(limiter, "b", 10)
    limiter.request(("a", 0), ONE, owner="a")
    assert owners_of(drain(limiter)).index("a") <= 2


def test_withdrawn_requests_do_not_count_against_their_owner() -> None:
    limiter = a_limiter()
    ask_all(limiter, "a", 1000)
    limiter.withdraw_owner("a")
    ask_all(limiter, "b", 10)
    limiter.request(("a", 0), ONE, owner="a")
    assert owners_of(drain(limiter)).index("a") <= 1


def test_requests_that_cannot_run_now_do_not_shut_out_a_newcomer() -> None:
    limiter = a_limiter(devices=1)
    gpu = Demand(gpu=GpuDemand())
    limiter.request("holder", gpu, owner="a")
    granted = limiter.grant()
    assert granted is not None
    ask_all(limiter, "a", 1000, gpu)
    limiter.request("small", ONE, owner="a")
    assert drain(limiter) == ["small"]
    limiter.request("newcomer", gpu, owner="b")
    limiter.release(granted[1])
    assert "newcomer" in drain(limiter, 2)


def test_owners_that_are_gone_are_forgotten() -> None:
    limiter = a_limiter()
    for run in range(2000):
        limiter.request(("ticket", run), ONE, owner=run)
        limiter.request(("more", run), ONE, owner=run)
        drain(limiter)
    assert len(limiter._line._owners) < 200


# ------------------------------------------------------------------ starvation


@pytest.mark.parametrize("bound", [0, 1, 64])
def test_a_large_request_is_granted_after_so_many_overtakes(bound: int) -> None:
    limiter = a_limiter(4, max_overtakes=bound)
    running: deque[Lease] = deque()
    order: list[Hashable] = []

    def grant() -> None:
        while (granted := limiter.grant()) is not None:
            order.append(granted[0])
            running.append(granted[1])
            limiter.validate()

    ask_all(limiter, "small", 4)
    grant()
    limiter.request("large", Demand(4000, 1000), owner="large")
    for number in range(4, 200):
        limiter.request(("small", number), ONE, owner="small")
        limiter.release(running.popleft())
        grant()
        if "large" in order:
            break
    assert order.index("large") - 4 == bound


@pytest.mark.parametrize("nested", [0, 10])
def test_the_next_of_a_queue_inherits_only_the_overtakes_it_suffered(nested: int) -> None:
    limiter = a_limiter(2, max_overtakes=2)
    limiter.request("holder", ONE, owner="run")
    holder = limiter.grant()
    assert holder is not None
    limiter.request("large 1", Demand(2000), owner="run")
    for number in range(nested):
        limiter.request(number, ONE, owner="run", under=holder[1])
    assert drain(limiter) == list(range(nested))
    limiter.request("small 1", ONE, owner="run")
    assert drain(limiter) == ["small 1"]
    limiter.request("large 2", Demand(2000), owner="run")
    limiter.request("small 2", ONE, owner="run")
    assert drain(limiter) == ["small 2"]
    limiter.withdraw("large 1")
    limiter.request("small 3", ONE, owner="run")
    assert drain(limiter) == ["small 3"]
    limiter.request("small 4", ONE, owner="run")
    assert drain(limiter) == []
    limiter.release(holder[1])
    assert drain(limiter) == ["large 2", "small 4"]


# ----------------------------------------------------------------------- nests


def test_what_was_started_ends_before_more_is_started() -> None:
    limiter = a_limiter()
    for number in range(100):
        limiter.request(("parent", number), ONE, owner="run")
    granted = limiter.grant()
    assert granted is not None
    limiter.lend_cpus(granted[1])
    for number in range(10):
        limiter.request(("child", number), ONE, owner="run", under=granted[1])
    assert drain(limiter, 11) == [*(("child", n) for n in range(10)), ("parent", 1)]


def test_a_nest_takes_turns_with_other_owners() -> None:
    limiter = a_limiter()
    ask_all(limiter, "a", 20)
    granted = limiter.grant()
    assert granted is not None
    ask_all(limiter, "b", 10)
    limiter.lend_cpus(granted[1])
    for number in range(10):
        limiter.request(("c", number), ONE, owner="a", under=granted[1])
    assert owners_of(drain(limiter, 20)) in ("bc" * 10, "cb" * 10)
    limiter.validate()


def test_a_nest_passes_a_closed_line_because_the_line_may_wait_for_its_parent() -> None:
    limiter = a_limiter(max_overtakes=0)
    limiter.request("parent", Demand(1000, 600), owner="run")
    granted = limiter.grant()
    assert granted is not None
    parent = granted[1]
    limiter.lend_cpus(parent)
    limiter.request("large", Demand(1000, 1000), owner="run")
    limiter.request("small", ONE, owner="run")
    assert limiter.grant() is None
    limiter.request("child", ONE, owner="run", under=parent)
    assert drain(limiter) == ["child"]
    limiter.request_cpus("parent again", parent, owner="run")
    assert limiter.grant() == ("parent again", parent)
    limiter.release(parent)
    assert drain(limiter) == ["large", "small"]


def test_cpus_are_taken_back_before_anything_else() -> None:
    limiter = a_limiter()
    limiter.request("parent", ONE, owner="run")
    granted = limiter.grant()
    assert granted is not None
    limiter.lend_cpus(granted[1])
    ask_all(limiter, "a", 10)
    limiter.request("child", ONE, owner="run", under=granted[1])
    limiter.request_cpus("back", granted[1], owner="run")
    assert limiter.waiting()[0] == "back"
    assert limiter.grant() == ("back", granted[1])


def test_an_endless_nest_does_not_keep_a_holder_from_its_cpus() -> None:
    limiter = a_limiter(2, max_overtakes=3)
    limiter.request("parent", Demand(2000), owner="run")
    granted = limiter.grant()
    assert granted is not None
    parent = granted[1]
    limiter.lend_cpus(parent)
    limiter.request("long", ONE, owner="run", under=parent)
    long = limiter.grant()
    assert long is not None
    limiter.request_cpus("back", parent, owner="run")
    for number in range(10):
        limiter.request(number, ONE, owner="run", under=parent)
    assert drain(limiter) == [0, 1, 2]
    limiter.release(long[1])
    assert limiter.grant() == ("back", parent)


# ------------------------------------------------------------------------ cost


class CountedDemands(Limiter):
    """Counts how many demands are tried, which is what granting costs."""

    tried = 0

    def _fit(self, wanted: Demand) -> tuple[tuple[int, int], ...] | None:
        self.tried += 1
        return super()._fit(wanted)


def test_one_hundred_thousand_waiting_requests_of_one_demand_are_tried_one_by_one() -> None:
    limiter = CountedDemands(Capacity(1000, 0))
    ask_all(limiter, "a", 100_000)
    assert len(drain(limiter)) == 100_000
    assert limiter.tried == 100_000


def test_nothing_is_tried_again_until_something_changed() -> None:
    limiter = CountedDemands(Capacity(1000, 0))
    ask_all(limiter, "a", 2)
    assert limiter.grant() is not None
    assert limiter.grant() is None
    tried = limiter.tried
    limiter.request(("a", 2), ONE, owner="a")
    assert limiter.grant() is None
    assert limiter.tried == tried


def test_two_thousand_distinct_demands_are_granted_in_order() -> None:
    limiter = CountedDemands(Capacity(10_000, 0))
    for number in range(2000):
        limiter.request(number, Demand(number + 1), owner="run")
    assert drain(limiter) == list(range(2000))
    assert limiter.tried == 2000


# ------------------------------------------------------------- against a model


DEMANDS = [
    Demand(),
    HALF,
    ONE,
    Demand(4000, 1000),
    Demand(0, 400),
    Demand(1000, 700),
    Demand(500, 0, GpuDemand()),
    Demand(gpu=GpuDemand(2)),
    Demand(gpu=GpuDemand(0, 300_000)),
    Demand(1000, 0, GpuDemand(1, 0, "A100")),
]
BOUND = 3


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, the account adds up and no request is overtaken too often.

    The model counts overtakes by brute force: each grant from outside a nest overtakes every
    request that stands before it in the order of turns.
    """

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        devices = (Device("0", "T4"), Device("1", "A100"), Device("2", None))
        self.limiter = Limiter(Capacity(4000, 1000, devices), max_overtakes=BOUND)
        self.tickets = 0
        self.nested: set[Hashable] = set()
        self.retaking: dict[Hashable, Lease] = {}
        self.overtaken: dict[Hashable, int] = {}

    def new_ticket(self) -> int:
        self.tickets += 1
        self.overtaken[self.tickets] = 0
        return self.tickets

    @rule(demand=st.sampled_from(DEMANDS), owner=st.sampled_from("abc"))
    def request(self, demand: Demand, owner: str) -> None:
        fitting = self.limiter.clamped(demand)
        self.limiter.request(self.new_ticket(), fitting, owner=owner)

    @rule(demand=st.sampled_from(DEMANDS), parent=leases)
    def request_in_a_nest(self, demand: Demand, parent: Lease) -> None:
        if not parent.released:
            ticket = self.new_ticket()
            self.nested.add(ticket)
            fitting = self.limiter.clamped(demand)
            self.limiter.request(ticket, fitting, owner=parent.owner, under=parent)

    @rule(target=leases)
    def grant(self) -> object:
        before = self.limiter.waiting()
        granted = self.limiter.grant()
        if granted is None:
            return Lease("nothing", "nobody", 0, 0, released=True)
        ticket, lease = granted
        for passed in before[: before.index(ticket)]:
            if ticket not in self.nested or passed in self.retaking:
                self.overtaken[passed] += 1
                assert self.overtaken[passed] <= BOUND
        assert self.retaking.pop(ticket, lease) is lease
        assert not lease.lent
        return lease

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        if not lease.released:
            self.limiter.release(lease)
            self.retaking = {t: x for t, x in self.retaking.items() if x is not lease}

    @rule(lease=leases)
    def lend(self, lease: Lease) -> None:
        if not (lease.released or lease.lent):
            assert self.limiter.lend_cpus(lease) == lease.cpu_millis

    @rule(lease=leases)
    def take_back(self, lease: Lease) -> None:
        if lease.lent and not lease.released and lease not in self.retaking.values():
            ticket = self.new_ticket()
            self.nested.add(ticket)
            self.retaking[ticket] = lease
            self.limiter.request_cpus(ticket, lease, owner=lease.owner)

    @rule(choice=st.integers(0, 100))
    def withdraw(self, choice: int) -> None:
        waiting = self.limiter.waiting()
        if waiting:
            ticket = waiting[choice % len(waiting)]
            assert self.limiter.withdraw(ticket)
            self.retaking.pop(ticket, None)

    @rule(owner=st.sampled_from("abc"))
    def withdraw_owner(self, owner: str) -> None:
        for ticket in self.limiter.withdraw_owner(owner):
            self.retaking.pop(ticket, None)

    @rule(cpu_millis=st.sampled_from([0, 1000, 4000, 6000]), memory=st.sampled_from([0, 500, 1000]))
    def resize(self, cpu_millis: int, memory: int) -> None:
        self.limiter.resize(cpu_millis=cpu_millis, memory_bytes=memory)

    @invariant()
    def the_account_adds_up(self) -> None:
        self.limiter.validate()

    @invariant()
    def every_waiting_request_can_be_explained(self) -> None:
        for ticket in self.limiter.waiting():
            assert repr(ticket) in self.limiter.explain(ticket)

    def teardown(self) -> None:
        """With everything released nothing may be stuck: all that waits is granted."""
        for lease in list(self.limiter._leases):
            self.release(lease)
        while (granted := self.limiter.grant()) is not None:
            self.limiter.release(granted[1])
        assert self.limiter.waiting() == []


AnyHistory.TestCase.settings = settings(stateful_step_count=60)
test_any_history = AnyHistory.TestCase
