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
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mddbench.batch import as_images
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.cost import peak_memory, start_memory
from mddbench.engine.device import synchronize
from mddbench.engine.evaluate import BATCH_SIZE
from mddbench.engine.train import Trainer, TrainingImages
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment, parse_override
from mddbench.nn.encoder import load_encoder
from mddbench.progress import SilentReporter
from mddbench.seeding import derived_seed, seed_everything
from networks import Plain, plain_twin

CATEGORIES = 8
PASSES = 5
"""Over all images, of inference."""
LEARNING_PASSES = 3
"""Over all images, of a method that learns in one."""
Found = list[tuple[float, Any]]
"""(seconds, loss or scores) of each epoch or pass."""
Measure = Callable[[], Found]


def build(experiment: Experiment) -> Detector:
    """The experiment's model, always with the same weights."""
    seed_everything(0)
    method = load_method(experiment.method)
    encoder = load_encoder(experiment.encoder.name, experiment.encoder.levels, None)
    return method(encoder, method_settings(method, experiment.settings, "steps"), CATEGORIES)


def built_our_way(experiment: Experiment, device: torch.device) -> Detector:
    from mddbench.machine import keep_freed_memory

    keep_freed_memory()
    return build(experiment).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def ours(experiment: Experiment, images: np.ndarray, device: torch.device) -> Measure:
    detector = built_our_way(experiment, device)
    return partial(learnt_our_way, detector, experiment, images)


def learnt_our_way(
    detector: Detector, experiment: Experiment, images: np.ndarray, passes: int = LEARNING_PASSES
) -> Found:
    data, found = TrainingImages(images, np.arange(len(images)) % CATEGORIES), []
    with TemporaryDirectory() as folder:
        for _ in range(passes if detector.single_pass else 1):
            started = time.perf_counter()
            seed_everything(0)
            history = Trainer(detector, experiment, 0, Path(folder) / "c.pt").run(data, SilentReporter())
            synchronize(next(detector.parameters()).device)
            found.append((time.perf_counter() - started, None))
    return found if detector.single_pass else [(log.seconds, log.loss) for log in history]


def plain(experiment: Experiment, images: np.ndarray, device: torch.device) -> Measure:
    detector = build(experiment)
    network, data = plain_twin(experiment.method, detector).to(device), as_data(images)
    if detector.single_pass:
        return partial(collected_plainly, network, experiment, data, device)
    return partial(trained_plainly, network, plain_optimizer(experiment, detector, network), experiment, data, device)


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
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[wanted.name]
    options = {"betas": wanted.betas, "eps": wanted.eps, "amsgrad": wanted.amsgrad}
    return kind(groups, lr=wanted.lr, weight_decay=wanted.weight_decay, **options)


def trained_plainly(
    network: Plain, optimizer: torch.optim.Optimizer, experiment: Experiment, data: TensorDataset, device: torch.device
) -> Found:
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


def collected_plainly(
    network: Plain, experiment: Experiment, data: TensorDataset, device: torch.device, passes: int = LEARNING_PASSES
) -> Found:
    found = []
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


def ours_inference(experiment: Experiment, images: np.ndarray, device: torch.device) -> Measure:
    detector = built_our_way(experiment, device)
    if detector.single_pass:
        learnt_our_way(detector, experiment, images, passes=1)
    detector.eval()

    def scores(start: int) -> Tensor:
        return detector.image_scores(detector.anomaly_maps(as_images(images[start : start + BATCH_SIZE], device)))

    return partial(passes, scores, len(images))


def plain_inference(experiment: Experiment, images: np.ndarray, device: torch.device) -> Measure:
    detector = build(experiment)
    network, floats = plain_twin(experiment.method, detector).to(device), as_floats(images)
    if detector.single_pass:
        collected_plainly(network, experiment, as_data(images), device, passes=1)
    network.eval()

    def scores(start: int) -> Tensor:
        return network.scores(network.maps(floats[start : start + BATCH_SIZE].to(device)))

    return partial(passes, scores, len(images))


def passes(scores: Callable[[int], Tensor], images: int) -> Found:
    """Some passes over all images. scores: of the batch that starts there."""
    found = []
    for _ in range(PASSES):
        started = time.perf_counter()
        with torch.inference_mode():
            told = [score for start in range(0, images, BATCH_SIZE) for score in scores(start).tolist()]
        found.append((time.perf_counter() - started, told))
    return found


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
    if experiment.precision != "float32" or asked.images % experiment.batch_size:
        parser.error("expected float32, and images in whole batches: plain has nothing else")
    size = experiment.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (asked.images, size, size, 3), dtype=np.uint8)
    found, mib = with_memory(WAYS[asked.way](experiment, pixels, asked.device), asked.device)
    seconds = median(seconds for seconds, _ in found[1:])
    told: dict[str, Any] = {"mib": mib}
    if asked.way.endswith("inference"):
        told |= {"seconds": seconds / asked.images, "scores": found[-1][1]}
    elif single:
        told |= {"seconds": seconds / asked.images, "losses": []}
    else:
        steps = asked.images // experiment.batch_size
        told |= {"seconds": seconds / steps, "losses": [loss for _, loss in found]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
