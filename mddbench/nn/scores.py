"""Image scores from anomaly maps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.settings import OddCount, Positive, Strict


class WindowScoreSettings(Strict):
    """The settings of maps that are smoothed in a window, and of image scores that are means of their highest pixels.

    Dinomaly, INP-Former and ReContrast extend them.
    """

    window: OddCount = Field(default=5, description="The side of the smoothing window in pixels. 1: no smoothing.")
    sigma: Positive = Field(default=4.0, description="The standard deviation of the Gaussian in the window, in pixels.")
    highest: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.01, description="The share of a map's pixels, the highest ones, whose mean is the image's score."
    )


def mean_of_highest(maps: Tensor, share: float) -> Tensor:
    """Average the highest pixels of each map.

    Args:
        maps: (B, H, W).
        share: The share of the pixels that count, in (0, 1]; at least one pixel counts.

    Returns:
        (B,).
    """
    pixels = maps.flatten(1)
    return pixels.topk(max(1, int(pixels.shape[1] * share)), dim=1).values.mean(dim=1)


def pooled_maximum(maps: Tensor, side: int) -> Tensor:
    """Take the maximum of each map after averaging it over windows of `side` x `side` pixels.

    Args:
        maps: (B, H, W). Maps that are smaller than the window are averaged as a whole.
        side: The side of the window in pixels.

    Returns:
        (B,).
    """
    window = (min(side, maps.shape[-2]), min(side, maps.shape[-1]))
    return F.avg_pool2d(maps[:, None], window, 1).flatten(1).amax(dim=1)


def describe_highest(share: float) -> str:
    """Describe `mean_of_highest` for a protocol card."""
    return f"mean of the highest {100 * share:g} % of the map"


def describe_pooled(side: int) -> str:
    """Describe `pooled_maximum` for a protocol card."""
    return f"max of the map averaged over {side}x{side}"
