"""Turns features into anomaly maps and image scores.

The settings say which pairs of features are compared, at which levels, and how the results are combined.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.methods.mddnet.losses import Levels
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.settings import Count, Extended, Pixels

BANK = "bank"
"""The signal of the bank of normal patches."""
LEAST = 1e-6
"""Distances count as at least this large where they are multiplied."""


class ScoringSettings(Extended):
    """The settings of anomaly maps and image scores."""

    added: ClassVar[tuple[str, ...]] = ("calibrated",)
    signals: Annotated[tuple[Literal["teacher", "decoders", "bank"], ...], Field(min_length=1)] = Field(
        default=("teacher", "decoders"),
        description="The compared features. teacher: the teacher with the restoration decoder. "
        "decoders: the restoration decoder with the identity decoder. bank: patches with the nearest normal ones.",
    )
    fusion: Literal["sum", "product", "agreement"] = Field(
        default="sum",
        description="The way in which maps are combined. sum, product: of all signals and levels. agreement: the square "
        "root of the smoothed sum of the compared features' maps times the smoothed map of the bank. A position then scores "
        "high only if both say so, and the scale of the two against each other does not matter.",
    )
    levels: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(min_length=1)] = Field(
        default=(0, 1, 2), description="The levels of the encoder that are compared; 0 is the shallowest."
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")
    image: Literal["max", "pooled", "top", "bank"] = Field(
        default="max",
        description="The image score. max: the maximum of the map. pooled: the maximum after averaging over "
        "`pool` x `pool` pixels. top: the mean of the highest `top` share of pixels. bank: the maximum of the smoothed map "
        "of the bank's distances alone.",
    )
    pool: Count = Field(default=16, description="The side of the averaging window of `pooled`, in pixels.")
    top: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.001, description="The share of the map's pixels that `top` averages."
    )
    calibrated: bool = Field(
        default=False,
        description="True to divide each signal by its standard deviation on normal positions before they are added. "
        "This needs a bank, whose distances always are divided so.",
    )

    @property
    def image_rule(self) -> str:
        """The rule of the image score, as the protocol card shows it."""
        rules = {
            "max": "max of the map",
            "pooled": f"max of the map averaged over {self.pool}x{self.pool}",
            "top": f"mean of the highest {100 * self.top:g} % of the map",
            "bank": "max of the bank's map",
        }
        return rules[self.image]


def distances(first: Levels, second: Levels, settings: ScoringSettings) -> list[Tensor]:
    """Compute 1 - cos between two features at each position of the levels that are compared.

    Args:
        first: (B, C_l, H_l, W_l) for each level.
        second: Of the same shapes.
        settings: The settings of the scoring.

    Returns:
        (B, H_l, W_l) for each level of the settings.
    """
    return [
        1.0 - F.cosine_similarity(at_least_single(first[level]), at_least_single(second[level]), dim=1)
        for level in settings.levels
    ]


def anomaly_maps(signals: dict[str, list[Tensor]], size: tuple[int, int], settings: ScoringSettings) -> Tensor:
    """Compute anomaly maps from the distances of each signal.

    Each map of distances is resized to `size`. The results are fused and smoothed; for the agreement smoothed and fused.

    Args:
        signals: For each name of a signal its distances, (B, H_l, W_l) each.
        size: The height and width of the maps in pixels.
        settings: The settings of the scoring.

    Returns:
        (B, H, W).
    """
    maps: dict[str, list[Tensor]] = {
        name: [
            F.interpolate(distance[:, None], size, mode="bilinear", align_corners=True)[:, 0]
            for distance in signals[name]
        ]
        for name in settings.signals
        if name in signals
    }
    if settings.fusion == "agreement" and BANK in maps and len(maps) > 1:
        of_features = [each for name in maps if name != BANK for each in maps[name]]
        parts = [gaussian_smooth(torch.stack(each).sum(dim=0), settings.sigma) for each in (of_features, maps[BANK])]
        return (parts[0].clamp_min(LEAST) * parts[1].clamp_min(LEAST)).sqrt()
    stacked = torch.stack([each for name in maps for each in maps[name]])
    fused = stacked.sum(dim=0) if settings.fusion != "product" else stacked.clamp_min(LEAST).log().mean(dim=0).exp()
    return gaussian_smooth(fused, settings.sigma)


def image_scores(maps: Tensor, settings: ScoringSettings) -> Tensor:
    """Compute the image scores of anomaly maps.

    Args:
        maps: (B, H, W).
        settings: The settings of the scoring.

    Returns:
        (B,).
    """
    if settings.image == "pooled":
        maps = F.avg_pool2d(maps[:, None], settings.pool, 1)[:, 0]
    flat = maps.flatten(1)
    if settings.image == "top":
        return flat.topk(max(1, int(settings.top * flat.shape[1])), dim=1).values.mean(dim=1)
    return flat.amax(dim=1)
