"""What all plain networks share: the teacher, and how a training step and scores are asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """A network beside the detector that it is a plain reading of.

    loss: of a training batch, a scalar, at a share of the training; maps: of images. What learns in a single pass has
    collect, for each batch, and finish in place of a loss. drawn: names of what the detector draws and does not save.
    """

    drawn: tuple[str, ...] = ()

    def __init__(self, teacher: nn.Module | None, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.teacher = (teacher or nn.Identity()).requires_grad_(False)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)

    def train(self, mode: bool = True) -> Plain:
        super().train(mode)
        self.teacher.eval()
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(self.teacher((images - self.mean) / self.std))

    def loss(self, images: Tensor, categories: Tensor, progress: float) -> Tensor:
        raise NotImplementedError

    def collect(self, images: Tensor) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def maps(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, maps: Tensor) -> Tensor:
        return maps.flatten(1).max(dim=1).values
