"""Seconds per training step, or per image of inference: the suite's way, and a plain script's. A process measures one of them.

Run: python benchmarks/steps.py EXPERIMENT ours|plain|ours-inference|plain-inference [--images N] [--epochs N] [--device D]
Prints JSON with the median over epochs after the first, and the losses, or the images' scores.

Plain is what a script does: the networks of networks/, floats in PyTorch's own memory layout from a DataLoader, the teacher
asked in each step, a loss and an optimiser stepped, the host's allocator as it is; maps smoothed one by one by SciPy. Both have
decoded images. Initial weights, batches, the optimiser's settings and MDD-Net's synthesis of defects are those of the suite.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
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
from mddbench.engine.device import synchronize
from mddbench.engine.evaluate import BATCH_SIZE
from mddbench.engine.train import Trainer, TrainingImages
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment, parse_override
from mddbench.nn.encoder import load_encoder
from mddbench.progress import SilentReporter
from mddbench.seeding import derived_seed, seed_everything
from networks import plain_twin

CATEGORIES = 8
PASSES = 5
"""Over all images, of inference."""
Found = list[tuple[float, Any]]
"""(seconds, loss or scores) of each epoch or pass."""


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


def ours(experiment: Experiment, images: np.ndarray, device: torch.device) -> Found:
    detector = built_our_way(experiment, device)
    data = TrainingImages(images, np.arange(len(images)) % CATEGORIES)
    with TemporaryDirectory() as folder:
        history = Trainer(detector, experiment, 0, Path(folder) / "c.pt").run(data, SilentReporter())
    return [(log.seconds, log.loss) for log in history]


def plain(experiment: Experiment, images: np.ndarray, device: torch.device) -> Found:
    network = plain_twin(experiment.method, build(experiment)).to(device).train()
    wanted = experiment.optimizer
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[wanted.name]
    learnt = [value for value in network.parameters() if value.requires_grad]
    optimizer = kind(learnt, lr=wanted.lr, betas=wanted.betas, weight_decay=wanted.weight_decay)
    data, found = TensorDataset(as_floats(images), torch.arange(len(images)) % CATEGORIES), []
    for epoch in range(experiment.epochs):
        synchronize(device)
        started = time.perf_counter()
        seed_everything(derived_seed(0, "epoch", epoch))
        order = np.random.default_rng(derived_seed(0, "order", epoch)).permutation(len(images))
        losses = []
        for batch, categories in DataLoader(data, experiment.batch_size, sampler=order.tolist(), drop_last=True):
            loss = network.loss(batch.to(device), categories.to(device))
            optimizer.zero_grad()
            loss.backward()
            if experiment.gradient_clip is not None:
                nn.utils.clip_grad_norm_(learnt, experiment.gradient_clip)
            optimizer.step()
            losses.append(loss.item())
        found.append((time.perf_counter() - started, float(np.mean(losses))))
    return found


def ours_inference(experiment: Experiment, images: np.ndarray, device: torch.device) -> Found:
    detector = built_our_way(experiment, device).eval()

    def scores(start: int) -> Tensor:
        return detector.image_scores(detector.anomaly_maps(as_images(images[start : start + BATCH_SIZE], device)))

    return passes(scores, len(images))


def plain_inference(experiment: Experiment, images: np.ndarray, device: torch.device) -> Found:
    network, floats = plain_twin(experiment.method, build(experiment)).to(device).eval(), as_floats(images)

    def scores(start: int) -> Tensor:
        return network.scores(network.maps(floats[start : start + BATCH_SIZE].to(device)))

    return passes(scores, len(images))


def passes(scores: Callable[[int], Tensor], images: int) -> Found:
    """Some passes over all images. scores: of the batch that starts there."""
    found = []
    for _ in range(PASSES):
        started = time.perf_counter()
        with torch.inference_mode():
            told = [score for start in range(0, images, BATCH_SIZE) for score in scores(start).tolist()]
        found.append((time.perf_counter() - started, told))
    return found


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
    asked = parser.parse_args()
    changes = {"epochs": asked.epochs, "schedule.name": "constant"} | dict(map(parse_override, asked.changes))
    experiment = load_experiment(asked.experiment, changes)
    if experiment.precision != "float32" or experiment.optimizer.name == "sgd" or asked.images % experiment.batch_size:
        parser.error("expected float32, Adam or AdamW, and images in whole batches: plain has nothing else")
    size = experiment.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (asked.images, size, size, 3), dtype=np.uint8)
    found = WAYS[asked.way](experiment, pixels, asked.device)
    seconds = median(seconds for seconds, _ in found[1:])
    if asked.way.endswith("inference"):
        print(json.dumps({"seconds": seconds / asked.images, "scores": found[-1][1]}))
    else:
        steps = asked.images // experiment.batch_size
        print(json.dumps({"seconds": seconds / steps, "losses": [loss for _, loss in found]}))


if __name__ == "__main__":
    main()
