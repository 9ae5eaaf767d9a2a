"""A bank of normal patches of every category. Its distances are a third signal of our variant of MDD-Net.

The class-aware memory holds few prototypes, which restore features. The bank holds thousands of the features themselves,
which are only compared. Both know the category of a normal image in training, and none at test time.

This is ours, not the paper's. The distances are those of PatchCore (Roth et al., CVPR 2022). Its greedy coreset is picked
from a random sample of equal size for every category, so that nothing has to pass by twice.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.coreset import greedy_coreset
from mddbench.nn.nearest import nearest
from mddbench.nn.patches import SIDE, embedding_width, patch_embeddings
from mddbench.nn.precision import full_precision
from mddbench.seeding import derived_seed
from mddbench.settings import Count, Extended, OddCount

QUERIES = 4096
"""Number of patches whose nearest other patch in the bank shows how far normal patches are apart."""
PROJECTION = 64
"""Number of random directions in which the coreset is picked, as PatchCore's on small images."""


class BankSettings(Extended):
    """The settings of the bank of normal patches."""

    added: ClassVar[tuple[str, ...]] = ("reservoir",)

    patches: Count = Field(
        default=2048, description="The number of patches that are kept: so many times the number of categories."
    )
    reservoir: Count | None = Field(
        default=None,
        description="The number of patches of each category in a random sample, of which the bank's are picked "
        "greedily when the training ends, so that they are near to all of it. null: the bank is a random sample itself. "
        "It is left out of what is written.",
    )
    levels: Annotated[tuple[Annotated[int, Field(ge=0, le=63)], ...], Field(min_length=1)] = Field(
        default=(1, 2), description="The levels of the encoder whose features describe a patch; 0 is the shallowest."
    )
    neighbourhood: OddCount = Field(
        default=SIDE, description="The side of the neighbourhood of a position that its vector describes."
    )
    unit: bool = Field(default=False, description="True if each level's part of a vector has length 1.")


