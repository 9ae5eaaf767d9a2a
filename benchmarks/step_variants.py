"""A training step with one thing changed: what each change is worth, each in a process of its own.

Run: python benchmarks/step_variants.py mini/rd4ad mini/mddnet mini/uniad [--ways as fused ...] [--rounds 3] [--device cuda]
Prints Markdown: medians over steps, and over rounds, in ms, the teacher's features given; for what is compiled, the seconds
until its first step is done, too. Images are noise. As a run does it the optimiser is fused on a GPU and not on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise, product
from statistics import median

import torch
from models import built_our_way, noise
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mddbench.batch import as_images
from mddbench.engine import batches
from mddbench.engine.cost import step_seconds
from mddbench.engine.device import choose_device
from mddbench.engine.step import TrainingStep
from mddbench.engine.train import with_features
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment, parse_override
from mddbench.machine import keep_freed_memory

WARM = 3
"""Steps that are not counted."""
WAYS = {
    "as": "as a run does it",
    "unfused": "optimiser not fused",
    "fused": "optimiser fused",
    "compiled": "compiled",
    "bfloat16": "bfloat16",
    "bfloat16-compiled": "bfloat16 and compiled",
    "folded": "the teacher's norms folded into its convolutions",
    "contiguous": "channels not last",
    "freed": "memory not kept",
    "thread": "one thread",
}


def measured(experiment: Experiment, way: str, device: torch.device, steps: int) -> dict[str, float]:
    """{"ms": of a step, "first": seconds of the first}."""
    if way == "thread":
        torch.set_num_threads(1)
    if way != "freed":
        keep_freed_memory()
    detector = built_our_way(experiment, device)
    if way == "contiguous":  # of images, too: a convolution takes either side's layout
        detector.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        batches.as_images = lambda images, to: as_images(images, to).contiguous()
    if way == "folded":
        fold_norms(detector.encoder.backbone)
    step = TrainingStep(detector, experiment, way.endswith("compiled"))
    for group in step.optimizer.param_groups if way.endswith("fused") and step.optimizer else []:
        group["fused"] = way == "fused"
    batch = next(batches.epoch_batches(noise(experiment, experiment.batch_size), experiment, 0, device))
    batch = with_features(batch, detector, experiment.precision)
    started = time.perf_counter()
    step_seconds(step, batch)
    first = time.perf_counter() - started
    step_seconds(step, batch, WARM)
    return {
        "ms": 1000 * median(step_seconds(step, batch) for _ in range(steps)),
        "first": first,
    }


def fold_norms(network: nn.Module) -> None:
    """Put each batch norm of a network that is not trained into the convolution before it; its activation stays."""
    children = list(network.named_children())
    for (_, convolution), (name, norm) in pairwise(children):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            folded = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)  # type: ignore[arg-type]
            convolution.weight, convolution.bias = folded
            setattr(network, name, getattr(norm, "act", nn.Identity()))  # timm's norms have their activation in them
    for _, child in children:
        fold_norms(child)


def experiment_of(name: str, way: str, changes: list[str]) -> Experiment:
    precision = {"precision": "bfloat16"} if way.startswith("bfloat16") else {}
    return load_experiment(name, dict(map(parse_override, changes)) | precision)


def main() -> None:
    """Measure all ways of all experiments by turns, or one of one in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="one experiment one way, in this process, as JSON")
    asked = parser.parse_args()
    if asked.here:
        name, way = asked.experiments[0], asked.ways[0]
        experiment = experiment_of(name, way, asked.changes)
        print(json.dumps(measured(experiment, way, choose_device(asked.device), asked.steps)))
        return
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(asked.rounds):  # by turns, since a machine's mood changes
        for way, name in product(asked.ways, asked.experiments):
            changes = [part for change in asked.changes for part in ("--set", change)]
            shared = ["--ways", way, "--here", "--device", asked.device, "--steps", str(asked.steps), *changes]
            ran = subprocess.run(
                [sys.executable, __file__, name, *shared], stdout=subprocess.PIPE, text=True, check=False
            )
            found.setdefault((way, name), []).extend([json.loads(ran.stdout)] if ran.returncode == 0 else [])
    print("| ms a step | " + " | ".join(asked.experiments) + " |\n|:--" + "|--:" * len(asked.experiments) + "|")
    for way in asked.ways:
        print(f"| {WAYS[way]} | " + " | ".join(told(way, found[way, name]) for name in asked.experiments) + " |")


def told(way: str, found: list[dict[str, float]]) -> str:
    """The median of what was found; a dash where all that was tried failed."""
    if not found:
        return "–"
    first = f" (first {median(each['first'] for each in found):.0f} s)" if way.endswith("compiled") else ""
    return f"{median(each['ms'] for each in found):.0f}{first}"


if __name__ == "__main__":
    main()
