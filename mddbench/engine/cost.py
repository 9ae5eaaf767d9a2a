"""The cost of a method, measured in the same way for all: size, multiply-adds, inference time and peak memory."""

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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mddbench.batch import Batch, as_images
from mddbench.detector import Detector
from mddbench.engine.device import autocast, synchronize
from mddbench.engine.energy import JOULES_PER_KWH, EnergyCounter, joules_of
from mddbench.engine.inference import BATCH_SIZE
from mddbench.engine.latency import KEYS as LATENCIES
from mddbench.engine.step import TrainingStep
from mddbench.machine import give_back_freed_memory
from mddbench.runs.records import EpochLog
from mddbench.sizes import ImageSize, height_and_width

TIMED_CALLS, MOST_SECONDS = 7, 20.0
ENERGIES = ("train_kwh", "inference_joules_per_image")
"""The costs that only a GPU with a counter of its energy has."""
TIMES = (
    *("train_seconds", "train_images_per_second", "metric_seconds", "inference_ms_per_image"),
    *LATENCIES,
    *ENERGIES,
)
"""The costs that are only valid if no other cell ran on the device at the same time."""
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def size_and_speed(detector: Detector, image_size: ImageSize, precision: str) -> dict[str, float | None]:
    """Measure the size of a model and the speed of its inference.

    The images are noise, which costs the same as real images.

    Args:
        detector: The model. It is set to evaluation mode.
        image_size: The size of the images.
        precision: 'float32', 'bfloat16' or 'float16'.

    Returns:
        Name -> value. There are the numbers of all parameters and of the trainable ones, and the size of all that
        the model keeps, buffers too, in MiB. There are also the multiply-adds and the milliseconds of inference for
        one image, and the batch size.
    """
    parameters = list(detector.parameters())
    kept = [*parameters, *detector.buffers()]
    detector.eval()
    return {
        "parameters_total": float(sum(value.numel() for value in parameters)),
        "parameters_trainable": float(sum(value.numel() for value in parameters if value.requires_grad)),
        "model_mib": sum(value.numel() * value.element_size() for value in kept) / 2**20,
        "multiply_adds": multiply_adds(detector, image_size),
        "inference_ms_per_image": 1e3 * inference_seconds(detector, image_size, precision),
        "inference_batch": float(BATCH_SIZE),
    }


def multiply_adds(detector: Detector, image_size: ImageSize) -> float:
    """Count the multiply-adds for the map of one image.

    Only convolutions, matrix products and attention count, in the way PyTorch counts them.

    Args:
        detector: The model.
        image_size: The size of the image.

    Returns:
        The number of multiply-adds.
    """
    counter = FlopCounterMode(display=False)
    # Attention as plain products, because earlier counters do not know the CPU's kernel for it; the count is the same.
    # With gradients, because the counter cannot follow modules without them.
    with counter, sdpa_kernel(SDPBackend.MATH):
        detector.anomaly_maps(_noise(1, image_size, detector))
    return counter.get_total_flops() / 2


def inference_seconds(detector: Detector, image_size: ImageSize, precision: str = "float32") -> float:
    """Measure the inference time of one image, with maps and scores, in a batch of BATCH_SIZE images.

    Args:
        detector: The model, in evaluation mode.
        image_size: The size of the images.
        precision: 'float32', 'bfloat16' or 'float16'.

    Returns:
        Seconds for one image: the median of several synchronised calls, see `median_seconds`.
    """
    work = _inference(detector, image_size, precision)

    def call() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return median_seconds(call) / BATCH_SIZE


def energy(
    detector: Detector,
    image_size: ImageSize,
    precision: str,
    history: Sequence[EpochLog],
    counter: EnergyCounter | None,
) -> dict[str, float | None]:
    """Measure the energy of a training and of the inference for one image, in batches of BATCH_SIZE.

    Args:
        detector: The model, in evaluation mode.
        image_size: The size of the images.
        precision: 'float32', 'bfloat16' or 'float16'.
        history: One entry for each epoch.
        counter: The counter of the device; None if it has none.

    Returns:
        Kilowatt-hours and joules; None where another process used the GPU. Empty without a counter.
    """
    if counter is None:
        return {}
    joules = joules_of(_inference(detector, image_size, precision), counter)
    epochs = [log.joules for log in history]
    return {
        "train_kwh": None if not epochs or None in epochs else sum(filter(None, epochs)) / JOULES_PER_KWH,
        "inference_joules_per_image": None if joules is None else joules / BATCH_SIZE,
    }


def step_seconds(step: TrainingStep, batch: Batch, steps: int = 1) -> float:
    """Measure the time of training steps. It changes the weights, so it is for estimates only.

    Args:
        step: The training step of a model.
        batch: The batch of every step.
        steps: Number of steps.

    Returns:
        Seconds per step.
    """
    step.detector.train()
    synchronize(step.device)
    started = time.perf_counter()
    for _ in range(steps):
        step(batch)
    synchronize(step.device)
    return (time.perf_counter() - started) / steps


def median_seconds(timed: Callable[[], float]) -> float:
    """Compute the median time of several calls, see `seconds_of_calls`.

    Args:
        timed: Function that does the work once and returns the seconds it took.

    Returns:
        The median in seconds.
    """
    return median(seconds_of_calls(timed))


def seconds_of_calls(timed: Callable[[], float]) -> list[float]:
    """Time TIMED_CALLS calls, after one call that warms up.

    No further call is started after MOST_SECONDS. If the first call alone takes so long, its time is the result.

    Args:
        timed: Function that does the work once and returns the seconds it took.

    Returns:
        Seconds of each call.
    """
    started, first = time.perf_counter(), timed()
    times: list[float] = []
    while len(times) < TIMED_CALLS and time.perf_counter() - started < MOST_SECONDS:
        times.append(timed())
    return times or [first]


def training_speed(history: Sequence[EpochLog]) -> dict[str, float | None]:
    """Compute the time of a training and its speed.

    The first epoch warms up. It does not count for the speed if there are several epochs.

    Args:
        history: One entry for each epoch.

    Returns:
        Seconds of the training and images per second. Both are None if an epoch has no time.
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
    """Reset the measurement of peak memory. This works on Linux and on a GPU, and has no effect elsewhere.

    Args:
        device: Device of the model.
    """
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
    """Read the peak memory since `start_memory`.

    On a system that cannot reset the measurement, the memory of the process counts since its start.

    Args:
        device: Device of the model.

    Returns:
        Peak memory of this process in MiB, and on a GPU also that of its tensors.
    """
    peaks: dict[str, float | None] = {"peak_host_mib": _host_peak()}
    if device.type == "cuda":
        peaks["peak_device_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peaks


def _host_peak() -> float:
    """Return the peak memory of this process in MiB."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _noise(images: int, size: ImageSize, detector: Detector) -> torch.Tensor:
    """Return images of noise on the detector's device, always the same ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, *height_and_width(size), 3), dtype=np.uint8)
    return as_images(pixels, next(detector.parameters()).device)


def _inference(detector: Detector, image_size: ImageSize, precision: str) -> Callable[[], None]:
    """Return a function that computes maps and scores of a batch and waits for them."""
    device = next(detector.parameters()).device
    images = _noise(BATCH_SIZE, image_size, detector)

    def work() -> None:
        synchronize(device)
        with torch.inference_mode(), autocast(device, precision):
            detector.maps_and_scores(images)
        synchronize(device)

    return work
