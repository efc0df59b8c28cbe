"""Named keys: held by so many at once, or taken so often in a time; never more, never less."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Hashable
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from asyncflow.engine.limiter import Capacity, Demand, Lease, Limiter
from asyncflow.engine.named import Key
from asyncflow.engine.queues import Queue
from asyncflow.limits import Definitions, Limit, Rate, keys_of


def a_limiter(cpus: int = 4, *, max_overtakes: int = 64, **limits: Limit) -> Limiter:
    named = {name.replace("_any", ":*"): limit for name, limit in limits.items()}
    return Limiter(Capacity(1000 * cpus, 1000), Definitions(named), max_overtakes=max_overtakes)


def keys(*names: str, cpus: int = 0, **weights: int) -> Demand:
    return Demand(1000 * cpus, keys=keys_of({**dict.fromkeys(names, 1), **weights}))


def ask(limiter: Limiter, ticket: Hashable, demand: Demand, owner: str = "run") -> None:
    limiter.request(ticket, demand, owner=owner)


def grant_all(limiter: Limiter, now: float | None = None) -> dict[Hashable, Lease]:
    granted: dict[Hashable, Lease] = {}
    while (found := limiter.grant(now)) is not None or limiter.has_more:
        if found is not None:
            granted[found[0]] = found[1]
        limiter.validate()
    return granted


def grant_all_unchecked(limiter: Limiter) -> dict[Hashable, Lease]:
    """The same where checking everything each time would take longer than the rest."""
    granted: dict[Hashable, Lease] = {}
    while (found := limiter.grant()) is not None or limiter.has_more:
        if found is not None:
            granted[found[0]] = found[1]
    return granted


def starts(limiter: Limiter, until: float) -> list[tuple[float, Hashable]]:
    """What is granted when, with every lease released at once, as time goes on."""
    now, found = 0.0, []
    while now <= until and now < inf:
        for ticket, lease in grant_all(limiter, now).items():
            found.append((now, ticket))
            limiter.release(lease)
        now = limiter.wake_at()
    return found


# ------------------------------------------------------------------------ slots


def test_a_key_is_held_by_so_many_at_once() -> None:
    limiter = a_limiter(api=2)
    for ticket in "abc":
        ask(limiter, ticket, keys("api"))
    granted = grant_all(limiter)
    assert list(granted) == ["a", "b"]
    found = limiter.statistics().keys["api"]
    assert (found.total, found.held, found.free, found.waiting) == (2, 2, 0, 1)
    limiter.release(granted["b"])
    assert list(grant_all(limiter)) == ["c"]


def test_each_text_that_a_pattern_stands_for_has_slots_of_its_own() -> None:
    limiter = a_limiter(host_any=1)
    for ticket, host in enumerate(("a", "a", "b")):
        ask(limiter, ticket, keys(f"host:{host}"))
    assert list(grant_all(limiter)) == [0, 2]


def test_a_weight_takes_so_many() -> None:
    limiter = a_limiter(api=3)
    ask(limiter, "two", keys(api=2))
    ask(limiter, "two more", keys(api=2))
    assert list(grant_all(limiter)) == ["two"]


def test_keys_are_granted_together_with_cpus_or_not_at_all() -> None:
    limiter = a_limiter(1, api=1)
    ask(limiter, "cpu", Demand(1000))
    busy = grant_all(limiter)["cpu"]
    ask(limiter, "both", keys("api", cpus=1))
    ask(limiter, "api", keys("api"))
    granted = grant_all(limiter)
    assert list(granted) == ["api"]
    limiter.release(busy)
    assert not grant_all(limiter)
    ask(limiter, "cpu", Demand(1000))
    assert list(grant_all(limiter)) == ["cpu"]
    limiter.release(granted["api"])
    assert limiter.waiting() == ["both"]


def test_several_keys_are_granted_together() -> None:
    limiter = a_limiter(a=1, b=1)
    ask(limiter, "a", keys("a"))
    held = grant_all(limiter)["a"]
    ask(limiter, "a and b", keys("a", "b"))
    ask(limiter, "b", keys("b"))
    granted = grant_all(limiter)
    assert list(granted) == ["b"]
    limiter.release(held)
    assert not grant_all(limiter)
    limiter.release(granted["b"])
    assert list(grant_all(limiter)) == ["a and b"]


def test_who_wants_all_of_a_key_is_passed_by_nobody_who_wants_less() -> None:
    limiter = a_limiter(api=4)
    ask(limiter, "first", keys("api"))
    first = grant_all(limiter)["first"]
    ask(limiter, "all", keys(api=4))
    ask(limiter, "small", keys("api"))
    assert not grant_all(limiter)
    limiter.release(first)
    assert list(grant_all(limiter)) == ["all"]


@pytest.mark.parametrize("bound", [0, 1, 3, 64])
def test_who_wants_two_keys_gets_them_though_others_keep_taking_each(bound: int) -> None:
    limiter = a_limiter(a=1, b=1, max_overtakes=bound)
    running: dict[Hashable, Lease] = {}
    for key in "ab":
        ask(limiter, (key, 0), keys(key))
    running.update(grant_all(limiter))
    ask(limiter, "both", keys("a", "b"))
    for count in range(1, 4 * (bound + 2)):
        for key in "ab":
            ask(limiter, (key, count), keys(key))
            ended = [ticket for ticket in running if ticket[0] == key]  # type: ignore[index]
            for ticket in ended:
                limiter.release(running.pop(ticket))
            running.update(grant_all(limiter))
            if "both" in running:
                return
    raise AssertionError("it was starved")


def test_a_key_that_is_free_again_is_forgotten() -> None:
    limiter = a_limiter(host_any=8)
    for number in range(1000):
        ask(limiter, number, keys(f"host:{number}"))
        limiter.release(grant_all(limiter)[number])
    assert len(limiter._named.open) <= 128


def test_rates_that_were_not_taken_for_long_are_forgotten() -> None:
    limiter = a_limiter(user_any=Rate(1, per_seconds=10))
    for number in range(1000):
        ask(limiter, number, keys(f"user:{number}"))
        limiter.release(grant_all(limiter, float(number))[number])
    assert len(limiter._named.open) <= 128


def test_what_waits_for_one_key_is_in_nobody_s_way() -> None:
    limiter = a_limiter(slow=1)
    ask(limiter, "holder", keys("slow"))
    grant_all(limiter)
    ask(limiter, "waits", keys("slow", cpus=4))
    for number in range(200):
        ask(limiter, number, Demand(4000))
        limiter.release(grant_all(limiter)[number])


# ------------------------------------------------------------------ wrong requests


@pytest.mark.parametrize(
    "demand, told",
    [
        (keys("apii"), r"no limit 'apii' in this runtime \(did you mean 'api'\?\)"),
        (keys("host:"), r"no limit 'host:'"),
        (keys(api=5), "5 of the limit 'api' asked for at once, but there are 4"),
        (keys(**{"host:a": 9}), "9 of the limit 'host:a' asked for at once, but there are 8"),
        (keys(rate=6), "6 of the limit 'rate' asked for at once, but there are 5"),
    ],
)
def test_what_can_never_be_had_is_refused_in_a_sentence(demand: Demand, told: str) -> None:
    limiter = a_limiter(api=4, host_any=8, rate=Rate(10, burst=5))
    assert re.search(told, limiter.refusal(demand) or "")


def test_a_key_that_is_not_defined_cannot_be_waited_for() -> None:
    limiter = a_limiter(api=4)
    with pytest.raises(ValueError, match="'a' can never be granted: there is no limit 'apii'"):
        ask(limiter, "a", keys("apii"))
    assert limiter.waiting() == []


# ------------------------------------------------------------------------ rates


def test_a_rate_lets_its_number_start_at_once_and_then_as_many_in_each_window() -> None:
    limiter = a_limiter(api=Rate(3, per_seconds=10))
    for ticket in range(7):
        ask(limiter, ticket, keys("api"))
    when = [now for now, _ in starts(limiter, 100)]
    assert when == pytest.approx([0, 0, 0, 10, 10, 10, 20])


def test_a_burst_of_one_spreads_the_starts_out() -> None:
    limiter = a_limiter(api=Rate(5, per_seconds=10, burst=1))
    for ticket in range(11):
        ask(limiter, ticket, keys("api"))
    when = [now for now, _ in starts(limiter, 100)]
    assert when == pytest.approx([2.0 * number for number in range(11)])


def test_a_larger_burst_is_saved_up_while_nothing_asks() -> None:
    limiter = a_limiter(api=Rate(1, per_seconds=1, burst=5))
    for ticket in range(7):
        ask(limiter, ticket, keys("api"))
    when = [now for now, _ in starts(limiter, 100)]
    assert when[:5] == [0] * 5
    assert when[5:] == pytest.approx([1, 2])


def test_late_timers_do_not_waste_what_drips_in_meanwhile() -> None:
    limiter = a_limiter(api=Rate(100, per_seconds=1, burst=1))
    for ticket in range(1001):
        ask(limiter, ticket, keys("api"))
    now = last = 0.0
    while limiter.waiting():
        assert len(grant_all(limiter, now)) <= 1
        last, now = now, limiter.wake_at() + 0.004  # a busy loop comes late each time
    assert 10 <= last <= 10.2


def test_a_weight_takes_so_many_tokens() -> None:
    limiter = a_limiter(api=Rate(4, per_seconds=1))
    for ticket in "abc":
        ask(limiter, ticket, keys(api=3))
    assert [now for now, _ in starts(limiter, 10)] == pytest.approx([0, 1, 2])


def test_a_start_that_came_late_counts_from_then() -> None:
    limiter = a_limiter(api=Rate(1, per_seconds=1))
    ask(limiter, "a", keys("api"))
    lease = grant_all(limiter, 0.0)["a"]
    limiter.started(lease, 0.25)
    limiter.release(lease)
    ask(limiter, "b", keys("api"))
    assert not grant_all(limiter, 1.0)
    assert limiter.wake_at() == pytest.approx(1.25)
    assert grant_all(limiter, limiter.wake_at())


def test_a_token_that_was_not_used_is_there_again() -> None:
    limiter = a_limiter(api=Rate(1, per_seconds=1000))
    ask(limiter, "a", keys("api"))
    limiter.release(grant_all(limiter, 0.0)["a"], unused=True)
    ask(limiter, "b", keys("api"))
    assert list(grant_all(limiter, 0.0)) == ["b"]


def test_who_is_withdrawn_while_it_waits_takes_no_token() -> None:
    limiter = a_limiter(api=Rate(1, per_seconds=1))
    for ticket in range(100):
        ask(limiter, ticket, keys("api"))
    grant_all(limiter, 0.0)
    for ticket in range(1, 99):
        limiter.withdraw(ticket)
    limiter.validate()
    assert [ticket for _, ticket in starts(limiter, 10)] == [99]
    assert limiter.wake_at() == inf


def test_while_nobody_waits_for_tokens_no_timer_is_wanted() -> None:
    limiter = a_limiter(api=Rate(1, per_seconds=1))
    ask(limiter, "a", keys("api"))
    grant_all(limiter, 0.0)
    assert limiter.wake_at() == inf
    ask(limiter, "b", keys("api"))
    assert not grant_all(limiter, 0.5)
    assert limiter.wake_at() == pytest.approx(1.0)
    limiter.withdraw("b")
    assert limiter.wake_at() == inf


RATES = st.builds(
    Rate,
    st.integers(1, 12),
    st.sampled_from([0.1, 1.0, 7.5, 60.0]),
    st.one_of(st.none(), st.integers(1, 20)),
)


@given(
    rate=RATES,
    waits=st.lists(st.floats(0, 3, allow_subnormal=False), min_size=1, max_size=80),
    late=st.floats(0, 0.5),
)
@settings(max_examples=200)
def test_no_window_sees_more_starts_than_the_rate_allows(
    rate: Rate, waits: list[float], late: float
) -> None:
    """Windows of every beginning, both ends included, in floats as they are."""
    limiter = a_limiter(api=rate)
    now = 1000.0
    arrivals: list[float] = []
    when: list[float] = []
    for wait in waits:
        arrivals.append(arrivals[-1] + wait if arrivals else now)
    pending = list(enumerate(arrivals))
    while pending or limiter.waiting():
        while pending and pending[0][1] <= now:
            ask(limiter, pending.pop(0)[0], keys("api"))
        for lease in grant_all(limiter, now).values():
            when.append(now)
            limiter.release(lease)
        following = min(limiter.wake_at(), pending[0][1] if pending else inf)
        if following == inf:
            break
        now = max(now, following + late * rate.window_seconds / rate.n)
    assert len(when) == len(waits)
    for place, begin in enumerate(when):
        assert bisect_right(when, begin + rate.window_seconds) - place <= rate.most
    at_once = Counter(when)
    assert max(at_once.values()) <= rate.most_at_once


@given(rate=RATES)
def test_under_load_all_of_the_allowance_is_used(rate: Rate) -> None:
    limiter = a_limiter(api=rate)
    count = rate.most + 10 * rate.n
    for ticket in range(count):
        ask(limiter, ticket, keys("api"))
    last = starts(limiter, inf)[-1][0] if count else 0.0
    # What a full bucket gives comes on top.
    least = (count - rate.most) / rate.n * rate.window_seconds
    assert last <= least + rate.window_seconds * 1.02
    wakes = [now for now, _ in starts(limiter, 0)]
    assert wakes == []


# -------------------------------------------------------------------- changed limits


def test_a_rate_of_zero_waits_until_it_is_changed() -> None:
    limiter = a_limiter(api=Rate(0))
    ask(limiter, "a", keys("api"))
    assert not grant_all(limiter, 0.0)
    assert limiter.wake_at() == inf
    assert limiter.paused_key("a") == "api"
    assert "nothing until the limit is set to more than 0" in limiter.explain("a")
    limiter.set_limit("api", Rate(2), 50.0)
    assert limiter.paused_key("a") is None
    assert list(grant_all(limiter, 50.0)) == ["a"]


def test_a_rate_that_was_zero_for_a_while_forgets_nothing() -> None:
    limiter = a_limiter(api=Rate(2, per_seconds=10))
    for ticket in "abc":
        ask(limiter, ticket, keys("api"))
    assert len(grant_all(limiter, 0.0)) == 2
    limiter.set_limit("api", Rate(0, per_seconds=10), 1.0)
    assert not grant_all(limiter, 2.0)
    limiter.set_limit("api", Rate(2, per_seconds=10), 3.0)
    assert not grant_all(limiter, 3.0)
    assert limiter.wake_at() == pytest.approx(10)


def test_a_limit_made_smaller_lets_nobody_in_until_enough_is_given_back() -> None:
    limiter = a_limiter(api=3)
    for ticket in range(5):
        ask(limiter, ticket, keys("api"))
    granted = grant_all(limiter)
    limiter.set_limit("api", 1)
    limiter.validate()
    assert limiter.statistics().keys["api"].free == -2
    for ticket in range(2):
        limiter.release(granted[ticket])
        assert not grant_all(limiter)
    limiter.release(granted[2])
    assert list(grant_all(limiter)) == [3]


def test_who_wants_more_than_a_limit_that_was_made_smaller_gets_all_of_it() -> None:
    limiter = a_limiter(api=3)
    ask(limiter, "holder", keys("api"))
    holder = grant_all(limiter)["holder"]
    ask(limiter, "all", keys(api=3))
    limiter.set_limit("api", 2)
    limiter.release(holder)
    assert grant_all(limiter)["all"].keys == (("api", 2),)


def test_a_limit_of_a_pattern_is_changed_for_all_it_stands_for() -> None:
    limiter = a_limiter(host_any=1)
    for ticket in range(4):
        ask(limiter, ticket, keys(f"host:{ticket % 2}"))
    assert len(grant_all(limiter)) == 2
    limiter.set_limit("host:*", 2)
    assert len(grant_all(limiter)) == 2


@pytest.mark.parametrize("name, limit", [("api", Rate(1)), ("rate", 1)])
def test_a_limit_stays_of_its_kind(name: str, limit: Limit) -> None:
    with pytest.raises(TypeError, match="cannot become"):
        a_limiter(api=1, rate=Rate(1)).set_limit(name, limit)


def test_only_what_is_defined_can_be_changed() -> None:
    with pytest.raises(KeyError, match="did you mean 'api'"):
        a_limiter(api=1).set_limit("apj", 2)


# --------------------------------------------------------------------- fair sharing


def test_runs_share_a_key_one_by_one_however_much_each_has_asked_for() -> None:
    limiter = a_limiter(api=1)
    for number in range(1000):
        ask(limiter, ("long", number), keys("api"), owner="long")
    served: list[Any] = []
    for number in range(40):
        if number == 10:
            for later in range(10):
                ask(limiter, ("late", later), keys("api"), owner="late")
        (ticket, lease), *_ = grant_all(limiter).items()
        served.append(ticket[0])  # type: ignore[index]
        limiter.release(lease)
    assert Counter(served[10:32])["late"] == 10


def test_a_newcomer_at_a_key_does_not_wait_for_runs_that_came_far_elsewhere() -> None:
    limiter = a_limiter(1, api=1, other=1)
    for number in range(2000):
        ask(limiter, ("cpu", number), Demand(1000), owner="cpu")
        limiter.release(grant_all(limiter)["cpu", number])
    for number in range(100):
        ask(limiter, ("old", number), keys("api"), owner="old")
    held = grant_all(limiter)["old", 0]
    ask(limiter, "new", keys("api"), owner="new")
    served = []
    for _ in range(4):
        limiter.release(held)
        (ticket, held), *_ = grant_all(limiter).items()
        served.append(ticket)
    assert "new" in served


def test_nested_requests_are_not_kept_waiting_by_who_waits_for_their_parents() -> None:
    limiter = a_limiter(api=2)
    ask(limiter, "parent", keys("api"))
    parent = grant_all(limiter)["parent"]
    ask(limiter, "all", keys(api=2), owner="other")
    assert not grant_all(limiter)
    limiter.request("child", keys("api"), owner="run", under=parent)
    child = grant_all(limiter)["child"]
    limiter.release(child)
    limiter.release(parent)
    assert list(grant_all(limiter)) == ["all"]


def test_an_endless_nest_does_not_starve_who_waits_at_a_key() -> None:
    limiter = a_limiter(api=2, max_overtakes=3)
    for parent in "xy":
        ask(limiter, parent, Demand(1000))
    x, y = grant_all(limiter).values()
    limiter.request(0, keys("api"), owner="run", under=x)
    limiter.request(1, keys("api"), owner="run", under=y)
    held = list(grant_all(limiter).values())
    ask(limiter, "all", keys(api=2), owner="other")
    for number in range(2, 40):
        # A parent that waits for a nest has no other work to nest more in.
        limiter.request(number, keys("api"), owner="run", under=x)
        ask(limiter, ("new", number), Demand(1000))
        limiter.release(held.pop(0))
        granted = grant_all(limiter)
        held.extend(lease for ticket, lease in granted.items() if isinstance(ticket, int))
        for ticket, lease in granted.items():
            if not isinstance(ticket, int):
                limiter.release(lease)
    news = [ticket for ticket in limiter.waiting() if isinstance(ticket, tuple)]
    assert len(news) > 30, "nothing new starts once nests have held somebody up for long"
    for lease in held:
        limiter.release(lease)
    assert "all" in [ticket for _, ticket in starts(limiter, 0)]


# ------------------------------------------------------------------- under a lease


def test_an_attempt_under_a_lease_gets_keys_and_gives_back_only_those() -> None:
    limiter = a_limiter(2, api=1)
    ask(limiter, "group", keys("api", cpus=2))
    lease = grant_all(limiter)["group"]
    limiter.release_keys(lease)
    limiter.validate()
    ask(limiter, "other", keys("api"))
    other = grant_all(limiter)["other"]
    limiter.lend_cpus(lease)
    limiter.request_cpus("again", lease, owner="run", keys=(("api", 1),))
    ask(limiter, "cpu", Demand(1000))
    cpu = grant_all(limiter)["cpu"]
    limiter.release(other)
    assert not grant_all(limiter)
    limiter.release(cpu)
    assert grant_all(limiter) == {"again": lease}
    assert (lease.keys, lease.cpu_millis_held) == ((("api", 1),), 2000)


def test_keys_alone_can_be_asked_for_under_a_lease() -> None:
    limiter = a_limiter(api=1)
    ask(limiter, "group", Demand(1000))
    lease = grant_all(limiter)["group"]
    limiter.request_cpus("member", lease, owner="run", keys=(("api", 1),))
    assert grant_all(limiter) == {"member": lease}
    assert lease.cpu_millis_held == 1000
    limiter.release(lease)
    assert limiter.statistics().keys == {}


# -------------------------------------------------------------------------- in words


def test_who_waits_for_a_key_is_told_who_holds_it() -> None:
    limiter = a_limiter(api=5)
    for ticket in range(7):
        ask(limiter, ticket, keys("api"))
    grant_all(limiter)
    assert limiter.explain(6) == (
        "6 waits for 1 of the limit 'api' (0 free of 5, held by 0, 1, 2 and 2 more). "
        "1 other waits for it as well."
    )
    assert limiter.explain(0) == "0 holds 0 CPUs, 0 bytes, 1 of the limit 'api'."


def test_who_waits_for_a_rate_is_told_when_its_token_comes() -> None:
    limiter = a_limiter(api=Rate(10, per_seconds=60, burst=2))
    for ticket in range(3):
        ask(limiter, ticket, keys("api"))
    grant_all(limiter, 0.0)
    told = limiter.explain(2, 1.0)
    assert "2 waits for 1 of the limit 'api' (10 per 60 s, 2 at once, there in 5 s)" in told


# ------------------------------------------------------------------------------ cost


@pytest.mark.parametrize("hosts", [1, 100, 5000])
def test_ten_thousand_that_wait_cost_no_more_each_than_ten(hosts: int) -> None:
    limiter = Limiter(Capacity(1000, 0), Definitions({"host:*": 8, "api": 100}))
    looks = 0
    look = limiter._named.short_of

    def counted(queue: Queue, now: float, short: Collection[Key] | None) -> Key | None:
        nonlocal looks
        looks += 1
        return look(queue, now, short)

    limiter._named.short_of = counted  # type: ignore[method-assign]
    for number in range(10_000):
        ask(limiter, number, keys("api", f"host:{number % hosts}"))
    running: list[Lease] = []
    count = 0
    while count < 10_000 or running:
        while (found := limiter.grant()) is not None or limiter.has_more:
            if found is not None:
                running.append(found[1])
                count += 1
        for lease in running[:50]:
            limiter.release(lease)
        del running[:50]
    assert count == 10_000
    assert looks < 6 * 10_000


# ------------------------------------------------------------------- any history


DEMANDS = [
    keys("a"),
    keys("b"),
    keys(a=2),
    keys("a", "b"),
    keys("a", "r"),
    keys("r"),
    keys(r=2),
    keys("b", cpus=1),
    keys("h:1", cpus=1),
    keys("h:2", "r", cpus=1),
    keys("a", "r", cpus=2),
    keys("h:1"),
    keys("h:2", "a"),
    keys("h:1", "h:2"),
    Demand(1000),
    Demand(2000, 500),
]


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, the account adds up, no window is exceeded, everybody is served."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.rate = Rate(3, per_seconds=5, burst=2)
        self.limiter = a_limiter(2, max_overtakes=3, a=2, b=1, r=self.rate, h_any=1)
        self.tickets = 0
        self.now = 0.0
        self.when: list[float] = []

    def tick(self, wants: dict[Hashable, Demand] | None = None) -> int:
        self.tickets += 1
        return self.tickets

    def note(self, lease: Lease) -> None:
        for taken in lease.taken:
            self.when.extend([self.now] * taken.weight)
        lease.taken = ()

    @rule(demand=st.sampled_from(DEMANDS), owner=st.sampled_from("abc"), rank=st.integers(0, 3))
    def request(self, demand: Demand, owner: str, rank: int) -> None:
        ranked = None if owner == "c" else float(rank)
        self.limiter.request(self.tick(), demand, owner=owner, rank=ranked)

    @rule(demand=st.sampled_from(DEMANDS), parent=leases)
    def request_in_a_nest(self, demand: Demand, parent: Lease) -> None:
        if not parent.released:
            self.limiter.request(self.tick(), demand, owner=parent.owner, under=parent)

    @rule(target=leases)
    def grant(self) -> object:
        found = self.limiter.grant(self.now)
        if found is None:
            if not self.limiter.has_more:
                self.check_that_one_alone_is_not_left_waiting()
            return Lease("nothing", "nobody", 0, 0, released=True)
        self.note(found[1])
        return found[1]

    def check_that_one_alone_is_not_left_waiting(self) -> None:
        waiting = self.limiter.waiting()
        if len(waiting) == 1:
            queue = self.limiter._line.queue_of(waiting[0])
            assert queue is not None
            fits = self.limiter._fit(queue.wanted) is not None
            assert not (fits and self.limiter._named.fits(queue.wanted.keys, self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        if not lease.released:
            self.limiter.release(lease)

    @rule(lease=leases)
    def end_an_attempt(self, lease: Lease) -> None:
        if not lease.released:
            self.limiter.release_keys(lease)

    @rule(lease=leases)
    def lend(self, lease: Lease) -> None:
        if not (lease.released or lease.lent):
            self.limiter.lend_cpus(lease)

    @rule(lease=leases, demand=st.sampled_from(DEMANDS))
    def take_back(self, lease: Lease, demand: Demand) -> None:
        free = not (lease.released or lease.keys or lease in self.limiter._retakes)
        if free and (lease.lent or demand.keys):
            self.limiter.request_cpus(self.tick(), lease, owner=lease.owner, keys=demand.keys)

    @rule(choice=st.integers(0, 100))
    def withdraw(self, choice: int) -> None:
        waiting = self.limiter.waiting()
        if waiting:
            assert self.limiter.withdraw(waiting[choice % len(waiting)])

    @rule(total=st.integers(0, 3))
    def change(self, total: int) -> None:
        self.limiter.set_limit("a", total, self.now)

    @invariant()
    def the_account_adds_up(self) -> None:
        self.limiter.validate()

    @invariant()
    def no_window_sees_too_many(self) -> None:
        for place, begin in enumerate(self.when):
            assert bisect_right(self.when, begin + 5) - place <= 3

    @invariant()
    def every_waiting_request_can_be_explained(self) -> None:
        for ticket in self.limiter.waiting():
            assert repr(ticket) in self.limiter.explain(ticket, self.now)

    def teardown(self) -> None:
        """With everything released and time going on, all that waits is granted."""
        self.limiter.set_limit("a", 2, self.now)
        for _ in range(10_000):
            for lease in list(self.limiter._leases):
                self.limiter.release(lease)
            found = self.limiter.grant(self.now)
            if found is not None:
                self.note(found[1])
            elif not self.limiter.has_more:
                if self.limiter.wake_at() == inf:
                    break
                assert self.limiter.wake_at() > self.now
                self.now = self.limiter.wake_at()
        assert self.limiter.waiting() == []
        self.no_window_sees_too_many()


AnyHistory.TestCase.settings = settings(stateful_step_count=60)
test_any_history_of_keys = AnyHistory.TestCase


def test_times_strictly_follow_each_other_where_a_window_holds_one() -> None:
    limiter = a_limiter(api=Rate(1, per_seconds=0.1))
    for ticket in range(300):
        ask(limiter, ticket, keys("api"))
    when = [now for now, _ in starts(limiter, inf)]
    assert all(later - earlier > 0.1 for earlier, later in pairwise(when))


def test_one_of_those_that_want_the_same_cpus_is_looked_at_for_all() -> None:
    limiter = Limiter(Capacity(2000, 0), Definitions({"host:*": 8}))
    tried = 0
    fit = limiter._fit

    def counted(*of: Any) -> Any:
        nonlocal tried
        tried += 1
        return fit(*of)

    limiter._fit = counted  # type: ignore[method-assign, assignment]
    for number in range(3000):
        ask(limiter, number, keys(f"host:{number}", cpus=1))
    served: list[Hashable] = []
    while len(served) < 3000:
        granted = grant_all_unchecked(limiter)
        served.extend(granted)
        for lease in granted.values():
            limiter.release(lease)
    assert served == list(range(3000)), "in the order of their arrival"
    assert tried < 6 * 3000
    limiter.validate()


def test_who_waits_behind_others_for_cpus_can_be_withdrawn_and_explained() -> None:
    limiter = a_limiter(1, host_any=1)
    for number in range(4):
        ask(limiter, number, keys(f"host:{number}", cpus=1))
    holder = grant_all(limiter)[0]
    assert "2 waits for 1 CPU (0 CPUs free of 1 CPU, held by 0)" in limiter.explain(2)
    assert limiter.waiting() == [1, 2, 3]
    limiter.withdraw(1)
    limiter.validate()
    limiter.withdraw(3)
    limiter.release(holder)
    assert list(grant_all(limiter)) == [2]
    assert limiter.waiting() == []
