"""What one training step and one evaluation pass of a method are made of.

Run: python benchmarks/profile_step.py mini/rd4ad mini/mddnet mini/uniad [--device cuda] [--set K=V] [--steps 20]
[--operators 8]
Prints Markdown: medians over steps, in ms; parts of the forward pass by the detector's own children; then the two floors of a
step and of inference: operations over the rate of a matrix product, bytes over the bandwidth of a copy. Images are noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from models import built_our_way, noise
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mddbench.detector import Detector
from mddbench.engine.batches import epoch_batches
from mddbench.engine.cost import step_seconds
from mddbench.engine.device import autocast, choose_device, synchronize
from mddbench.engine.step import TrainingStep
from mddbench.engine.train import with_features
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment, parse_override
from mddbench.machine import keep_freed_memory
from mddbench.methods.mddnet import detector as synthesising
from mddbench.metrics.suite import CategoryMetrics
from mddbench.nn import smoothing

WORK = {
    "asked": "a step, teacher asked",
    "remembered": "a step, teacher remembered",
    "inference": "a batch's maps and scores",
}
SYNTHESISE, SMOOTH = synthesising.synthesise, smoothing.gaussian_smooth


class Clock:
    """Seconds by part of a step, one entry a step; parts inside others count in both."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        synchronize(self.device)
        started = time.perf_counter()
        yield
        synchronize(self.device)
        self.spent[name] += time.perf_counter() - started

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return timed


def watch(detector: Detector, clock: Clock) -> None:
    """Count the forward passes of the detector's children, the synthesis of defects and the smoothing of maps."""
    for name, child in detector.named_children():
        child.forward = clock.wrapped(f"forward: {name}", child.forward)
    if hasattr(synthesising, "synthesise") and type(detector).__module__ == synthesising.__name__:
        synthesising.synthesise = clock.wrapped("forward: synthesis", SYNTHESISE)
    smooth = clock.wrapped("forward: smoothing", SMOOTH)
    for module in list(sys.modules.values()):
        if module.__name__.startswith("mddbench.") and hasattr(module, "gaussian_smooth"):
            module.gaussian_smooth = smooth


def profile(experiment: Experiment, device: torch.device, steps: int) -> dict[str, float]:
    """Median ms of each part of a training step, and of the evaluation of a batch as if it were a category."""
    detector = built_our_way(experiment, device)
    clock = Clock(device)
    watch(detector, clock)
    optimizer = TrainingStep(detector, experiment).optimizer
    data = noise(experiment, (steps + 2) * experiment.batch_size)
    batches = epoch_batches(data, experiment, 0, device)
    masks = np.zeros((experiment.batch_size, *data.images.shape[1:3]), dtype=bool)
    masks[::2, :10, :10] = True
    rows: list[dict[str, float]] = []
    for _ in range(steps + 2):
        clock.spent.clear()
        detector.train()
        with clock.part("step"):
            with clock.part("data"):
                batch = next(batches)
            with clock.part("forward"), autocast(device, experiment.precision):
                loss = torch.stack([term.float() for term in detector.training_step(batch).values()]).sum()
            with clock.part("backward"):
                optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
                loss.backward()  # type: ignore[no-untyped-call]
            with clock.part("optimiser"):
                if experiment.gradient_clip is not None:
                    nn.utils.clip_grad_norm_(detector.parameters(), experiment.gradient_clip)
                optimizer.step()  # type: ignore[union-attr]
        trained = dict(clock.spent)
        clock.spent.clear()
        detector.eval()
        with clock.part("all"):
            with torch.inference_mode(), autocast(device, experiment.precision):
                maps = detector.anomaly_maps(batch.images).float()
                scores = detector.image_scores(maps)
            with clock.part("metrics"):
                found = CategoryMetrics()
                found.update(
                    maps=maps, masks=masks, image_scores=scores.cpu().numpy(), image_labels=masks.any(axis=(1, 2))
                )
                found.compute()
        rows.append(trained | {f"evaluation, {name.removeprefix('forward: ')}": t for name, t in clock.spent.items()})
    return {name: 1000 * median(row.get(name, 0.0) for row in rows[2:]) for name in rows[-1]}


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operations read and write, as if none stayed in a cache; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if not function.is_view:
            touched = tree_leaves((args, kwargs, found))
            self.bytes += sum(each.nbytes for each in touched if isinstance(each, Tensor))
        return found


