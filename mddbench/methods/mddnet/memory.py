"""The class-aware memory: prototypes of the normal features of every category, addressed without a label.

The embedding of each position is compared with all items of all categories.
It is replaced by a mixture of those that it resembles, so that what no normal image has cannot pass.
In training the category's label says which items should have the weight.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.nn.precision import at_least_single
from mddbench.settings import BelowOne, Count, Fraction, Strict


class MemorySettings(Strict):
    """The settings of the class-aware memory."""

    items: Count = Field(default=32, description="The number of prototypes of each category.")
    temperature: Annotated[float, Field(ge=1e-4, le=1e4)] = Field(
        default=0.02, description="The temperature of the softmax over cosines."
    )
    addressing: Literal["soft", "topk", "sparse"] = Field(
        default="soft",
        description="The items that get weight. soft: all. topk: the `keep` nearest. "
        "sparse: those whose weight is above 1 / (number of all items).",
    )
    keep: Count = Field(default=8, description="The number of items that `topk` keeps.")
    update: Literal["ema", "learnt"] = Field(
        default="ema",
        description="The update of the items. ema: exponential moving averages of the embeddings. learnt: by gradient.",
    )
    decay: BelowOne = Field(default=0.99, description="The decay of the moving averages.")
    blend: Fraction = Field(
        default=1.0, description="The memory's share of the output. The rest is the embedding itself."
    )
    label_at_test: bool = Field(
        default=False,
        description="True if a test image may use the items of its own category only. "
        "This is an upper bound, because no labels are given at test time.",
    )


class ClassAwareMemory(nn.Module):
    """A memory of `categories` x `items` prototypes with D channels. Category c owns the rows c K to c K + K - 1.

    Attributes:
        items: (C x K, D), the prototypes; a parameter if they are learnt, else a buffer.
        usage: (C x K,), the moving average of how much each item is used by its own category.
        started: (C,) bool, True for a category whose first items were taken from its images.
        waiting: True until all categories have started. After that the device is not queried for it any more.
    """

    items: Tensor
    usage: Tensor
    started: Tensor

    def __init__(self, channels: int, categories: int, settings: MemorySettings) -> None:
        super().__init__()
        self.settings, self.categories = settings, categories
        start = F.normalize(torch.randn(categories * settings.items, channels).abs(), dim=1)
        if settings.update == "learnt":
            self.items = nn.Parameter(start)
        else:
            self.register_buffer("items", start)
        self.register_buffer("usage", torch.zeros(categories * settings.items))
        self.register_buffer("started", torch.zeros(categories, dtype=torch.bool))
        self.waiting = True

    def forward(self, queries: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read from the memory.

        Args:
            queries: (B, P, D), the embeddings of P positions.
            labels: (B,) int64, the only category whose items each image may use. Given for the upper bound only.

        Returns:
            The read embeddings (B, P, D), and the weights (B, P, C x K), whose rows sum to 1.
        """
        queries = at_least_single(queries)
        items = at_least_single(self.items).clone()  # `learn` changes them in place after this graph was built
        weights = self.addressing(queries, items, labels)
        # The items hold directions only, so the length is that of the embedding.
        read = F.normalize(weights @ items, dim=-1) * queries.norm(dim=-1, keepdim=True)
        return torch.lerp(queries, read, self.settings.blend), weights

    def addressing(self, queries: Tensor, items: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the weights of the items for each query.

        Args:
            queries: (B, P, D).
            items: (C x K, D).
            labels: (B,) int64, the only category whose items each image may use. None for all categories.

        Returns:
            (B, P, C x K).
        """
        cosines = F.normalize(queries, dim=-1) @ F.normalize(items, dim=-1).T
        if labels is not None:
            owner = torch.arange(self.categories, device=labels.device).repeat_interleave(self.settings.items)
            cosines = cosines.masked_fill((owner != labels[:, None])[:, None, :], float("-inf"))
        return self._weights(cosines / self.settings.temperature)

    @torch.no_grad()
    def learn(self, queries: Tensor, weights: Tensor, categories: Tensor, normal: Tensor) -> None:
        """Count how much each category uses its items, and move averaged items towards the category's embeddings.

        Args:
            queries: (B, P, D), the embeddings.
            weights: (B, P, C x K), the addressing weights.
            categories: (B,) int64, the category of each image.
            normal: (B, P) bool, True at the positions that count.
        """
        directions = F.normalize(at_least_single(queries), dim=-1)
        self._start(directions, categories, normal)
        blocks = weights.reshape(*weights.shape[:2], self.categories, -1)
        index = categories[:, None, None, None].expand(-1, blocks.shape[1], 1, blocks.shape[3])
        own_weights = blocks.gather(2, index)[:, :, 0] * normal[..., None]
        members = F.one_hot(categories, self.categories).to(own_weights.dtype)
        used = torch.einsum("bc,bpk->ck", members, own_weights).flatten()
        self.usage.mul_(0.99).add_(0.01 * used / normal.sum().clamp_min(1))
        if self.settings.update == "ema":
            image_sums = torch.einsum("bpk,bpd->bkd", own_weights, directions)
            sums = torch.einsum("bc,bkd->ckd", members, image_sums).flatten(0, 1)
            moved = torch.lerp(sums / used.clamp_min(1e-6)[:, None], self.items, self.settings.decay)
            self.items.copy_(torch.where(used[:, None] > 1e-3, moved, self.items))

    def _start(self, directions: Tensor, categories: Tensor, normal: Tensor) -> None:
        """Take a category's first items from normal positions of its first images, drawn at random."""
        if not self.waiting:
            return
        for category in torch.unique(categories[~self.started[categories]]).tolist():
            candidates = directions[(categories == category)[:, None] & normal]
            if len(candidates):
                count = len(candidates)
                order = torch.randperm(count)[torch.arange(self.settings.items) % count].to(candidates.device)
                rows = slice(category * self.settings.items, (category + 1) * self.settings.items)
                self.items[rows].copy_(candidates[order])
                self.started[category] = True
        self.waiting = not bool(self.started.all())

    def usage_entropy(self) -> Tensor:
        """Measure how evenly each category uses its items.

        Returns:
            (C,) in [0, 1], the entropy of the use over ln K: 1 for even use, 0 for a single item.
        """
        shares = self.usage.reshape(self.categories, -1)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
        greatest = torch.tensor(float(shares.shape[1])).log().clamp_min(1e-12)
        entropy: Tensor = torch.special.entr(shares).sum(dim=1) / greatest
        return entropy

    def dead(self) -> Tensor:
        """Count the items of each category that are hardly used.

        Returns:
            (C,) int64, the number of items with less than a hundredth of an even share of the category's use.
        """
        shares = self.usage.reshape(self.categories, -1)
        unused: Tensor = shares < 0.01 * shares.mean(dim=1, keepdim=True)
        return unused.sum(dim=1)

    def _weights(self, logits: Tensor) -> Tensor:
        """The weights of the items (B, P, C x K) from their cosines over the temperature."""
        if self.settings.addressing == "topk":
            highest = logits.topk(min(self.settings.keep, logits.shape[-1]), dim=-1)
            return torch.zeros_like(logits).scatter(-1, highest.indices, highest.values.softmax(dim=-1))
        weights = logits.softmax(dim=-1)
        if self.settings.addressing == "sparse":
            # Source: the hard shrinkage of MemAE (Gong et al., ICCV 2019), with a threshold relative to an even share.
            threshold = 1.0 / logits.shape[-1]
            shrunk = F.relu(weights - threshold) * weights / ((weights - threshold).abs() + 1e-12)
            return shrunk / shrunk.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        return weights
