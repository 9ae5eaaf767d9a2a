"""The class-aware memory: normal prototypes of every category, addressed without a label.

A position's embedding is compared with all items of all categories and replaced by a mixture of those it resembles, so that
what no normal image has cannot pass. In training the category's label says on which items the weight should lie.
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
    """items: prototypes of each category; temperature: of the softmax over cosines; addressing: soft, topk (the `keep`
    nearest items) or sparse (weights below a share of 1 / all items are dropped); update: ema of the
    embeddings with `decay`, or learnt by gradient; blend: the memory's share in what goes on, the rest is the embedding itself;
    label_at_test: a test image may ask its own category's items only, an upper bound, since nobody gives labels at test.
    """

    items: Count = 32
    temperature: Annotated[float, Field(ge=1e-4, le=1e4)] = 0.02
    addressing: Literal["soft", "topk", "sparse"] = "soft"
    keep: Count = 8
    update: Literal["ema", "learnt"] = "ema"
    decay: BelowOne = 0.99
    blend: Fraction = 1.0
    label_at_test: bool = False


class ClassAwareMemory(nn.Module):
    """categories x items prototypes of `channels` numbers; category c owns rows c K to c K + K - 1."""

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
        self.waiting = True  # for a category's first images; the device is asked no more once all have come

    def forward(self, queries: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(read (B, P, D), weights (B, P, C x K) whose rows sum to 1) for queries (B, P, D).

        labels: (B,) confines each image to its own category's items; for the upper bound only.
        """
        queries = at_least_single(queries)
        items = at_least_single(self.items).clone()  # averaging changes them in place, after the step's graph was built
        weights = self.addressing(queries, items, labels)
        # Directions are what the items hold; lengths are the embedding's own.
        read = F.normalize(weights @ items, dim=-1) * queries.norm(dim=-1, keepdim=True)
        return torch.lerp(queries, read, self.settings.blend), weights

    def addressing(self, queries: Tensor, items: Tensor, labels: Tensor | None = None) -> Tensor:
        """The weights (B, P, C x K) of items (C x K, D) for queries (B, P, D)."""
        cosines = F.normalize(queries, dim=-1) @ F.normalize(items, dim=-1).T
        if labels is not None:
            owner = torch.arange(self.categories, device=labels.device).repeat_interleave(self.settings.items)
            cosines = cosines.masked_fill((owner != labels[:, None])[:, None, :], float("-inf"))
        return self._weights(cosines / self.settings.temperature)

    @torch.no_grad()
    def learn(self, queries: Tensor, weights: Tensor, categories: Tensor, normal: Tensor) -> None:
        """Count how much each category uses its items, and move them towards its embeddings if they are averages.

        queries: (B, P, D); weights: (B, P, C x K); categories: (B,); normal: (B, P) bool, the only positions that count.
        """
        directions = F.normalize(at_least_single(queries), dim=-1)
        self._start(directions, categories, normal)
        block = weights.reshape(*weights.shape[:2], self.categories, -1)
        index = categories[:, None, None, None].expand(-1, block.shape[1], 1, block.shape[3])
        own = block.gather(2, index)[:, :, 0] * normal[..., None]
        members = F.one_hot(categories, self.categories).to(own.dtype)
        used = torch.einsum("bc,bpk->ck", members, own).flatten()
        self.usage.mul_(0.99).add_(0.01 * used / normal.sum().clamp_min(1))
        if self.settings.update == "ema":
            asked = torch.einsum("bc,bkd->ckd", members, torch.einsum("bpk,bpd->bkd", own, directions)).flatten(0, 1)
            moved = torch.lerp(asked / used.clamp_min(1e-6)[:, None], self.items, self.settings.decay)
            self.items.copy_(torch.where(used[:, None] > 1e-3, moved, self.items))

    def _start(self, directions: Tensor, categories: Tensor, normal: Tensor) -> None:
        """Take a category's first items from normal positions of its first images, drawn at random."""
        if not self.waiting:
            return
        for category in torch.unique(categories[~self.started[categories]]).tolist():
            found = directions[(categories == category)[:, None] & normal]
            if len(found):
                order = torch.randperm(len(found))[torch.arange(self.settings.items) % len(found)].to(found.device)
                self.items[category * self.settings.items : (category + 1) * self.settings.items].copy_(found[order])
                self.started[category] = True
        self.waiting = not bool(self.started.all())

    def usage_entropy(self) -> Tensor:
        """(C,) the entropy of each category's use of its items over ln K, the greatest: 1 is even use, 0 a single item."""
        shares = self.usage.reshape(self.categories, -1)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
        greatest = torch.tensor(float(shares.shape[1])).log().clamp_min(1e-12)
        entropy: Tensor = torch.special.entr(shares).sum(dim=1) / greatest
        return entropy

    def dead(self) -> Tensor:
        """(C,) the items of each category that get less than a hundredth of an even share of its use."""
        shares = self.usage.reshape(self.categories, -1)
        unused: Tensor = shares < 0.01 * shares.mean(dim=1, keepdim=True)
        return unused.sum(dim=1)

    def _weights(self, logits: Tensor) -> Tensor:
        if self.settings.addressing == "topk":
            kept = logits.topk(min(self.settings.keep, logits.shape[-1]), dim=-1)
            return torch.zeros_like(logits).scatter(-1, kept.indices, kept.values.softmax(dim=-1))
        weights = logits.softmax(dim=-1)
        if self.settings.addressing == "sparse":
            # Source: the hard shrinkage of MemAE (Gong et al., ICCV 2019), with a threshold relative to an even share.
            threshold = 1.0 / logits.shape[-1]
            shrunk = F.relu(weights - threshold) * weights / ((weights - threshold).abs() + 1e-12)
            return shrunk / shrunk.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        return weights
