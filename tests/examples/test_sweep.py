"""The sweep: as many models as an earlier step says, two at once, each on its own device."""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest

from examples.sweep import PENALTIES, RATES, Configuration, Samples, Trial, loss_of, main, sweep

EPOCHS = 10


def _overlap(first: Trial, second: Trial) -> bool:
    return first.began < second.ended and second.began < first.ended


def _at_once(trials: list[Trial]) -> int:
    """The most models that were trained at any moment: that changes only when one begins."""
    return max(sum(t.began <= one.began < t.ended for t in trials) for one in trials)


async def test_there_is_a_model_for_each_usable_rate_and_penalty() -> None:
    result = await sweep(epochs=EPOCHS)
    result.raise_for_failure()
    usable = result["usable_rates"]
    assert [trial.configuration for trial in result["trials"]] == [
        Configuration(*both) for both in product(usable, PENALTIES)
    ]


async def test_rates_that_do_not_descend_are_left_out() -> None:
    result = await sweep(epochs=EPOCHS)
    assert set(result["usable_rates"]) < set(RATES)
    assert 0.1 in result["usable_rates"]
    assert max(RATES) not in result["usable_rates"]


async def test_two_models_are_trained_at_once_each_on_its_own_device() -> None:
    result = await sweep(epochs=100)
    trials: list[Trial] = result["trials"]
    assert _at_once(trials) == 2
    assert {trial.gpu_ids for trial in trials} == {("0",), ("1",)}
    for first, second in combinations(trials, 2):
        if _overlap(first, second):
            assert first.gpu_ids != second.gpu_ids


async def test_on_one_device_they_are_trained_one_after_the_other() -> None:
    trials: list[Trial] = (await sweep(gpus=1, epochs=EPOCHS))["trials"]
    assert _at_once(trials) == 1
    assert {trial.gpu_ids for trial in trials} == {("0",)}


async def test_a_sweep_without_usable_rates_has_no_models() -> None:
    result = await sweep(rates=[])
    assert result.success, result.summary()
    assert result["trials"] == []
    assert len(result["table"].splitlines()) == 1


async def test_the_ranking_goes_from_the_smallest_loss_to_the_largest() -> None:
    result = await sweep(epochs=EPOCHS)
    losses = [trial.loss for trial in result["ranking"]]
    assert losses == sorted(losses)
    assert len(losses) == len(result["trials"])
    assert losses[0] < math.log(2)  # better than a coin


async def test_models_find_the_signs_of_the_weights_behind_the_labels() -> None:
    best: Trial = (await sweep())["ranking"][0]
    assert best.weights[0] > 0.5
    assert best.weights[1] < -0.5
    assert best.accuracy > 0.75


async def test_the_same_seed_gives_the_same_models_whatever_the_devices() -> None:
    two, one = await sweep(epochs=EPOCHS), await sweep(epochs=EPOCHS, gpus=1)
    assert [t.weights for t in two["trials"]] == [t.weights for t in one["trials"]]


def test_weights_that_know_nothing_are_as_good_as_a_coin() -> None:
    assert loss_of([0.0], Samples([(1.0,), (2.0,)], [0, 1])) == pytest.approx(math.log(2))


def test_the_program_prints_a_line_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--epochs", "5", "--gpus", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rate", "penalty", "loss", "accuracy", "device"]
    assert lines[-1].startswith(f"{len(lines) - 2} models in ")
