"""What a method costs, measured in one way for all: size, multiply-adds, inference time, peak memory."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mddbench.batch import as_images
from mddbench.detector import Detector
from mddbench.engine.device import autocast, synchronize
from mddbench.engine.evaluate import BATCH_SIZE
from mddbench.machine import give_back_freed_memory
from mddbench.runs.records import EpochLog

TIMED_CALLS, MOST_SECONDS = 7, 20.0
TIMES = ("train_seconds", "train_images_per_second", "metric_seconds", "inference_ms_per_image")
"""The costs that are true only of a cell that has its device to itself."""
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def size_and_speed(detector: Detector, image_size: int, precision: str) -> dict[str, float | None]:
    """Parameters, multiply-adds of the maps of one image, and milliseconds an image of maps and scores in a full batch: the
    median of a few synchronised calls after one that warms up. The images are noise, which costs the same.
    """
    parameters = list(detector.parameters())
    detector.eval()
    return {
        "parameters_total": float(sum(value.numel() for value in parameters)),
        "parameters_trainable": float(sum(value.numel() for value in parameters if value.requires_grad)),
        "multiply_adds": multiply_adds(detector, image_size),
        "inference_ms_per_image": 1e3 * inference_seconds(detector, image_size, precision),
        "inference_batch": float(BATCH_SIZE),
    }


def multiply_adds(detector: Detector, image_size: int) -> float:
    """Of one image's maps: convolutions, matrix products and attention, as PyTorch counts them; nothing else counts."""
    counter = FlopCounterMode(display=False)
    with counter:  # with gradients: the counter cannot follow modules without
        detector.anomaly_maps(_noise(1, image_size, detector))
    return counter.get_total_flops() / 2


def inference_seconds(detector: Detector, image_size: int, precision: str = "float32") -> float:
    """Seconds an image of maps and scores, in a batch of BATCH_SIZE."""
    device = next(detector.parameters()).device
    images = _noise(BATCH_SIZE, image_size, detector)

    def call() -> float:
        synchronize(device)
        started = time.perf_counter()
        with torch.inference_mode(), autocast(device, precision):
            detector.image_scores(detector.anomaly_maps(images).float())
        synchronize(device)
        return time.perf_counter() - started

    return median_seconds(call) / len(images)


def median_seconds(timed: Callable[[], float]) -> float:
    """The median of a few calls after a first one, or as many of them as fit into a time; of slow calls the first counts."""
    started, first = time.perf_counter(), timed()
    times: list[float] = []
    while len(times) < TIMED_CALLS and time.perf_counter() - started < MOST_SECONDS:
        times.append(timed())
    return median(times or [first])


def training_speed(history: Sequence[EpochLog]) -> dict[str, float | None]:
    """Seconds of the training, and images a second after its first epoch, which warms up, where there are several. None if an
    epoch has no time.
    """
    seconds = [log.seconds for log in history if log.seconds is not None]
    if len(seconds) < len(history):
        return {"train_seconds": None, "train_images_per_second": None}
    images, counted = sum(log.images for log in history[1:] or history), sum(seconds[1:] or seconds)
    return {
        "train_seconds": sum(seconds) if seconds else None,
        "train_images_per_second": images / counted if counted else None,
    }


def start_memory(device: torch.device) -> None:
    """From here on peak memory is counted anew, where the system can: on Linux, and on a GPU."""
    gc.collect()
    give_back_freed_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if _CLEAR.exists():
        try:
            _CLEAR.write_text("5", encoding="ascii")
        except OSError:
            return


def peak_memory(device: torch.device) -> dict[str, float | None]:
    """Since `start_memory`: the highest memory of this process, and of tensors on a GPU. Where the system does not count anew,
    the process's since its start.
    """
    peaks: dict[str, float | None] = {"peak_host_mib": _host_peak()}
    if device.type == "cuda":
        peaks["peak_device_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peaks


def _host_peak() -> float:
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _noise(images: int, size: int, detector: Detector) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    return as_images(pixels, next(detector.parameters()).device)
