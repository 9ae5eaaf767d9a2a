"""Seconds per training step, or per image of inference: the suite's way, and the same network used in the plain way. A process
measures one of them.

Run: python tests/bench/steps.py EXPERIMENT ours|plain|ours-inference|plain-inference [IMAGES EPOCHS]
Prints JSON with the median over epochs after the first, and the losses, or the images' scores.

Plain is what a script does: floats in PyTorch's own memory layout from a DataLoader, the teacher asked in each step, PyTorch's
own layers, a loss summed and an optimiser stepped, the host's allocator as it is; maps smoothed one by one by SciPy. Network,
initial weights, batches and optimiser are those of the suite.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mddbench.batch import Batch, as_images
from mddbench.catalogue import load_experiment
from mddbench.config import Experiment
from mddbench.detector import Detector, load_method, method_settings
from mddbench.evaluate import BATCH_SIZE
from mddbench.nn import tokens
from mddbench.nn.encoder import load_encoder
from mddbench.optimizer import make_optimizer
from mddbench.progress import SilentReporter
from mddbench.seeding import derived_seed, seed_everything
from mddbench.train import Trainer, TrainingImages

CATEGORIES = 8


def build(experiment: Experiment) -> Detector:
    """The experiment's model, always with the same weights."""
    seed_everything(0)
    method = load_method(experiment.method)
    encoder = load_encoder(experiment.encoder.name, experiment.encoder.levels, None)
    return method(encoder, method_settings(method, experiment.settings, "steps"), CATEGORIES)


def ours(experiment: Experiment, images: np.ndarray) -> list[tuple[float, float]]:
    """(seconds, loss) of each epoch."""
    from mddbench.allocator import keep_freed_memory

    keep_freed_memory()
    detector = build(experiment).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = TrainingImages(images, np.arange(len(images)) % CATEGORIES)
    with TemporaryDirectory() as folder:
        history = Trainer(detector, experiment, 0, Path(folder) / "c.pt").run(data, SilentReporter())
    return [(log.seconds, log.loss) for log in history]


def use_plain_parts() -> None:
    """From here on the suite's linear layers, dropout and attention are PyTorch's, and its smoothing is SciPy's."""

    def attend(
        self: tokens.MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor
    ) -> Tensor:
        asking = queries.expand(len(keys), -1, -1)
        read, _ = nn.MultiheadAttention.forward(self, asking, keys, values, attn_mask=hidden, need_weights=False)
        return read

    tokens.MultiheadAttention.forward = attend  # type: ignore[method-assign]
    tokens.linear = F.linear  # type: ignore[assignment]
    tokens.Dropout.forward = lambda self, values: F.dropout(values, self.probability, self.training)  # type: ignore[method-assign]

    def smooth(maps: Tensor, sigma: float) -> Tensor:
        return torch.from_numpy(np.stack([gaussian_filter(one, sigma) for one in maps.numpy()]))

    for module in list(sys.modules.values()):
        if module.__name__.startswith("mddbench.") and hasattr(module, "gaussian_smooth"):
            module.gaussian_smooth = smooth


def plain(experiment: Experiment, images: np.ndarray) -> list[tuple[float, float]]:
    """(seconds, loss) of each epoch."""
    detector = build(experiment).train()
    use_plain_parts()
    optimizer: Any = make_optimizer(detector, experiment.optimizer)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    found = []
    for epoch in range(experiment.epochs):
        started = time.perf_counter()
        seed_everything(derived_seed(0, "epoch", epoch))
        order = np.random.default_rng(derived_seed(0, "order", epoch)).permutation(len(images))
        chosen = TensorDataset(floats[order], torch.from_numpy(order % CATEGORIES))
        losses = []
        for batch, categories in DataLoader(chosen, experiment.batch_size, drop_last=True):
            loss: Any = sum(detector.training_step(Batch(batch, categories)).values())
            optimizer.zero_grad()
            loss.backward()
            if experiment.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(detector.parameters(), experiment.gradient_clip)
            optimizer.step()
            losses.append(loss.item())
        found.append((time.perf_counter() - started, float(np.mean(losses))))
    return found


def ours_inference(experiment: Experiment, images: np.ndarray) -> list[tuple[float, list[float]]]:
    """(seconds, scores) of each pass over all images."""
    from mddbench.allocator import keep_freed_memory

    keep_freed_memory()
    detector = build(experiment).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return inferred(detector, lambda start: as_images(images[start : start + BATCH_SIZE], torch.device("cpu")), images)


def plain_inference(experiment: Experiment, images: np.ndarray) -> list[tuple[float, list[float]]]:
    """(seconds, scores) of each pass over all images."""
    detector = build(experiment).eval()
    use_plain_parts()
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    return inferred(detector, lambda start: floats[start : start + BATCH_SIZE], images)


def inferred(detector: Detector, batch: Callable[[int], Tensor], images: np.ndarray) -> list[tuple[float, list[float]]]:
    """Some passes over all images."""
    found = []
    for _ in range(5):
        started, scores = time.perf_counter(), []
        for start in range(0, len(images), BATCH_SIZE):
            with torch.inference_mode():
                scores += detector.image_scores(detector.anomaly_maps(batch(start))).tolist()
        found.append((time.perf_counter() - started, scores))
    return found


def main() -> None:
    """Measure what the arguments name."""
    name, way, images, epochs = sys.argv[1], sys.argv[2], *(int(text) for text in (*sys.argv[3:5], "64", "4")[:2])
    experiment = load_experiment(name, {"epochs": epochs, "schedule.name": "constant"})
    pixels = np.random.default_rng(0).integers(0, 256, (images, *[experiment.image_size] * 2, 3), dtype=np.uint8)
    if way.endswith("inference"):
        passes = {"ours-inference": ours_inference, "plain-inference": plain_inference}[way](experiment, pixels)
        seconds = median(seconds for seconds, _ in passes[1:]) / images
        print(json.dumps({"seconds": seconds, "scores": passes[-1][1]}))
        return
    epochs_of = {"ours": ours, "plain": plain}[way](experiment, pixels)
    steps = images // experiment.batch_size
    seconds = median(seconds for seconds, _ in epochs_of[1:]) / steps
    print(json.dumps({"seconds": seconds, "losses": [loss for _, loss in epochs_of]}))


if __name__ == "__main__":
    main()