def work(experiment: Experiment, device: torch.device, what: str, random_weights: bool = False) -> tuple[float, float]:
    """(floating-point operations, bytes) of a training step, forward and backward, without the optimiser's, with the teacher
    'asked' or 'remembered'; or of the 'inference' of a batch, up to image scores.
    """
    training = what != "inference"
    detector = built_our_way(experiment, device, random_weights).train(training)
    if not training:
        detector.requires_grad_(False)  # the counter of operations trips over a parameter without a gradient's graph
    batch = next(epoch_batches(noise(experiment, experiment.batch_size), experiment, 0, device))
    counts = []
    for counter in (FlopCounterMode(display=False), Traffic()):
        with autocast(device, experiment.precision):
            if not training:
                with torch.inference_mode(), counter:
                    detector.image_scores(detector.anomaly_maps(batch.images))
            else:
                known = what == "remembered" and detector.asks_teacher
                features = tuple(detector.encoder(batch.images)) if known else None
                with counter:
                    terms = detector.training_step(replace(batch, features=features))
                    torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        counts.append(float(counter.bytes if isinstance(counter, Traffic) else counter.get_total_flops()))
    return counts[0], counts[1]


def bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copies of 256 MiB: the median of several."""
    source = torch.ones(2**26, device=device)
    target, found = torch.empty_like(source), []
    for _ in range(7):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        found.append(2 * source.nbytes / (time.perf_counter() - started))
    return median(found)


def product_rates(device: torch.device, precision: str, side: int = 1024, products: int = 30) -> dict[str, float]:
    """Operations per second of products of square matrices, as such (on the CPU often by MKL) and as a convolution of one pixel
    (there by oneDNN): the medians of several looks.
    """
    matrix = torch.rand(side, side, device=device).to(getattr(torch, precision))
    pixels = matrix.reshape(1, side // 32, 32, side).permute(0, 3, 1, 2)
    ways: dict[str, Callable[[], Tensor]] = {
        "matrix product": lambda: matrix @ matrix,
        "convolution of one pixel": lambda: F.conv2d(pixels, matrix[:, :, None, None]),
    }
    rates = {}
    for name, product in ways.items():
        found = []
        for _ in range(5):
            synchronize(device)
            started = time.perf_counter()
            for _ in range(products):
                product()
            synchronize(device)
            found.append(products * 2 * side**3 / (time.perf_counter() - started))
        rates[name] = median(found)
    return rates


def operators(experiment: Experiment, device: torch.device, count: int, steps: int = 5) -> list[tuple[str, float]]:
    """The operators of a training step that take the most time by themselves, the teacher's features given, and their shares of
    it. The profiler costs time of its own, most of all for small operators.
    """
    detector = built_our_way(experiment, device)
    step = TrainingStep(detector, experiment)
    batch = next(epoch_batches(noise(experiment, experiment.batch_size), experiment, 0, device))
    batch = with_features(batch, detector, experiment.precision)
    step_seconds(step, batch, 2)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with torch_profile(activities=kinds) as profiler:
        step_seconds(step, batch, steps)
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    found = [(str(each.key), float(getattr(each, own))) for each in profiler.key_averages()]
    total = sum(spent for _, spent in found)
    return [(name, spent / total) for name, spent in sorted(found, key=lambda pair: -pair[1])[:count]]


def main() -> None:
    """Profile the experiments that are named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--operators", type=int, default=0, metavar="N", help="the N greatest by PyTorch's profiler, too"
    )
    asked = parser.parse_args()
    keep_freed_memory()
    device = choose_device(asked.device)
    for name in asked.experiments:
        experiment = load_experiment(name, dict(map(parse_override, asked.changes)))
        parts = profile(experiment, device, asked.steps)
        print(
            f"\n{name}: batch {experiment.batch_size}, {experiment.image_size} px, {experiment.precision}, {device}\n"
        )
        print("| part | ms | share of the step |\n|:--|--:|--:|")
        for part, spent in sorted(parts.items(), key=lambda pair: -pair[1]):
            print(f"| {part} | {spent:.1f} | {100 * spent / parts['step']:.0f} % |")
        rates, width = product_rates(device, experiment.precision), bandwidth(device)
        rate = max(rates.values())
        print("products: " + "; ".join(f"{name} {each / 1e9:.0f} GFLOP/s" for name, each in rates.items()))
        for what, told in WORK.items():
            operations, moved = work(experiment, device, what)
            floors = (
                f"{operations / 1e9:.1f} GFLOP, at {rate / 1e9:.0f} GFLOP/s {1000 * operations / rate:.0f} ms",
                f"{moved / 2**20:.0f} MiB read and written, at {width / 2**30:.1f} GiB/s {1000 * moved / width:.0f} ms",
            )
            print(f"{told}: {'; '.join(floors)}")
        for operator, share in operators(experiment, device, asked.operators) if asked.operators else []:
            print(f"{operator}: {100 * share:.0f} %")


if __name__ == "__main__":
    main()
