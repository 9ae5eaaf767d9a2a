"""After FUTUREG's abstract: a transformer rebuilds features that were purified, guided by the layers of its encoder.

Paper:     Lin et al., Feature Purified Transformer With Cross-level Feature Guiding Decoder For Multi-class OOD and Anomaly
           Detection, arXiv 2406.15396, 2024. Only its abstract could be read.
Code read: none; none by the authors was found.
Differs:   Nothing can be said: the abstract names the purposes of two modules, and no more. One restricts the region of
           normal features, so that abnormal ones are filtered out. In the other, each layer of the encoder guides the
           rebuilding, so that detail survives. All that is here is one way to have both, and every choice is a setting.
           This is not FUTUREG, and its numbers say nothing about FUTUREG.
Variants:  `settings.purification` and `settings.guidance` switch the two modules, in `ablation/purification`.
           `settings.standardised: true`, `settings.cosine_pull: 0.02` and `settings.guidance_keys: purified` are an
           earlier draft, which was better on real images. Each of the three is off by default.
Unsaid:    Encoder, levels, widths, the form of both modules, losses, score. Purification is here a memory of prototypes that
           every token is read from, without a path around it. The guiding path is what a defect could leak through, so it
           has few heads, and dropout.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.memory_items import AddressedMemory, AddressingSettings
from mddbench.nn.precision import at_least_single
from mddbench.nn.scores import describe_pooled, pooled_maximum
from mddbench.nn.tokens import Dropout, Linear
from mddbench.nn.transformer import Block, CrossBlock, as_map, as_tokens
from mddbench.settings import BelowOne, Count, Depth, Extended

DEVIATION = 0.02
"""Standard deviation of the positions' first embeddings."""


class PrototypeSettings(AddressingSettings):
    """How prototypes are read: by cosines, all of them."""

    items: Count = Field(default=100, description="The number of prototypes.")
    similarity: Literal["dot", "cosine"] = Field(
        default="cosine", description="What is compared: the dot product of token and prototype, or their cosine."
    )
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = Field(
        default=0.1, description="What similarities are divided by before the softmax. Low values select sharply."
    )
    shrink: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.0, description="Weights below this number divided by that of prototypes become 0. 0: none does."
    )


class FUTUREGSettings(Extended):
    """The settings of what follows FUTUREG's abstract."""

    added: ClassVar[tuple[str, ...]] = ("standardised", "cosine_pull", "guidance_keys")

    grid: Count = Field(default=14, description="The side of the grid of tokens to which features are resized.")
    standardised: bool = Field(
        default=False,
        description="True: each channel of the features has mean 0 and deviation 1, by batches in training and by their "
        "moving averages later.",
    )
    channels: Count = Field(default=256, description="The number of channels of a token.")
    heads: Count = Field(default=8, description="The number of heads of attention among tokens.")
    layers: Depth = Field(default=4, description="The number of encoder layers, and of decoder layers.")
    purification: bool = Field(
        default=True,
        description="True: the decoder begins with what prototypes give for each token, not with the token.",
    )
    prototypes: PrototypeSettings = Field(
        default=PrototypeSettings(), description="The settings of the prototypes and of their reading."
    )
    commitment: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.25,
        description="The weight of the distance of tokens to what is read for them, which moves the tokens.",
    )
    cosine_pull: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0,
        description="Above 0: tokens are moved by 1 minus their cosine with what is read for them, with this weight, and "
        "not by their distance.",
    )
    guidance: bool = Field(
        default=True,
        description="True: each decoder layer reads the tokens of an encoder layer, the last of the first. False: each "
        "reads its own tokens.",
    )
    guidance_keys: Literal["encoder", "purified"] = Field(
        default="encoder",
        description="Where the keys of that reading come from: the encoder layer's tokens, as the values do, or what the "
        "decoder begins with, which knows no defect if purification is true.",
    )
    guidance_heads: Count = Field(default=2, description="The number of heads of that reading.")
    guidance_dropout: BelowOne = Field(
        default=0.3, description="The probability of dropout of the tokens that are read."
    )
    pool: Count = Field(
        default=16,
        description="The side of the window, in pixels, over which a map is averaged before its maximum is taken.",
    )


