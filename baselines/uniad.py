"""UniAD: a transformer rebuilds the features of a frozen encoder from noisy ones.

Its attention is masked, so that no token sees the position that it has to rebuild.

Paper:     You et al., A Unified Model for Multi-class Anomaly Detection, NeurIPS 2022.
Code read: the authors' zhiyuanyou/UniAD at a5b9d9d (Apache-2.0), through notes on it. None of it is used.
Differs:   Features of any encoder and image size are resized to the grid. Attention computes what PyTorch's own does.
Variants:  The authors' is the default: EfficientNet-B4 at levels 0 to 3, padded as for 380 pixels
           (`encoder.padding_for`). Images have 224 pixels, the grid is 14 (stride 16), and gradient_clip is 0.1.
           ADer's variant has 256 pixels, timm's padding, `settings.grid: 16`, `settings.neighbours: 8`
           (half of it is 4: 9x9) and gradient_clip 5.0.
Unsaid:    The paper shows no normalisation at the end of the decoder. The code has one there and none at the end of the
           encoder.
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
from mddbench.nn.scores import describe_pooled, pooled_maximum
from mddbench.nn.tokens import Dropout, Linear, MultiheadAttention
from mddbench.settings import BelowOne, Count, Depth, Fraction, Strict

Noise = Annotated[float, Field(ge=0, le=1e4)]


class UniADSettings(Strict):
    """The settings of UniAD."""

    grid: Count = Field(default=14, description="The side of the grid of tokens to which features are resized.")
    neighbours: Annotated[int, Field(ge=0)] = Field(
        default=7,
        description="The size of the masked neighbourhood. No token sees itself, or tokens up to half of this "
        "number away in rows and columns. 0: every token sees all.",
    )
    channels: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        default=256, description="The number of channels of the transformer's tokens."
    )
    heads: Count = Field(default=8, description="The number of heads of each attention.")
    layers: Depth = Field(default=4, description="The number of encoder layers, and of decoder layers.")
    feedforward: Count = Field(default=1024, description="The inner width of the feed-forward blocks.")
    dropout: BelowOne = Field(default=0.1, description="The probability of dropout in the transformer.")
    jitter: Noise = Field(
        default=20.0,
        description="The scale of the noise in training, relative to a token's length divided by its channels.",
    )
    jitter_probability: Fraction = Field(default=1.0, description="The probability that a batch gets noise.")
    pool: Count = Field(
        default=16,
        description="The side of the window, in pixels, over which a map is averaged before its maximum is taken.",
    )


class UniAD(Detector[UniADSettings]):
    """Feature reconstruction with neighbour-masked attention and a learnt query in each decoder layer.

    The map is the distance between the features and the rebuilt features. It is resized to the image and not smoothed.
    """

    label = "UniAD"
    version = 3  # 2: dropout draws other numbers; 3: all layers start as copies of one layer
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: UniADSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        if settings.channels % settings.heads:
            raise InputError(f"uniad: channels {settings.channels} are no multiple of heads {settings.heads}")
        self.image_score_rule = describe_pooled(settings.pool)
        width, features = settings.channels, sum(encoder.channels)
        self.register_buffer("mask", neighbour_mask(settings.grid, settings.neighbours), persistent=False)
        self.mask: Tensor
        self.position = GridPosition(settings.grid, width)
        self.project_in = Linear(features, width)
        self.encoder_layers = copies(EncoderLayer(settings), settings.layers)
        self.decoder_layers = copies(QueryDecoderLayer(settings), settings.layers)
        self.norm = nn.LayerNorm(width)
        self.project_out = Linear(width, features)
        # This leaves out the queries and attention's inner projections, which stay equal in all layers.
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("encoder."):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def load_authors_state(self, content: Any, where: str) -> None:
        """Load the weights of a file by the authors of UniAD.

        Args:
            content: The content of the file, tensors in dicts.
            where: The name of the file, for messages.
        """
        state = flattened(content.get("state_dict", content) if isinstance(content, dict) else content)
        check_backbone(state, self.encoder, where)
        self.load_learned_state(
            renamed(self.learned_state(), state, UNIFIED_TRANSFORMER, where, ("backbone.", "neck."))
        )

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the reconstruction loss, a scalar, on a batch of normal images."""
        tokens = aligned(self.teacher(batch), self.settings.grid)
        with full_precision(tokens):
            noisy = jitter(tokens, self.settings.jitter, self.settings.jitter_probability)
        return {"reconstruction": F.mse_loss(at_least_single(self._rebuilt(noisy)), tokens)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), not smoothed.
        """
        tokens = aligned(self.encoder(images), self.settings.grid)
        distances = (at_least_single(self._rebuilt(tokens)) - tokens).norm(dim=-1)
        maps = distances.reshape(-1, 1, self.settings.grid, self.settings.grid)
        size = (images.shape[-2], images.shape[-1])
        return F.interpolate(maps, size, mode="bilinear", align_corners=True)[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores: the maximum of each map after averaging over `pool` x `pool` pixels.

        Args:
            maps: (B, H, W). Maps that are smaller than the window are averaged as a whole.

        Returns:
            (B,).
        """
        return pooled_maximum(maps, self.settings.pool)

    def _rebuilt(self, tokens: Tensor) -> Tensor:
        """The tokens (B, P, C) that the transformer rebuilds from tokens (B, P, C)."""
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
    """Make `count` layers that start with the same values, as in the authors' code."""
    return nn.ModuleList(deepcopy(layer) for _ in range(count))


