"""A memory of learnt items, which is read by similarity, and the same for blocks of a map.

A query is replaced by a weighted sum of the items. So whatever passes the memory is a mixture of what it has learnt.

Sources: Gong et al., Memorizing Normality to Detect Anomaly, ICCV 2019, sections 3.3 to 3.5, for the memory and its sparse
addressing. Hou et al., Divide-and-Assemble, ICCV 2021, for blocks.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.settings import Count, Strict

EPS = 1e-12
"""What the shrinkage and the sum of the weights are kept away from zero by."""
KEPT = 0.95
"""Share of the old value in the moving averages of the diagnostics."""
ALIVE = 0.01
"""An item is alive if its mean weight is above this share of an equal part, which is 1 / N."""


class AddressingSettings(Strict):
    """How a memory is read."""

    items: Count = Field(default=500, description="The number N of items of a memory.")
    similarity: Literal["dot", "cosine"] = Field(
        default="dot", description="What is compared: the dot product of query and item, or their cosine."
    )
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = Field(
        default=1.0, description="What similarities are divided by before the softmax. Low values select sharply."
    )
    shrink: Annotated[float, Field(ge=0, le=2)] = Field(
        default=1.0,
        description="Weights below this number divided by N become 0. Above 2, all weights of a position may vanish "
        "at the start of training, and then nothing is learnt. 0: no weight vanishes.",
    )


class AddressedMemory(nn.Module):
    """A memory of N items with D numbers, read by the similarity of a query to each item.

    Attributes:
        items: (N, D) items, uniform in +-1 / sqrt(D) at first.
        use: (N,) moving average of the mean weight of each item in training.
        answered: Moving average of the share of queries that have a weight above the threshold.
    """

    use: Tensor
    answered: Tensor

    def __init__(self, channels: int, settings: AddressingSettings) -> None:
        """Create the items.

        Args:
            channels: Number D of numbers of a query.
            settings: How the memory is read.
        """
        super().__init__()
        self.settings = settings
        bound = channels**-0.5
        self.items = nn.Parameter(torch.empty(settings.items, channels).uniform_(-bound, bound))
        self.register_buffer("use", torch.full((settings.items,), 1 / settings.items))
        self.register_buffer("answered", torch.ones(()))

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Read from the memory.

        Args:
            queries: (..., D).

        Returns:
            What is read, (..., D), and the weights of the items, (..., N). The weights of a query sum to 1, or they are
            all 0 if none is above the threshold. Both in at least single precision.
        """
        with full_precision(queries):
            queries, items = at_least_single(queries), at_least_single(self.items)
            if self.settings.similarity == "cosine":
                similarities = F.normalize(queries, dim=-1) @ F.normalize(items, dim=-1).T
            else:
                similarities = queries @ items.T
            weights = (similarities / self.settings.temperature).softmax(dim=-1)
            if self.settings.shrink:
                weights = hard_shrink(weights, self.settings.shrink / len(items))
            if self.training:
                self._watch(weights.detach())
            return weights @ items, weights

    @torch.no_grad()
    def _watch(self, weights: Tensor) -> None:
        """Follow which items are used, and how many queries get an answer."""
        flat = weights.flatten(0, -2)
        self.use.lerp_(flat.mean(dim=0).to(self.use), 1 - KEPT)
        self.answered.lerp_((flat.amax(dim=1) > 0).to(self.answered).mean(), 1 - KEPT)

    def diagnostics(self) -> dict[str, float]:
        """Return the share of items that are alive, and the share of queries that get an answer."""
        alive = (self.use > ALIVE / len(self.use)).double().mean()
        return {"alive_items": float(alive), "answered_queries": float(self.answered)}


def hard_shrink(weights: Tensor, threshold: float) -> Tensor:
    """Set weights below a threshold to 0, and let the others sum to 1 again.

    Args:
        weights: (..., N), at least 0.
        threshold: The threshold.

    Returns:
        (..., N). All are 0 where none is above the threshold.
    """
    over = weights - threshold
    kept = F.relu(over) * weights / (over.abs() + EPS)
    return F.normalize(kept, p=1, dim=-1, eps=EPS)


def entropy(weights: Tensor) -> Tensor:
    """Compute the mean entropy of weights (..., N), a scalar in nats. Weights of 0 count as 0."""
    return -(weights * (weights + EPS).log()).sum(dim=-1).mean()


class BlockMemory(nn.Module):
    """A memory whose queries are blocks of a map: `side` x `side` positions of one of `groups` parts of the channels.

    All blocks and all parts share the items.

    Attributes:
        memory: The memory.
    """

    def __init__(self, channels: int, side: int, groups: int, settings: AddressingSettings) -> None:
        """Create the memory.

        Args:
            channels: Number of channels of the map, a multiple of `groups`.
            side: Side of a block in positions of the map.
            groups: Number of parts of the channels.
            settings: How the memory is read.
        """
        super().__init__()
        self.side, self.groups = side, groups
        self.memory = AddressedMemory(side * side * channels // groups, settings)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Replace each block by what is read from the memory.

        Args:
            features: (B, C, H, W).

        Returns:
            (B, C, H, W), and the weights (B, groups, H / side, W / side, N).
        """
        read, weights = self.memory(divided(features, self.side, self.groups))
        return assembled(read, self.side), weights


def divided(features: Tensor, side: int, groups: int) -> Tensor:
    """Divide a map into blocks.

    Args:
        features: (B, C, H, W).
        side: Side of a block in positions.
        groups: Number of parts of the channels, a divisor of C.

    Returns:
        (B, groups, H / side, W / side, C / groups * side * side).

    Raises:
        InputError: If blocks do not fill the map.
    """
    count, channels, height, width = features.shape
    if height % side or width % side:
        raise InputError(
            f"a map of {height}x{width} positions is not filled by blocks of {side}x{side}; choose a smaller block, "
            "or an image_size that is a multiple of it"
        )
    parts = features.reshape(count, groups, channels // groups, height // side, side, width // side, side)
    return parts.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)


def assembled(blocks: Tensor, side: int) -> Tensor:
    """Put blocks together again: the inverse of `divided`.

    Args:
        blocks: (B, groups, H / side, W / side, C / groups * side * side).
        side: Side of a block in positions.

    Returns:
        (B, C, H, W).
    """
    parts = blocks.reshape(*blocks.shape[:4], -1, side, side).permute(0, 1, 4, 2, 5, 3, 6)
    return parts.flatten(5).flatten(3, 4).flatten(1, 2)
