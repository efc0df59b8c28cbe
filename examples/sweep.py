"""A hyper-parameter sweep whose size an earlier step decides, on two declared GPUs.

::

    samples ─▶ usable_rates ─▶ configurations ─▶ train, once for each ─▶ ranking ─▶ table

``usable_rates`` tries learning rates for a few steps and keeps those that make the loss
smaller, so nobody knows how many models there will be until the run gets there. Each of them
holds one device while it is trained: on a runtime with two, two are trained at once.

The model is a logistic regression in plain Python: the devices are only declared, and the
steps note which one they were given, where a real one would move its tensors there.

Run it with ``python -m examples.sweep``.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import time
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from asyncflow import (
    GPUConfig,
    Pipeline,
    PipelineResult,
    ResourceRequirements,
    Runtime,
    StepContext,
    step,
)

__all__ = ["Configuration", "Samples", "Trial", "pipeline", "sweep"]

RATES = (0.01, 0.1, 0.5, 1.0, 30.0, 100.0)
PENALTIES = (0.0, 0.01, 0.1)
TRUE_WEIGHTS = (1.5, -2.0, 0.75, 0.0)
TRIED_EPOCHS = 12
EPOCHS_PER_REPORT = 10


class Samples(NamedTuple):
    """Rows of features, and for each row its label, 0 or 1."""

    features: list[tuple[float, ...]]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)


class Split(NamedTuple):
    """What models are trained on, and what they are judged by."""

    training: Samples
    validation: Samples


class Configuration(NamedTuple):
    """What one model is trained with."""

    rate: float
    penalty: float


class Trial(NamedTuple):
    """A trained model: how good it is, and when and on which devices it was trained."""

    configuration: Configuration
    weights: list[float]
    loss: float
    accuracy: float
    gpu_ids: tuple[str, ...]
    began: float
    ended: float


# -- the model -------------------------------------------------------------------------------


def probability(weights: Sequence[float], row: Sequence[float]) -> float:
    """How likely the label of a row is 1; never exactly 0 or 1, whose logarithm is none."""
    score = sum(weight * value for weight, value in zip(weights, row, strict=True))
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, score))))


def loss_of(weights: Sequence[float], samples: Samples) -> float:
    """The mean negative log-likelihood: 0 is perfect, log 2 is a coin."""
    total = 0.0
    for row, label in zip(*samples, strict=True):
        found = probability(weights, row)
        total -= math.log(found if label else 1.0 - found)
    return total / len(samples)


def accuracy_of(weights: Sequence[float], samples: Samples) -> float:
    """The share of rows whose label is the more likely one."""
    pairs = zip(*samples, strict=True)
    return sum((probability(weights, row) > 0.5) == label for row, label in pairs) / len(samples)


def descended(weights: list[float], samples: Samples, configuration: Configuration) -> list[float]:
    """The weights after one step of gradient descent over all samples."""
    gradient = [configuration.penalty * weight for weight in weights]
    for row, label in zip(*samples, strict=True):
        error = (probability(weights, row) - label) / len(samples)
        for place, value in enumerate(row):
            gradient[place] += error * value
    return [
        weight - configuration.rate * slope for weight, slope in zip(weights, gradient, strict=True)
    ]


def _draw(count: int, source: random.Random) -> Samples:
    features = [tuple(source.gauss(0, 1) for _ in TRUE_WEIGHTS) for _ in range(count)]
    chances = [probability(TRUE_WEIGHTS, row) for row in features]
    return Samples(features, [int(source.random() < chance) for chance in chances])


# -- the steps -------------------------------------------------------------------------------


@step
def samples(seed: int = 7, count: int = 200) -> Split:
    """Rows whose labels follow known weights, with noise; the same for the same seed."""
    source = random.Random(seed)
    return Split(_draw(count, source), _draw(count, source))


@step
def usable_rates(samples: Split, rates: Sequence[float] = RATES) -> list[float]:
    """The learning rates with which every one of the first few steps makes the loss smaller."""
    return [rate for rate in rates if _always_descends(rate, samples.training)]


def _always_descends(rate: float, training: Samples) -> bool:
    weights = [0.0] * len(TRUE_WEIGHTS)
    best = loss_of(weights, training)
    for _ in range(TRIED_EPOCHS):
        weights = descended(weights, training, Configuration(rate, 0.0))
        before, best = best, loss_of(weights, training)
        if best >= before:
            return False
    return True


@step
def configurations(
    usable_rates: list[float], penalties: Sequence[float] = PENALTIES
) -> list[Configuration]:
    """Each usable rate with each penalty: as many models as there will be."""
    return [Configuration(*both) for both in product(usable_rates, penalties)]


@step(lane="thread", resources=ResourceRequirements(gpu=GPUConfig(count=1)))
def train(
    configuration: Configuration, samples: Split, context: StepContext, epochs: int = 60
) -> Trial:
    """Train one model on the device that was granted for it."""
    began = time.monotonic()
    weights = [0.0] * len(TRUE_WEIGHTS)
    for epoch in range(epochs):
        if epoch % EPOCHS_PER_REPORT == 0:
            context.raise_if_cancelled()
            context.report(epoch, total=epochs)
        weights = descended(weights, samples.training, configuration)
    return Trial(
        configuration,
        weights,
        loss_of(weights, samples.validation),
        accuracy_of(weights, samples.validation),
        context.lease.gpu_ids,
        began,
        ended=time.monotonic(),
    )


@step
def ranking(trials: list[Trial]) -> list[Trial]:
    """The best model first: the one with the smallest loss on what it was not trained on."""
    return sorted(trials, key=lambda trial: trial.loss)


@step
def table(ranking: list[Trial]) -> str:
    """The ranking as text, a line for each model."""
    lines = ["  rate  penalty    loss  accuracy  device"]
    for trial in ranking:
        rate, penalty = trial.configuration
        lines.append(
            f"{rate:6.2f}  {penalty:7.2f}  {trial.loss:6.3f}  {trial.accuracy:8.1%}  "
            f"{','.join(trial.gpu_ids)}"
        )
    return "\n".join(lines)


pipeline = (
    Pipeline("sweep", steps=[samples, usable_rates, configurations])
    .add_step(
        train,
        inputs={"configuration": "configurations", "samples": "samples"},
        outputs=["trials"],
        map="configurations",
    )
    .add_step(ranking)
    .add_step(table)
)


# -- the program -----------------------------------------------------------------------------


async def sweep(*, gpus: int = 2, **inputs: object) -> PipelineResult:
    """Run the sweep on so many declared devices, whatever this machine has.

    Args:
        gpus: how many devices to declare; so many models are trained at once.
        inputs: ``seed``, ``count``, ``rates``, ``penalties`` or ``epochs``, where another
            value than the default is wanted.
    """
    async with Runtime(max_gpus=gpus) as runtime:
        return await pipeline.run(inputs, runtime=runtime)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweep and print its table."""
    parser = argparse.ArgumentParser(prog="sweep", description="Sweep over hyper-parameters.")
    parser.add_argument("--gpus", type=int, default=2, help="devices to declare (default 2)")
    parser.add_argument("--epochs", type=int, default=60, help="for each model (default 60)")
    options = parser.parse_args(arguments)
    result = asyncio.run(sweep(gpus=options.gpus, epochs=options.epochs))
    if not result.success:
        print(result.summary(), file=sys.stderr)
        return 1
    print(result[table])
    print(f"{len(result['trials'])} models in {result.duration_seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
