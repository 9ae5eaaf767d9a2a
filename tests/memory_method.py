"""A memory of patches, the least method of a single pass, for the tests.

Paper:     Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022, in outline.
Code read: none.
Differs:   keeps every patch of the deepest level.
Unsaid:    nothing that matters here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.config import Strict
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder


class Nearest(Detector):
    """The distance of a patch to the nearest of those that normal images have."""

    label, version, single_pass = "Nearest", 1, True

    class Settings(Strict):
        pass

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.register_buffer("bank", torch.zeros(1, encoder.channels[-1]))
        self.bank: Tensor
        self.collected: list[Tensor] = []

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        self.collected.append(self._patches(batch.images).flatten(0, 1))
        return {}

    def finish_training(self) -> None:
        self.bank = torch.cat(self.collected)

    def anomaly_maps(self, images: Tensor) -> Tensor:
        patches = self._patches(images)
        distances = torch.cdist(patches, self.bank, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=2)
        side = round(distances.shape[1] ** 0.5)
        maps = distances.reshape(-1, 1, side, side)
        return F.interpolate(maps, images.shape[-2:], mode="bilinear")[:, 0]

    def _patches(self, images: Tensor) -> Tensor:
        """(B, P, C)."""
        return self.encoder(images)[-1].flatten(2).transpose(1, 2)
