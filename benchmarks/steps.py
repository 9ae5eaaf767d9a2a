"""Seconds and memory of a training step, of a single pass, or of inference: the suite's way, and a plain script's.

Run: python benchmarks/steps.py EXPERIMENT ours|plain|ours-inference|plain-inference [--images N] [--epochs N] [--device D]
[--set K=V] [--process-time]
Prints JSON: the median seconds of a step, or of an image in a pass or in inference, from the second epoch or pass on; the
peak of the memory in MiB; and the losses, or the images' scores. A process measures one of them. A single pass includes what
is built at its end. Memory is the greatest resident set, less what it was with the model and the images in it; on a GPU, that
of tensors. With --process-time, seconds are those of the processor. With one thread, other processes then disturb less.

Plain is what a script does: the networks of networks/, floats in PyTorch's own memory layout from a DataLoader, the teacher
asked in each step, a loss and an optimiser stepped, the host's allocator as it is; maps smoothed one by one by SciPy. Both have
decoded images. Initial weights, batches, the optimiser's groups and settings, drawn defects and noise are those of the suite.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from models import CATEGORIES, build, built_our_way, noise
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mddbench.batch import as_images
from mddbench.detector import Detector, load_method
from mddbench.engine.batches import TrainingImages
from mddbench.engine.cost import peak_memory, start_memory
from mddbench.engine.device import autocast, synchronize
from mddbench.engine.inference import BATCH_SIZE
from mddbench.engine.stable_adamw import StableAdamW
from mddbench.engine.train import Conditions, Trainer
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment, parse_override
from mddbench.machine import keep_freed_memory
from mddbench.progress import SilentReporter
from mddbench.seeding import derived_seed, seed_everything
from networks import Plain, plain_twin

PASSES = 5
"""Over all images, of inference."""
LEARNING_PASSES = 3
"""Over all images, of a method that learns in one."""
Found = list[tuple[float, Any]]
"""(seconds, loss or scores) of each epoch or pass."""
Measure = Callable[[], Found]


@dataclass(frozen=True)
class Setting:
    """What is measured: images (N, S, S, 3) uint8; random_weights: of the encoder; conditions: of our training."""

    experiment: Experiment
    images: np.ndarray
    device: torch.device
    random_weights: bool = False
    conditions: Conditions = field(default_factory=Conditions)

    def ours(self) -> Detector:
        """The model as a run has it."""
        keep_freed_memory()
        return built_our_way(self.experiment, self.device, self.random_weights)

    def plain(self) -> tuple[Detector, Plain]:
        """The detector, and its plain network on the device."""
        detector = build(self.experiment, self.random_weights)
        return detector, plain_twin(self.experiment.method, detector).to(self.device)


def ours(setting: Setting) -> Measure:
    return partial(learnt_our_way, setting.ours(), setting)


def learnt_our_way(detector: Detector, setting: Setting, passes: int = LEARNING_PASSES) -> Found:
    images, found = setting.images, []
    data = TrainingImages(images, np.arange(len(images)) % CATEGORIES)
    with TemporaryDirectory() as folder:
        for _ in range(passes if detector.single_pass else 1):
            started = time.perf_counter()
            seed_everything(0)
            trainer = Trainer(detector, setting.experiment, 0, Path(folder) / "c.pt", setting.conditions)
            history = trainer.run(data, SilentReporter())
            synchronize(setting.device)
            found.append((time.perf_counter() - started, None))
    return found if detector.single_pass else [(log.seconds, log.loss) for log in history]


def plain(setting: Setting) -> Measure:
    detector, network = setting.plain()
    data = as_data(setting.images)
    if detector.single_pass:
        return partial(collected_plainly, network, setting, data)
    return partial(trained_plainly, network, plain_optimizer(setting.experiment, detector, network), setting, data)


def as_data(images: np.ndarray) -> TensorDataset:
    return TensorDataset(as_floats(images), torch.arange(len(images)) % CATEGORIES)


def plain_optimizer(experiment: Experiment, detector: Detector, network: Plain) -> torch.optim.Optimizer:
    """PyTorch's optimiser with the groups of the detector, each with the rate and the weight decay that it has there."""
    wanted = experiment.optimizer
    own, twins = ([value for value in each.parameters() if value.requires_grad] for each in (detector, network))
    twin_of = dict(zip(map(id, own), twins, strict=True))
    groups = [
        group | {"params": [twin_of[id(value)] for value in group["params"]]}
        for group in detector.parameter_groups(wanted.lr)
    ]
    if wanted.name == "sgd":
        return torch.optim.SGD(groups, lr=wanted.lr, momentum=wanted.momentum, weight_decay=wanted.weight_decay)
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "stableadamw": StableAdamW}[wanted.name]
    options = {"betas": wanted.betas, "eps": wanted.eps, "amsgrad": wanted.amsgrad}
    return kind(groups, lr=wanted.lr, weight_decay=wanted.weight_decay, **options)