class FUTUREG(Detector[FUTUREGSettings]):
    """Feature reconstruction from prototypes. The map is the distance of tokens to the rebuilt ones, not smoothed.

    Attributes:
        standard: The norm of the features; None if they stay as they are.
        position: (grid^2, C), what is added to each token.
        project_in: The linear layer from features to tokens.
        encoder_layers: The layers before the prototypes.
        prototypes: The prototypes; None without purification.
        decoder_layers: The layers behind them.
        project_out: The norm, and the linear layer from tokens to features.
    """

    label = "after FUTUREG's abstract"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: FUTUREGSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.image_score_rule = describe_pooled(settings.pool)
        width, features = settings.channels, sum(encoder.channels)
        for name, heads in (("heads", settings.heads), ("guidance_heads", settings.guidance_heads)):
            if width % heads:
                raise InputError(f"futureg: channels {width} are no multiple of {name} {heads}")
        self.standard = nn.BatchNorm1d(features, affine=False) if settings.standardised else None
        self.position = nn.Parameter(torch.randn(settings.grid**2, width) * DEVIATION)
        self.project_in = Linear(features, width)
        self.encoder_layers = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.layers))
        self.prototypes = AddressedMemory(width, settings.prototypes) if settings.purification else None
        self.dropout = Dropout(settings.guidance_dropout)
        self.decoder_layers = nn.ModuleList(
            CrossBlock(width, settings.guidance_heads) if settings.guidance else Block(width, settings.heads)
            for _ in range(settings.layers)
        )
        self.project_out = nn.Sequential(nn.LayerNorm(width), Linear(width, features))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            Scalar loss terms: the mean square of the error and, with purification, the weighted distance of tokens to
            what the prototypes give for them, or 1 minus their cosine.
        """
        features = self._features(self.teacher(batch))
        rebuilt, tokens, read = self._rebuilt(features)
        terms = {"reconstruction": F.mse_loss(rebuilt, features)}
        if self.prototypes is not None:
            terms["commitment"] = self._commitment(at_least_single(tokens), read.detach())
        return terms

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), not smoothed.
        """
        features = self._features(self.encoder(images))
        distances = (self._rebuilt(features)[0] - features).norm(dim=-1, keepdim=True)
        grids = as_map(distances, self.settings.grid, self.settings.grid)
        size = (images.shape[-2], images.shape[-1])
        return F.interpolate(grids, size, mode="bilinear", align_corners=False)[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores: the maximum of each map after averaging over `pool` x `pool` pixels.

        Args:
            maps: (B, H, W). Maps that are smaller than the window are averaged as a whole.

        Returns:
            (B,).
        """
        return pooled_maximum(maps, self.settings.pool)

    def diagnostics(self) -> dict[str, float]:
        """Return the share of prototypes that are alive, and the share of tokens that get an answer."""
        return {} if self.prototypes is None else self.prototypes.diagnostics()

    def _features(self, levels: list[Tensor]) -> Tensor:
        """Levels (B, C_l, H_l, W_l), joined on the grid: tokens (B, grid^2, sum C_l)."""
        size = (self.settings.grid, self.settings.grid)
        resized = [F.interpolate(at_least_single(each), size, mode="bilinear", align_corners=False) for each in levels]
        tokens = as_tokens(torch.cat(resized, dim=1)).contiguous()
        if self.standard is not None:
            tokens = self.standard(tokens.flatten(0, 1)).view_as(tokens)
        return tokens

    def _commitment(self, tokens: Tensor, read: Tensor) -> Tensor:
        """What moves tokens (B, P, C) to what is read for them, weighted: a scalar."""
        if self.settings.cosine_pull:
            return self.settings.cosine_pull * (1 - F.cosine_similarity(tokens, read, dim=-1)).mean()
        return self.settings.commitment * F.mse_loss(tokens, read)

    def _rebuilt(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, P, C) that are rebuilt, the encoder's last tokens, and what the decoder begins with."""
        tokens = self.project_in(features) + self.position
        levels = []
        for layer in self.encoder_layers:
            tokens = layer(tokens)
            levels.append(tokens)
        read = tokens if self.prototypes is None else self.prototypes(tokens)[0]
        rebuilt, keys = read, read if self.settings.guidance_keys == "purified" else None
        for layer, level in zip(self.decoder_layers, reversed(levels), strict=True):
            rebuilt = layer(rebuilt, self.dropout(level), keys) if self.settings.guidance else layer(rebuilt)
        return at_least_single(self.project_out(rebuilt)), tokens, read
