"""Owners take turns, nobody starves, and nests finish what they started."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from asyncflow.engine.limiter import Capacity, Demand, Device, GpuDemand, Lease, Limiter
from asyncflow.engine.sharing import Fit, own_share

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


def gpus(count: int, gpu_type: str | None = None) -> Demand:
    return Demand(gpu=GpuDemand(count, 0, gpu_type))


def share(of_one: float) -> Demand:
    return Demand(gpu=GpuDemand(0, int(of_one * 1_000_000)))


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
    assert "newcomer" in drain(limiter, 3)


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
        limiter.request(number, Demand(0, 1), owner="run", under=holder[1])
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


def test_new_owners_that_keep_coming_do_not_keep_others_waiting() -> None:
    limiter = a_limiter()
    ask_all(limiter, "a", 10)
    order: list[Hashable] = []
    for number in range(100):
        for newcomer in ((number, 0), (number, 1)):
            limiter.request(newcomer, ONE, owner=newcomer)
        order += drain(limiter, 2)
    assert ("a", 9) in order


def step_that_grants_large(
    limiter: Limiter, streams: dict[str, Demand], nests: dict[str, list[Demand]]
) -> int | None:
    """Return the step in which "large", asked for by "a" in step 2, is granted.

    With each step each owner asks once more. What is granted lasts two steps, so two always
    overlap; the work of an owner in `nests` makes these nested requests.
    """
    running: deque[tuple[int, Lease]] = deque()
    for step in range(300):
        while running and running[0][0] <= step:
            limiter.release(running.popleft()[1])
        for owner, demand in streams.items():
            limiter.request((owner, step), demand, owner=owner)
        if step == 2:
            limiter.request("large", gpus(2), owner="a")
        while (granted := limiter.grant()) is not None:
            ticket, lease = granted
            if ticket == "large":
                return step
            running.append((step + 2, lease))
            assert isinstance(ticket, tuple)
            owner = ticket[0]
            for number, demand in enumerate(nests.get(owner, [])):
                limiter.request(("nest", *ticket, number), demand, owner=owner, under=lease)
        limiter.validate()
    return None


@pytest.mark.parametrize(
    "streams, nests",
    [
        pytest.param({"b": gpus(1)}, {}, id="at its expense"),
        pytest.param({"b": HALF}, {"b": [gpus(1)]}, id="harmless but for its nests"),
        pytest.param(
            {"a": HALF, "b": gpus(1)}, {"a": [Demand(0, 1)] * 3}, id="moved ahead by harmless nests"
        ),
    ],
)
def test_no_endless_stream_starves_a_request(
    streams: dict[str, Demand], nests: dict[str, list[Demand]]
) -> None:
    limiter = a_limiter(4, devices=2, max_overtakes=3)
    step = step_that_grants_large(limiter, streams, nests)
    assert step is not None
    assert 2 < step < 20


# ------------------------------------------------- what is at another's expense


ANY_GPU, A100, T4 = gpus(1), gpus(1, "A100"), gpus(1, "T4")


@pytest.mark.parametrize(
    "held, waiting, asked, passes",
    [
        pytest.param(ONE, Demand(4000), Demand(0, 400), True, id="nothing in common"),
        pytest.param(ONE, Demand(4000), Demand(), True, id="nothing at all"),
        pytest.param(ONE, Demand(4000), HALF, False, id="what is short already"),
        pytest.param(Demand(0, 1), Demand(1000, 1000), Demand(3000), True, id="just enough left"),
        pytest.param(Demand(0, 1), Demand(1000, 1000), Demand(3001), False, id="too little left"),
        pytest.param(Demand(0, 1), Demand(1000, 1000), Demand(0, 1), False, id="too little memory"),
        pytest.param(A100, A100, Demand(4000, 1000), True, id="CPUs beside a GPU"),
        pytest.param(A100, A100, T4, True, id="a device that would not do"),
        pytest.param(A100, A100, ANY_GPU, True, id="gets a device that would not do"),
        pytest.param(T4, gpus(3), A100, False, id="a device that would do for both"),
        pytest.param(ONE, Demand(4000, 0, T4.gpu), share(0.5), True, id="another device is left"),
        pytest.param(ONE, Demand(4000, 0, gpus(2, "T4").gpu), share(0.5), False, id="half of one"),
        pytest.param(ONE, Demand(4000, 0, share(0.5).gpu), gpus(2), True, id="a share is left"),
        pytest.param(ONE, Demand(4000, 0, share(0.5).gpu), gpus(3), False, id="no share is left"),
    ],
)
def test_only_what_leaves_a_request_too_little_is_kept_from_passing_it(
    held: Demand, waiting: Demand, asked: Demand, passes: bool
) -> None:
    devices = (Device("0", "T4"), Device("1", "T4"), Device("2", "A100"))
    limiter = Limiter(Capacity(4000, 1000, devices), max_overtakes=0)
    limiter.request("holder", held, owner="run")
    assert limiter.grant() is not None
    limiter.request("waiting", waiting, owner="run")
    limiter.request("asked", asked, owner="run")
    granted = limiter.grant()
    assert (granted is not None) == passes
    assert limiter.waiting() == ["waiting", "asked"][: 2 - passes]
    limiter.validate()


def test_any_number_of_harmless_requests_pass_one_that_waits_for_long() -> None:
    limiter = a_limiter(4, devices=1, max_overtakes=3)
    limiter.request("training", gpus(1), owner="run")
    training = limiter.grant()
    assert training is not None
    limiter.request("next", Demand(1000, 0, GpuDemand()), owner="run")
    ask_all(limiter, "cpu only", 1000)
    assert len(drain(limiter)) == 1000
    limiter.release(training[1])
    assert limiter.grant() is not None


def test_only_what_a_closed_request_wants_is_kept_while_the_rest_is_used() -> None:
    limiter = a_limiter(4, devices=1, max_overtakes=1)
    limiter.request("training", gpus(1), owner="run")
    assert limiter.grant() is not None
    limiter.request("next", Demand(1000, 0, GpuDemand()), owner="run")
    ask_all(limiter, "whole machine", 1, Demand(4000))
    assert drain(limiter) == [("whole machine", 0)]
    ask_all(limiter, "cpu only", 100)
    granted = [limiter.grant() for _ in range(4)]
    assert [grant is not None for grant in granted] == [True, True, True, False]


def test_what_several_closed_requests_want_is_kept_for_each_of_them() -> None:
    limiter = a_limiter(4, devices=2, max_overtakes=0)
    limiter.request("training", gpus(2), owner="run")
    assert limiter.grant() is not None
    for number, demand in enumerate([Demand(1000, 600), Demand(2000, 0), Demand(0, 700)]):
        limiter.request(number, demand._replace(gpu=GpuDemand()), owner="run")
    for number, (demand, passes) in enumerate(
        [(Demand(2001), False), (Demand(0, 301), False), (Demand(2000, 300), True)]
    ):
        limiter.request(("asked", number), demand, owner="run")
        assert (limiter.grant() is not None) == passes
        limiter.withdraw(("asked", number))


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


def test_a_line_that_nests_have_shut_opens_with_the_one_who_shut_it_gone() -> None:
    limiter = a_limiter(2, max_overtakes=0)
    limiter.request("parent", ONE, owner="run")
    parent = limiter.grant()
    assert parent is not None
    ask_all(limiter, "large", 2, Demand(2000))
    limiter.request("child", ONE, owner="run", under=parent[1])
    assert drain(limiter) == ["child"]
    limiter.request("memory only", Demand(0, 1), owner="run")
    assert drain(limiter) == []
    limiter.withdraw(("large", 0))
    assert drain(limiter) == ["memory only"]


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

    def _fit(self, wanted: Demand, under: Lease | None = None) -> Fit | None:
        self.tried += 1
        return super()._fit(wanted, under)


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
DEVICE_TYPES = ("T4", "A100", None)
BOUND = 3


def from_the_pool(lease: Lease) -> Lease:
    """What a lease has taken from the pool, as a lease: the rest is at nobody's expense."""
    own = own_share(lease)
    return Lease(lease.ticket, "", lease.cpu_millis, own.memory_bytes, tuple(own.gpus.items()))