def trained_plainly(network: Plain, optimizer: torch.optim.Optimizer, setting: Setting, data: TensorDataset) -> Found:
    experiment, device = setting.experiment, setting.device
    learnt = [value for group in optimizer.param_groups for value in group["params"]]
    steps, found = len(data) // experiment.batch_size, []
    network.train()
    for epoch in range(experiment.epochs):
        synchronize(device)
        started = time.perf_counter()
        seed_everything(derived_seed(0, "epoch", epoch))
        order = np.random.default_rng(derived_seed(0, "order", epoch)).permutation(len(data))
        loader = DataLoader(data, experiment.batch_size, sampler=order.tolist(), drop_last=True)
        losses = []
        for step, (batch, categories) in enumerate(loader):
            progress = (epoch * steps + step) / (experiment.epochs * steps)
            loss = network.loss(batch.to(device), categories.to(device), progress)
            optimizer.zero_grad()
            loss.backward()
            if experiment.gradient_clip is not None:
                nn.utils.clip_grad_norm_(learnt, experiment.gradient_clip)
            optimizer.step()
            losses.append(loss.item())
        found.append((time.perf_counter() - started, float(np.mean(losses))))
    return found


def collected_plainly(network: Plain, setting: Setting, data: TensorDataset, passes: int = LEARNING_PASSES) -> Found:
    experiment, device, found = setting.experiment, setting.device, []
    for _ in range(passes):
        started = time.perf_counter()
        seed_everything(derived_seed(0, "epoch", 0))
        order = np.random.default_rng(derived_seed(0, "order", 0)).permutation(len(data))
        network.train()
        with torch.no_grad():
            for batch, _categories in DataLoader(data, experiment.batch_size, sampler=order.tolist()):
                network.collect(batch.to(device))
            network.finish()
        synchronize(device)
        found.append((time.perf_counter() - started, None))
    return found


def ours_inference(setting: Setting) -> Measure:
    detector, images = setting.ours(), setting.images
    if detector.single_pass:
        learnt_our_way(detector, setting, passes=1)
    detector.eval()

    def scores(start: int) -> Tensor:
        pixels = as_images(images[start : start + BATCH_SIZE], setting.device)
        return detector.image_scores(detector.anomaly_maps(pixels))

    return partial(passes, scores, len(images))


def plain_inference(setting: Setting) -> Measure:
    detector, network = setting.plain()
    floats = as_floats(setting.images)
    if detector.single_pass:
        collected_plainly(network, setting, as_data(setting.images), passes=1)
    network.eval()

    def scores(start: int) -> Tensor:
        return network.scores(network.maps(floats[start : start + BATCH_SIZE].to(setting.device)))

    return partial(passes, scores, len(floats))


def passes(scores: Callable[[int], Tensor], images: int) -> Found:
    """Some passes over all images. scores: of the batch that starts there."""
    found = []
    for _ in range(PASSES):
        started = time.perf_counter()
        with torch.inference_mode():
            told = [score for start in range(0, images, BATCH_SIZE) for score in scores(start).tolist()]
        found.append((time.perf_counter() - started, told))
    return found


def measured(setting: Setting, way: str) -> dict[str, Any]:
    """The median seconds of a step, or of an image in a pass or in inference, from the second epoch or pass on; the MiB of
    memory; and losses or scores.
    """
    experiment, images = setting.experiment, len(setting.images)
    with autocast(setting.device, experiment.precision):
        found, mib = with_memory(WAYS[way](setting), setting.device)
    told: dict[str, Any] = {"mib": mib, "seconds": median(seconds for seconds, _ in found[1:])}
    if way.endswith("inference"):
        return told | {"seconds": told["seconds"] / images, "scores": found[-1][1]}
    if load_method(experiment.method).single_pass:
        return told | {"seconds": told["seconds"] / images, "losses": []}
    return told | {
        "seconds": told["seconds"] / (images // experiment.batch_size),
        "losses": [loss for _, loss in found],
    }


def with_memory(measure: Measure, device: torch.device) -> tuple[Found, float]:
    """What was found, and the MiB that it took beside what the process had before: on a GPU, of its tensors."""
    which = "peak_device_mib" if device.type == "cuda" else "peak_host_mib"
    start_memory(device)
    before = peak_memory(device)[which] or 0.0
    found = measure()
    return found, (peak_memory(device)[which] or 0.0) - before


def as_floats(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255


WAYS = {"ours": ours, "plain": plain, "ours-inference": ours_inference, "plain-inference": plain_inference}


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--process-time", action="store_true")
    asked = parser.parse_args()
    if asked.process_time:
        time.perf_counter = time.process_time  # the suite's own times, too
    changes = dict(map(parse_override, asked.changes))
    experiment = load_experiment(asked.experiment, changes)
    single = load_method(experiment.method).single_pass
    if not single:
        experiment = load_experiment(asked.experiment, {"epochs": asked.epochs, "schedule.name": "constant"} | changes)
    if asked.images % experiment.batch_size:
        parser.error("expected images in whole batches: plain has nothing else")
    setting = Setting(experiment, noise(experiment, asked.images).images, asked.device)
    print(json.dumps(measured(setting, asked.way)))


if __name__ == "__main__":
    main()
