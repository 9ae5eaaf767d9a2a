"""From features to maps and image scores: which discrepancies count, at which levels, and how they are put together."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.methods.mddnet.losses import Levels
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.settings import Count, Pixels, Strict


class ScoringSettings(Strict):
    """signals: teacher against restoration decoder, restoration against identity decoder; fusion: of the two, and of levels
    likewise; levels: which of the encoder's levels count, 0 the shallowest; sigma: of the smoothing, in pixels; image: max of
    the map, max after averaging over `pool` x `pool` pixels, or mean of the highest `top` share of pixels.
    """

    signals: Annotated[tuple[Literal["teacher", "decoders"], ...], Field(min_length=1)] = ("teacher", "decoders")
    fusion: Literal["sum", "product"] = "sum"
    levels: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(min_length=1)] = (0, 1, 2)
    sigma: Pixels = 4.0
    image: Literal["max", "pooled", "top"] = "max"
    pool: Count = 16
    top: Annotated[float, Field(gt=0, le=1)] = 0.001

    @property
    def image_rule(self) -> str:
        """As a protocol card says it."""
        rules = {
            "max": "max of the map",
            "pooled": f"max of the map averaged over {self.pool}x{self.pool}",
            "top": f"mean of the highest {100 * self.top:g} % of the map",
        }
        return rules[self.image]


def anomaly_maps(signals: dict[str, tuple[Levels, Levels]], size: tuple[int, int], settings: ScoringSettings) -> Tensor:
    """(B, H, W) from pairs of features: of each signal and level 1 - cos at each position, brought to `size`, fused, smoothed.

    signals: name -> the two sides' levels, (B, C_l, H_l, W_l) each.
    """
    maps = [
        F.interpolate(
            1.0 - F.cosine_similarity(at_least_single(one[level]), at_least_single(other[level]), dim=1)[:, None],
            size,
            mode="bilinear",
            align_corners=True,
        )[:, 0]
        for one, other in (signals[name] for name in settings.signals)
        for level in settings.levels
    ]
    stacked = torch.stack(maps)
    fused = stacked.sum(dim=0) if settings.fusion == "sum" else stacked.clamp_min(1e-6).log().mean(dim=0).exp()
    return gaussian_smooth(fused, settings.sigma)


def image_scores(maps: Tensor, settings: ScoringSettings) -> Tensor:
    """Maps (B, H, W) -> (B,)."""
    if settings.image == "pooled":
        maps = F.avg_pool2d(maps[:, None], settings.pool, 1)[:, 0]
    flat = maps.flatten(1)
    if settings.image == "top":
        return flat.topk(max(1, int(settings.top * flat.shape[1])), dim=1).values.mean(dim=1)
    return flat.amax(dim=1)
