"""UniAD: a transformer rebuilds a frozen encoder's features from noisy ones, and may not look at what it is to rebuild.

Paper:     You et al., A Unified Model for Multi-class Anomaly Detection, NeurIPS 2022.
Code read: the authors' zhiyuanyou/UniAD at a5b9d9d (Apache-2.0) by way of notes on it; none of it is used.
Differs:   features come to the grid from any encoder and image size; attention computes what PyTorch's own does.
Variants:  the authors' by default: EfficientNet-B4 at levels 0 to 3, padded as for 380 pixels (`encoder.padding_for`), images
           of 224, a grid of 14 (stride 16), gradient_clip 0.1. At 256 pixels with timm's padding `settings.grid: 16`,
           `settings.neighbours: 8` (half of it is 4: 9x9) and gradient_clip 5.0 give the variant of the ADer benchmark.
Unsaid:    the paper shows no normalisation at the decoder's end; the code has one there and none at the encoder's.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.foreign_names import UNIFIED_TRANSFORMER, check_backbone, flattened, renamed
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.tokens import Dropout, Linear, MultiheadAttention
from mddbench.settings import BelowOne, Count, Depth, Fraction, Strict

Noise = Annotated[float, Field(ge=0, le=1e4)]


class UniAD(Detector):
    """Feature reconstruction with neighbour-masked attention and a query of its own in each decoder layer.

    The map is the distance between the features and what they were rebuilt to, brought to the image's size, not smoothed.
    """

    label = "UniAD"
    version = 3  # 2: dropout draws other numbers; 3: all layers start as copies of one
    asks_teacher = True

    class Settings(Strict):
        """grid: features are aligned to grid x grid tokens; neighbours: no token sees those up to half of it away in rows and
        columns, itself included (0: all are seen); channels, heads, layers, feedforward, dropout: of the transformer; jitter:
        scale of the noise in training, in a token's length over its channels; jitter_probability: of noise in a batch; pool:
        pixels over which a map is averaged before its maximum is the image's score.
        """

        grid: Count = 14
        neighbours: Annotated[int, Field(ge=0)] = 7
        channels: Annotated[int, Field(ge=2, multiple_of=2)] = 256
        heads: Count = 8
        layers: Depth = 4
        feedforward: Count = 1024
        dropout: BelowOne = 0.1
        jitter: Noise = 20.0
        jitter_probability: Fraction = 1.0
        pool: Count = 16

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        if settings.channels % settings.heads:
            raise InputError(f"uniad: channels {settings.channels} are no multiple of heads {settings.heads}")
        self.image_score_rule = f"max of the map averaged over {settings.pool}x{settings.pool}"
        width, features = settings.channels, sum(encoder.channels)
        self.register_buffer("mask", neighbour_mask(settings.grid, settings.neighbours), persistent=False)
        self.mask: Tensor
        self.position = GridPosition(settings.grid, width)
        self.project_in = Linear(features, width)
        self.encoder_layers = copies(EncoderLayer(settings), settings.layers)
        self.decoder_layers = copies(QueryDecoderLayer(settings), settings.layers)
        self.norm = nn.LayerNorm(width)
        self.project_out = Linear(width, features)
        # Queries and the inner projections of attention stay alike in all layers.
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear) and not name.startswith("encoder."):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def load_authors_state(self, content: Any, where: str) -> None:
        given = flattened(content.get("state_dict", content) if isinstance(content, dict) else content)
        check_backbone(given, self.encoder, where)
        self.load_learned_state(
            renamed(self.learned_state(), given, UNIFIED_TRANSFORMER, where, ("backbone.", "neck."))
        )

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        tokens = aligned(self.teacher(batch), self.settings.grid)
        with full_precision(tokens):
            noisy = jitter(tokens, self.settings.jitter, self.settings.jitter_probability)
        return {"reconstruction": F.mse_loss(at_least_single(self._rebuilt(noisy)), tokens)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        tokens = aligned(self.encoder(images), self.settings.grid)
        distances = (at_least_single(self._rebuilt(tokens)) - tokens).norm(dim=-1)
        maps = distances.reshape(-1, 1, self.settings.grid, self.settings.grid)
        size = (images.shape[-2], images.shape[-1])
        return F.interpolate(maps, size, mode="bilinear", align_corners=True)[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) -> (B,): the maximum after averaging; of maps smaller than the window, over all of them."""
        window = (min(self.settings.pool, maps.shape[-2]), min(self.settings.pool, maps.shape[-1]))
        return F.avg_pool2d(maps[:, None], window, 1).flatten(1).amax(dim=1)

    def _rebuilt(self, tokens: Tensor) -> Tensor:
        """Tokens (B, P, C) -> what the transformer makes of them, (B, P, C)."""
        position = self.position()
        memory = self.project_in(tokens)
        for layer in self.encoder_layers:
            memory = layer(memory, position, self.mask)
        out = memory
        for layer in self.decoder_layers:
            out = layer(out, memory, position, self.mask)
        rebuilt: Tensor = self.project_out(self.norm(out))
        return rebuilt


