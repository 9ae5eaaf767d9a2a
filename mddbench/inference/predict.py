"""Predictions for new images: they are decoded in threads, scored in batches and returned one by one.

Only a few batches are in memory at a time, however many images there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.data.images import decode_image
from mddbench.data.parallel import in_batches
from mddbench.engine.inference import BATCH_SIZE
from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel
from mddbench.inference.sources import Source
from mddbench.sizes import ImageSize, pixel_count

ROOM = 2**27
"""The most bytes of decoded images that wait to be scored."""
DEFECTIVE, NORMAL = "NG", "OK"


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Attributes:
        source: The image.
        score: Image score, higher is more anomalous; NaN if the image could not be read.
        map: (H, W) anomaly map at the size of the model; None if the image could not be read.
        threshold: Images above it are defective; None if there is no threshold.
        category: Category of the image, if it was told.
        fault: Why the image could not be read or scored; '' otherwise.
    """

    source: Source
    score: float
    map: NDArray[np.floating] | None
    threshold: float | None = None
    category: str | None = None
    fault: str = ""

    @property
    def verdict(self) -> str:
        """'NG' if the score is above the threshold, 'OK' if not, '' without a threshold or a score."""
        if self.threshold is None or self.fault:
            return ""
        return DEFECTIVE if self.score > self.threshold else NORMAL

    def row(self) -> dict[str, Any]:
        """Return the prediction as JSON values, without the map."""
        return {
            "image": str(self.source.path),
            "name": str(self.source.name),
            "score": None if math.isnan(self.score) else self.score,
            "threshold": self.threshold,
            "verdict": self.verdict,
            "category": self.category or "",
            "fault": self.fault,
        }


def predict(
    model: FinishedModel,
    sources: Iterable[Source],
    category: str | None = None,
    threshold: float | None = None,
    patience: float | None = None,
) -> Iterator[Prediction]:
    """Score images from files.

    An image that cannot be read costs only itself. An InputError is raised if the category does not suit the model.

    Args:
        model: The model.
        sources: The images.
        category: Category of the images; None if it is not known.
        threshold: Images with a higher score are defective; None for no verdict.
        patience: The longest that an image waits for others, in seconds, before it is scored without them. This is for
            images that come slowly. None to fill each batch, so that the same images give the same bits.

    Yields:
        The prediction for each image, in their order.
    """
    index, size = model.choose(category), model.image_size
    room = ROOM // (3 * pixel_count(size))
    for batch in in_batches(lambda source: (source, *_decoded(source, size)), sources, BATCH_SIZE, room, patience):
        pixels = [pixels for _, pixels, _ in batch if pixels is not None]
        maps, scores = model.score(np.stack(pixels), index) if pixels else (np.empty(0), np.empty(0))
        results = iter(zip(maps, scores, strict=True))
        for source, readable, fault in batch:
            if readable is None:
                yield Prediction(source, math.nan, None, threshold, category, fault)
                continue
            values, score = next(results)
            if np.isnan(values).any() or math.isnan(score):
                broken = f"{source.path}: its anomaly map or score holds NaN"
                yield Prediction(source, math.nan, None, threshold, category, broken)
                continue
            yield Prediction(source, float(score), values, threshold, category)


def _decoded(source: Source, size: ImageSize) -> tuple[NDArray[np.uint8] | None, str]:
    """Return the pixels and '', or None and why the file cannot be read."""
    try:
        return decode_image(source.path, size)[0], ""
    except InputError as fault:
        return None, str(fault)