def aligned(levels: list[Tensor], grid: int) -> Tensor:
    """Resize all levels to one grid and join their channels.

    Each level is resized bilinearly with aligned corners, without smoothing before.

    Source: section 3.1 of the paper; the neck of the code.

    Args:
        levels: (B, C_l, H_l, W_l) for each level.
        grid: The side of the grid.

    Returns:
        Tokens (B, grid^2, sum C_l), row by row, in at least single precision.
    """
    resized = [
        F.interpolate(at_least_single(level), (grid, grid), mode="bilinear", align_corners=True) for level in levels
    ]
    return torch.cat(resized, dim=1).flatten(2).transpose(1, 2).contiguous()


def jitter(tokens: Tensor, scale: float, probability: float) -> Tensor:
    """Add normal noise to all tokens of a batch, or to none of them.

    The standard deviation is scale x (length of the token) / C.

    Source: section 3.3 of the paper.

    Args:
        tokens: (B, P, C).
        scale: The scale of the noise, at least 0.
        probability: The probability that the batch gets noise, in [0, 1].

    Returns:
        (B, P, C).
    """
    if torch.rand(()).item() >= probability:
        return tokens
    deviations: Tensor = tokens.norm(dim=-1, keepdim=True) * (scale / tokens.shape[-1])
    return tokens + torch.randn_like(tokens) * deviations


def neighbour_mask(grid: int, neighbours: int) -> Tensor:
    """Build the attention mask that hides each token's neighbourhood from it.

    The neighbourhood are the tokens up to neighbours // 2 away in rows and columns, and the token itself.

    Source: section 3.2 of the paper.

    Args:
        grid: The side of the grid of tokens.
        neighbours: The size of the neighbourhood. 0 hides nothing.

    Returns:
        (grid^2, grid^2) bool, True where the token of the row may not see the token of the column.

    Raises:
        InputError: If some token would see nothing.
    """
    if neighbours == 0:
        return torch.zeros(grid**2, grid**2, dtype=torch.bool)
    if grid // 2 <= neighbours // 2:
        raise InputError(
            f"uniad: with neighbours {neighbours} the middle of a grid of {grid} sees nothing; "
            "use a finer grid or fewer neighbours (0: all are seen)"
        )
    near = (torch.arange(grid)[:, None] - torch.arange(grid)).abs() <= neighbours // 2
    return (near[:, None, :, None] & near[None, :, None, :]).reshape(grid**2, grid**2)


class GridPosition(nn.Module):
    """A learnt embedding of each grid position. Half of the channels depends on the column, the other half on the row.

    Attributes:
        rows: (grid, channels / 2), the embeddings of the rows.
        columns: (grid, channels / 2), the embeddings of the columns.
    """

    def __init__(self, grid: int, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(grid, channels // 2))
        self.columns = nn.Parameter(torch.rand(grid, channels // 2))

    def forward(self) -> Tensor:
        """Return the embeddings (grid^2, channels), row by row."""
        grid = len(self.rows)
        columns = self.columns[None].expand(grid, -1, -1)
        rows = self.rows[:, None].expand(-1, grid, -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)


class EncoderLayer(nn.Module):
    """An attention block, then two linear layers. The result of each is added to its input and then normalised."""

    def __init__(self, settings: UniADSettings) -> None:
        super().__init__()
        self.self_attention = MaskedAttention(settings)
        self.feed = FeedForward(settings)

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            tokens: (B, P, C).
            position: (P, C), the embeddings of the positions.
            mask: (P, P) bool, True where a token may not see another.

        Returns:
            (B, P, C).
        """
        fed: Tensor = self.feed(self.self_attention(tokens, tokens, position, mask))
        return fed


class QueryDecoderLayer(nn.Module):
    """A decoder layer with a learnt query.

    The query reads the encoder's tokens. The result then reads the tokens of the previous layer.

    Source: section 3.2 of the paper.

    Attributes:
        query: (grid^2, C), the learnt query.
    """

    def __init__(self, settings: UniADSettings) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(settings.grid**2, settings.channels))
        self.encoder_attention = MaskedAttention(settings)
        self.previous_attention = MaskedAttention(settings)
        self.feed = FeedForward(settings)

    def forward(self, previous: Tensor, memory: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            previous: (B, P, C), the tokens of the previous layer.
            memory: (B, P, C), the tokens of the encoder.
            position: (P, C), the embeddings of the positions.
            mask: (P, P) bool, True where a token may not see another.

        Returns:
            (B, P, C).
        """
        answer = self.encoder_attention(self.query[None], memory, position, mask)
        fed: Tensor = self.feed(self.previous_attention(answer, previous, position, mask))
        return fed


class MaskedAttention(nn.Module):
    """Multi-head attention of queries to all tokens that the mask does not hide.

    Positions are added to queries and keys, not to values. The result is added to the queries and normalised.
    """

    def __init__(self, settings: UniADSettings) -> None:
        super().__init__()
        self.multihead = MultiheadAttention(settings.channels, settings.heads, settings.dropout)
        self.dropout, self.norm = Dropout(settings.dropout), nn.LayerNorm(settings.channels)

    def forward(self, queries: Tensor, tokens: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """Apply the attention.

        Args:
            queries: (B, P, C), or (1, P, C) if they are the same for all images.
            tokens: (B, P, C).
            position: (P, C), the embeddings of the positions.
            mask: (P, P) bool, True where a query may not see a token.

        Returns:
            (B, P, C).
        """
        read = self.multihead(queries + position, tokens + position, tokens, mask)
        added: Tensor = self.norm(queries + self.dropout(read))
        return added


class FeedForward(nn.Module):
    """Two linear layers at each token. The result is added to the token and normalised."""

    def __init__(self, settings: UniADSettings) -> None:
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
        """Apply the block to tokens (B, P, C); the result has the same shape."""
        added: Tensor = self.norm(tokens + self.body(tokens))
        return added