class PatchBank(nn.Module):
    """A random sample of the normal patches of each category, drawn while they pass by, or the greedy coreset of one.

    Attributes:
        patches: (C, K, D), the vectors of the patches. Of a random sample the first `seen` ones of a category are filled,
            of a coreset the first `kept` ones of all.
        reservoir: (C, R, D), the sample of which the coreset is picked; None before the first patch and afterwards.
        kept: (1,) int64, the number of patches of the coreset; 0 before it is picked. None without a coreset.
        seen: (C,) int64, the number of patches of each category that passed by.
        deviation: (1,), the standard deviation of the distances within the bank; 0 before `finish`.
        draws: The generator of the sample. It is the bank's own, so that a method with a bank and the same one without
            draw the same defects.
    """

    patches: Tensor
    reservoir: Tensor | None
    kept: Tensor | None
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
        if settings.reservoir is not None and settings.reservoir < settings.patches:
            raise InputError(
                f"mddnet: bank.reservoir {settings.reservoir} is less than bank.patches {settings.patches}, which are picked "
                "of it; use a larger one"
            )
        self.register_buffer("patches", torch.zeros(categories, settings.patches, width))
        self.register_buffer("reservoir", None)
        self.register_buffer("kept", torch.zeros(1, dtype=torch.int64) if settings.reservoir else None)
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
        vectors, sample = self._vectors(levels), self._sample()
        # The seed of the epoch and what was seen before: a resumed training draws the same.
        self.draws.manual_seed(derived_seed(torch.initial_seed(), "bank", int(self.seen.sum())))
        for category in torch.unique(categories).tolist():
            new = vectors[categories == category].flatten(0, 2)
            before = int(self.seen[category])
            numbers = torch.arange(before, before + len(new))
            drawn = (torch.rand(len(new), generator=self.draws) * (numbers + 1)).long()
            size = sample.shape[1]
            slots = torch.where(numbers < size, numbers, drawn)
            kept = slots < size
            last = torch.full((size,), -1).scatter_reduce(
                0, slots[kept], torch.arange(len(new))[kept], "amax"
            )  # of several patches for one slot the last one stays
            chosen = (last >= 0).nonzero()[:, 0].to(new.device)
            sample[category, chosen] = new[last.to(new.device)[chosen]].to(sample.dtype)
            self.seen[category] += len(new)

    @torch.no_grad()
    def finish(self) -> None:
        """Pick the coreset, if there is a sample for one, and measure how far normal patches are apart."""
        if self.kept is None:
            if len(bank := self._bank()):
                self.deviation.copy_(_deviation_within(bank))
        elif self.reservoir is not None:
            sample = self._bank()
            picked = _coreset(sample, self.patches.shape[0] * self.patches.shape[1])
            self.patches.flatten(0, 1)[: len(picked)] = sample[picked]
            self.kept.fill_(len(picked))
            self.reservoir = None
            left = torch.ones(len(sample), dtype=torch.bool, device=sample.device)
            left[picked] = False
            self.deviation.copy_(_deviation_of(sample[left], self._bank()))

    def distances(self, levels: list[Tensor]) -> Tensor:
        """Compute the squared distance of each patch to the nearest one of any category.

        They are divided by their standard deviation for normal patches. These are the bank's own, each compared with the
        others, or those of the sample that are not in the coreset.

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

    def collected_bytes(self) -> int:
        """Return the most bytes that the sample takes at a time: itself, a copy and its projections twice."""
        categories, _, width = self.patches.shape
        return self.patches.element_size() * categories * (self.settings.reservoir or 0) * 2 * (width + PROJECTION)

    def _vectors(self, levels: list[Tensor]) -> Tensor:
        """The vectors (B, H, W, D) of all patches."""
        chosen = [levels[level] for level in self.settings.levels]
        return patch_embeddings(chosen, None, self.settings.neighbourhood, self.settings.unit)

    def _sample(self) -> Tensor:
        """What is filled while patches pass by, (C, R, D) or (C, K, D)."""
        if self.settings.reservoir is None:
            return self.patches
        if self.reservoir is None:
            categories, _, width = self.patches.shape
            self.reservoir = self.patches.new_zeros(categories, self.settings.reservoir, width)
        return self.reservoir

    def _bank(self) -> Tensor:
        """The patches that others are compared with, (N, D): the coreset, or the filled part of the sample."""
        if self.kept is not None and self.reservoir is None:
            return self.patches.flatten(0, 1)[: int(self.kept)]
        sample = self.patches if self.reservoir is None else self.reservoir
        places = torch.arange(sample.shape[1], device=self.seen.device)
        return sample[places < self.seen[:, None]]


def _coreset(sample: Tensor, count: int) -> Tensor:
    """Pick up to `count` of the patches (N, D): their indices. The same sample gives the same picks."""
    draws = torch.Generator().manual_seed(derived_seed(0, "bank", "projection"))
    projected = sample
    if sample.shape[1] > PROJECTION:
        projection = torch.empty(sample.shape[1], PROJECTION).uniform_(-1.0, 1.0, generator=draws)
        with full_precision(sample):
            projected = sample @ projection.to(sample)
    with torch.random.fork_rng(devices=[]):  # the coreset's starts are drawn from the global generator of the CPU
        torch.manual_seed(derived_seed(0, "bank", "coreset"))
        return greedy_coreset(projected, min(count, len(sample)))


def _deviation_of(queries: Tensor, bank: Tensor) -> Tensor:
    """The standard deviation of the squared distances of normal patches (Q, D) to a bank (N, D), a scalar above 0."""
    if len(queries) < 2:
        return _deviation_within(bank) if len(bank) else bank.new_ones(())
    squared = nearest(queries[:: max(1, len(queries) // QUERIES)], bank)[0][:, 0]
    deviation = squared.std(correction=0)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _deviation_within(bank: Tensor) -> Tensor:
    """The standard deviation of the squared distances of patches (N, D) to the nearest other one, a scalar above 0."""
    queries = bank[:: max(1, len(bank) // QUERIES)]
    others = nearest(queries, bank, min(2, len(bank)))[0][:, -1]
    deviation = others.std(correction=0)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
