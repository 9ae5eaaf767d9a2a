"""How long one image takes, as a production line sees it, and the throughput at the best batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.batch import as_images
from mddbench.data.dataset import Split
from mddbench.data.images import decode_image
from mddbench.detector import Detector
from mddbench.engine.device import autocast, synchronize
from mddbench.engine.memory import bytes_of_batch, demand_memory
from mddbench.errors import InputError

WARM_UP, CALLS = 10, 100
"""Number of calls before the timed ones, and of timed calls."""
FEWEST_CALLS = 20
"""The fewest calls of which a 95 % quantile is given."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""The batches that are tried for the throughput."""
BATCH_CALLS = 5
"""Number of timed calls with each of them."""
MOST_SECONDS = 60.0
"""No further call is started after this time in one measurement."""
KEYS = (
    "latency_ms",
    "latency_p95_ms",
    "latency_decoded_ms",
    "latency_decoded_p95_ms",
    "throughput_images_per_second",
    "throughput_batch",
)
Work = Callable[[int], object]


def latency(detector: Detector, split: Split, precision: str) -> dict[str, float | None]:
    """Measure the latency of single images and the throughput of batches.

    A call begins with an image on the host and ends with its score on the host. With decoding it begins with the file,
    which the system has in its cache. Calls are synchronised.

    Args:
        detector: The trained model. It is set to evaluation mode.
        split: Images of the dataset, which are used in turn.
        precision: 'float32', 'bfloat16' or 'float16'.

    Returns:
        Key of KEYS -> milliseconds, images per second or images. A quantile of too few calls is None.
    """
    detector.eval()
    files, size = [sample.image for sample in split.samples[:CALLS]], split.image_size
    for file in files:
        file.read_bytes()

    def score(pixels: NDArray[np.uint8]) -> object:
        with torch.inference_mode(), autocast(device, precision):
            return detector.maps_and_scores(as_images(pixels, device))[1].cpu()

    device = next(detector.parameters()).device
    plain = _seconds(lambda call: score(split.images[call % len(files)][None]), CALLS, device)
    decoded = _seconds(lambda call: score(decode_image(files[call % len(files)], size)[0][None]), CALLS, device)
    rates = _throughputs(score, detector, split)
    best = max(rates, key=lambda batch: rates[batch])
    values = (*_median_and_p95(plain), *_median_and_p95(decoded), rates[best], float(best))
    return dict(zip(KEYS, values, strict=True))


def _seconds(work: Work, calls: int, device: torch.device, warm_up: int = WARM_UP) -> list[float]:
    """Time synchronised calls of some work, which gets the number of the call.

    Args:
        work: The work.
        calls: Number of timed calls. There are fewer if they take too long, but at least one.
        device: Device of the model.
        warm_up: Number of calls before the timed ones.

    Returns:
        Seconds of each timed call.
    """
    started, seconds = time.perf_counter(), list[float]()
    for call in range(warm_up + calls):
        late = time.perf_counter() - started > MOST_SECONDS
        if late and seconds:
            break
        synchronize(device)
        before = time.perf_counter()
        work(call)
        synchronize(device)
        if call >= warm_up or late:
            seconds.append(time.perf_counter() - before)
    return seconds


def _throughputs(score: Callable[[NDArray[np.uint8]], object], detector: Detector, split: Split) -> dict[int, float]:
    """Measure images per second with each batch of BATCHES that memory and time allow; that of 1 always."""
    device, size = next(detector.parameters()).device, split.image_size
    started, rates = time.perf_counter(), dict[int, float]()
    for batch in BATCHES:
        try:
            demand_memory(bytes_of_batch(detector.encoder, batch, size), device, "throughput", f"a batch of {batch}")
        except InputError:
            break
        pixels = np.stack(list(islice(cycle(split.images[: min(batch, len(split))]), batch)))
        seconds = _seconds(lambda _, pixels=pixels: score(pixels), BATCH_CALLS, device, warm_up=1)  # type: ignore[misc]
        rates[batch] = batch / median(seconds)
        if time.perf_counter() - started > MOST_SECONDS:
            break
    return rates


def _median_and_p95(seconds: Sequence[float]) -> tuple[float, float | None]:
    """Return the median and the 95 % quantile in milliseconds: the smallest time that 95 % of the calls do not exceed."""
    ordered = sorted(seconds)
    p95 = ordered[-(-95 * len(ordered) // 100) - 1] if len(ordered) >= FEWEST_CALLS else None
    return 1e3 * median(ordered), None if p95 is None else 1e3 * p95