def leaves_too_little(free: Capacity, left: list[int], taken: Lease, wanted: Demand) -> bool:
    """Tell by brute force whether a grant was at the expense of a waiting request.

    Parameters:
        free: CPUs and memory that are left after it.
        left: millionths that are left of each device.
        taken: what was granted; of a lease that got CPUs back, these only.
        wanted: what the waiting request wants.
    """
    if taken.cpu_millis and wanted.cpu_millis > max(0, free.cpu_millis):
        return True
    if taken.memory_bytes and wanted.memory_bytes > max(0, free.memory_bytes):
        return True
    if wanted.gpu is None:
        return False
    kind = wanted.gpu.gpu_type
    will_do = [i for i, other in enumerate(DEVICE_TYPES) if None in (kind, other) or kind == other]
    if not any(index in will_do for index, _ in taken.gpus):
        return False
    if wanted.gpu.devices:
        return sum(left[i] == 1_000_000 for i in will_do) < wanted.gpu.devices
    return all(left[i] < wanted.gpu.micro_units for i in will_do)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, the account adds up and no request is overtaken too often.

    The model counts overtakes by brute force: each grant from outside a nest overtakes every
    request that stands before it in the order of turns and is left too little by it.
    """

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        devices = tuple(Device(str(index), kind) for index, kind in enumerate(DEVICE_TYPES))
        self.limiter = Limiter(Capacity(4000, 1000, devices), max_overtakes=BOUND)
        self.tickets = 0
        self.demands: dict[Hashable, Demand] = {}
        self.nested: set[Hashable] = set()
        self.has_nests = False
        self.retaking: dict[Hashable, Lease] = {}
        self.overtaken: dict[Hashable, int] = {}

    def new_ticket(self, demand: Demand) -> int:
        self.tickets += 1
        self.overtaken[self.tickets] = 0
        self.demands[self.tickets] = demand
        return self.tickets

    def wanted(self, ticket: Hashable) -> Demand:
        if ticket in self.retaking:
            cpus = min(self.demands[ticket].cpu_millis, self.limiter.capacity.cpu_millis)
            return Demand(cpus)
        return self.limiter.clamped(self.demands[ticket])

    def is_at_expense(self, taken: Lease, of: Hashable, *, pending: int = 0) -> bool:
        """Whether what has been granted, or is pending (1), harms a waiting request."""
        found = self.limiter.statistics()
        free = Capacity(
            found.cpu_millis_free - pending * taken.cpu_millis,
            found.memory_bytes_free - pending * taken.memory_bytes,
        )
        left = [1_000_000] * len(DEVICE_TYPES)
        for lease in [*self.limiter._leases, *[taken] * pending]:
            for index, micro_units in from_the_pool(lease).gpus:
                left[index] -= micro_units
        return leaves_too_little(free, left, taken, self.wanted(of))

    def check_that_nobody_waits_without_need(self, waiting: list[Hashable]) -> None:
        """Where nothing is granted, all that fits would harm somebody who comes before it."""
        if self.has_nests:
            return  # a line that nests have shut lets nothing pass
        for place, ticket in enumerate(waiting):
            wanted = self.wanted(ticket)
            fit = self.limiter._fit(wanted)
            if fit is not None:
                taken = Lease(ticket, "", wanted.cpu_millis, wanted.memory_bytes, fit.gpus)
                before = waiting[:place]
                assert any(self.is_at_expense(taken, other, pending=1) for other in before)

    @rule(demand=st.sampled_from(DEMANDS), owner=st.sampled_from("abc"))
    def request(self, demand: Demand, owner: str) -> None:
        fitting = self.limiter.clamped(demand)
        self.limiter.request(self.new_ticket(fitting), fitting, owner=owner)

    @rule(demand=st.sampled_from(DEMANDS), parent=leases)
    def request_in_a_nest(self, demand: Demand, parent: Lease) -> None:
        if not parent.released:
            fitting = self.limiter.clamped(demand)
            ticket = self.new_ticket(fitting)
            self.nested.add(ticket)
            self.has_nests = True
            self.limiter.request(ticket, fitting, owner=parent.owner, under=parent)

    @rule(target=leases)
    def grant(self) -> object:
        before = self.limiter.waiting()
        granted = self.limiter.grant()
        if granted is None:
            self.check_that_nobody_waits_without_need(before)
            return Lease("nothing", "nobody", 0, 0, released=True)
        ticket, lease = granted
        retaken = ticket in self.retaking
        taken = Lease(ticket, "", lease.cpu_millis, 0) if retaken else from_the_pool(lease)
        for passed in before[: before.index(ticket)]:
            may_overtake = ticket not in self.nested or passed in self.retaking
            if may_overtake and self.is_at_expense(taken, passed):
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
            ticket = self.new_ticket(Demand(lease.cpu_millis))
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
