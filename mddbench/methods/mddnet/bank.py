"""A bank of normal patches of every category. Its distances are a third signal of our variant of MDD-Net.

The class-aware memory holds few prototypes, which restore features. The bank holds thousands of the features themselves,
which are only compared. Both know the category of a normal image in training, and none at test time.

This is ours, not the paper's. The distances are those of PatchCore (Roth et al., CVPR 2022); its greedy coreset is
replaced by a random sample of equal size for every category, which needs no second pass.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.nearest import nearest
from mddbench.nn.patches import SIDE, embedding_width, patch_embeddings
from mddbench.seeding import derived_seed
from mddbench.settings import Count, OddCount, Strict

QUERIES = 4096
"""Number of patches of the bank whose nearest other patch shows how far normal patches are apart."""


class BankSettings(Strict):
    """The settings of the bank of normal patches."""

    patches: Count = Field(default=2048, description="The number of patches that are kept of each category.")
    levels: Annotated[tuple[Annotated[int, Field(ge=0, le=63)], ...], Field(min_length=1)] = Field(
        default=(1, 2), description="The levels of the encoder whose features describe a patch; 0 is the shallowest."
    )
    neighbourhood: OddCount = Field(
        default=SIDE, description="The side of the neighbourhood of a position that its vector describes."
    )
    unit: bool = Field(default=False, description="True if each level's part of a vector has length 1.")


class PatchBank(nn.Module):
    """A random sample of the normal patches of each category, drawn while they pass by.

    Attributes:
        patches: (C, K, D), the vectors of the patches. The first `seen` ones of a category are filled.
        seen: (C,) int64, the number of patches of each category that passed by.
        deviation: (1,), the standard deviation of the distances within the bank; 0 before `finish`.
        draws: The generator of the sample. It is the bank's own, so that a method with a bank and the same one without
            draw the same defects.
    """

    patches: Tensor
    seen: Tensor
    deviation: Tensor

    def __init__(self, channels: tuple[int, ...], categories: int, settings: BankSettings) -> None:
        super().__init__()
        self.settings = settings
        if max(settings.levels) >= len(channels):
            raise InputError(
                f"mddnet: bank.levels names level {max(settings.levels)}; the encoder has {len(channels)}, counted from 0"
            )
        width = embedding_width([channels[level] for level in settings.levels], None)
        self.register_buffer("patches", torch.zeros(categories, settings.patches, width))
        self.register_buffer("seen", torch.zeros(categories, dtype=torch.int64))
        self.register_buffer("deviation", torch.zeros(1))
        self.draws = torch.Generator()

    @torch.no_grad()
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def learn(self, levels: list[Tensor], categories: Tensor) -> None:
        """Let the patches of normal images pass by. Each patch that passes is kept with the same probability.

        Source: Vitter, Random sampling with a reservoir, 1985, algorithm R, many patches at a time.

        Args:
            levels: (B, C_l, H_l, W_l), the teacher's features of normal images, for each level.
            categories: (B,) int64, the category of each image.
        """
        vectors = self._vectors(levels)
        # The seed of the epoch and what was seen before: a resumed training draws the same.
        self.draws.manual_seed(derived_seed(torch.initial_seed(), "bank", int(self.seen.sum())))
        for category in torch.unique(categories).tolist():
            new = vectors[categories == category].flatten(0, 2)
            before = int(self.seen[category])
            numbers = torch.arange(before, before + len(new))
            drawn = (torch.rand(len(new), generator=self.draws) * (numbers + 1)).long()
            slots = torch.where(numbers < self.settings.patches, numbers, drawn)
            kept = slots < self.settings.patches
            last = torch.full((self.settings.patches,), -1).scatter_reduce(
                0, slots[kept], torch.arange(len(new))[kept], "amax"
            )  # of several patches for one slot the last one stays
            chosen = (last >= 0).nonzero()[:, 0].to(new.device)
            self.patches[category, chosen] = new[last.to(new.device)[chosen]].to(self.patches.dtype)
            self.seen[category] += len(new)

    def finish(self) -> None:
        """Measure how far the patches of the full bank are apart."""
        if len(bank := self._bank()):
            self.deviation.copy_(_deviation_within(bank))

    def distances(self, levels: list[Tensor]) -> Tensor:
        """Compute the squared distance of each patch to the nearest one of any category.

        They are divided by their standard deviation within the bank, where each patch is compared with the others.

        Args:
            levels: (B, C_l, H_l, W_l) for each level of the encoder.

        Returns:
            (B, H, W), the grid of the first of the bank's levels; zeros before there are any patches.
        """
        vectors, bank = self._vectors(levels), self._bank()
        if not len(bank):
            return vectors.new_zeros(vectors.shape[:3])
        squared = nearest(vectors.flatten(0, 2), bank)[0][:, 0]
        deviation = self.deviation if self.deviation > 0 else _deviation_within(bank)
        return squared.reshape(vectors.shape[:3]) / deviation

    def _vectors(self, levels: list[Tensor]) -> Tensor:
        """The vectors (B, H, W, D) of all patches."""
        chosen = [levels[level] for level in self.settings.levels]
        return patch_embeddings(chosen, None, self.settings.neighbourhood, self.settings.unit)

    def _bank(self) -> Tensor:
        """The filled part of the bank, (N, D)."""
        places = torch.arange(self.settings.patches, device=self.seen.device)
        return self.patches[places < self.seen[:, None]]


def _deviation_within(bank: Tensor) -> Tensor:
    """The standard deviation of the squared distances of patches (N, D) to the nearest other one, a scalar above 0."""
    queries = bank[:: max(1, len(bank) // QUERIES)]
    others = nearest(queries, bank, min(2, len(bank)))[0][:, -1]
    deviation = others.std(correction=0)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