def copies(layer: nn.Module, count: int) -> nn.ModuleList:
    """So many layers that start alike, as in the authors' code."""
    return nn.ModuleList(deepcopy(layer) for _ in range(count))


def aligned(levels: list[Tensor], grid: int) -> Tensor:
    """Levels (B, C_l, H_l, W_l) side by side at each place of a grid: tokens (B, grid^2, sum C_l), at least single precision,
    row by row.

    Each level is resized bilinearly with its corners aligned and nothing smoothed before. Source: section 3.1, the code's neck.
    """
    resized = [F.interpolate(at_least_single(one), (grid, grid), mode="bilinear", align_corners=True) for one in levels]
    return torch.cat(resized, dim=1).flatten(2).transpose(1, 2).contiguous()


def jitter(tokens: Tensor, scale: float, probability: float) -> Tensor:
    """Tokens (B, P, C) with normal noise of deviation scale x (token's length) / C; all of them or none.

    Source: section 3.3.
    """
    if torch.rand(()).item() >= probability:
        return tokens
    deviations: Tensor = tokens.norm(dim=-1, keepdim=True) * (scale / tokens.shape[-1])
    return tokens + torch.randn_like(tokens) * deviations


def neighbour_mask(grid: int, neighbours: int) -> Tensor:
    """(grid^2, grid^2) bool: True where a token (row) may not see another: up to neighbours // 2 away in rows and columns.

    Source: section 3.2. Raises InputError if a token sees nothing.
    """
    if neighbours == 0:
        return torch.zeros(grid**2, grid**2, dtype=torch.bool)
    if grid // 2 <= neighbours // 2:
        raise InputError(
            f"uniad: with neighbours {neighbours} the middle of a grid of {grid} sees nothing; use a finer grid or fewer "
            "neighbours (0: all are seen)"
        )
    near = (torch.arange(grid)[:, None] - torch.arange(grid)).abs() <= neighbours // 2
    return (near[:, None, :, None] & near[None, :, None, :]).reshape(grid**2, grid**2)


class GridPosition(nn.Module):
    """A learnt embedding of each place: one half of the channels is its column's, the other its row's."""

    def __init__(self, grid: int, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(grid, channels // 2))
        self.columns = nn.Parameter(torch.rand(grid, channels // 2))

    def forward(self) -> Tensor:
        """(grid^2, channels), row by row."""
        grid = len(self.rows)
        columns = self.columns[None].expand(grid, -1, -1)
        rows = self.rows[:, None].expand(-1, grid, -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)


class EncoderLayer(nn.Module):
    """Attention, then two linear layers; each added to what came in, and normalised after that."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.self_attention = MaskedAttention(settings)
        self.feed = FeedForward(settings)

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        fed: Tensor = self.feed(self.self_attention(tokens, tokens, position, mask))
        return fed


class QueryDecoderLayer(nn.Module):
    """A learnt query asks the encoder's tokens, the answer asks the tokens of the layer before. Source: section 3.2."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(settings.grid**2, settings.channels))
        self.encoder_attention = MaskedAttention(settings)
        self.previous_attention = MaskedAttention(settings)
        self.feed = FeedForward(settings)

    def forward(self, before: Tensor, memory: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        answer = self.encoder_attention(self.query[None], memory, position, mask)
        fed: Tensor = self.feed(self.previous_attention(answer, before, position, mask))
        return fed


class MaskedAttention(nn.Module):
    """Multi-head attention of queries to tokens, but for those that the mask hides; positions are added to queries and keys,
    not to values. What it reads is added to the queries and normalised.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.multihead = MultiheadAttention(settings.channels, settings.heads, settings.dropout)
        self.dropout, self.norm = Dropout(settings.dropout), nn.LayerNorm(settings.channels)

    def forward(self, queries: Tensor, tokens: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """queries: (B, P, C), or (1, P, C) for all alike; tokens: (B, P, C); position: (P, C); mask: (P, P) bool, True where
        hidden.
        """
        read = self.multihead(queries + position, tokens + position, tokens, mask)
        added: Tensor = self.norm(queries + self.dropout(read))
        return added


class FeedForward(nn.Module):
    """Two linear layers at each token by itself, added and normalised."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Linear(settings.channels, settings.feedforward),
            nn.ReLU(inplace=True),
            Dropout(settings.dropout),
            Linear(settings.feedforward, settings.channels),
            Dropout(settings.dropout),
        )
        self.norm = nn.LayerNorm(settings.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        added: Tensor = self.norm(tokens + self.body(tokens))
        return added
