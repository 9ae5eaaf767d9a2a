"""The frozen teacher: a timm backbone that turns an image into a pyramid of features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.naming import match_tensors
from mddbench.nn.padding import pad_as_for
from mddbench.nn.tensor_files import State, digest
from mddbench.nn.weights import load_state, timm_name
from mddbench.plugins import nearest

NO_ENCODER = "none"
"""Name of the encoder without weights and levels, for methods that learn from the pixels alone."""
Level = int | tuple[int, ...]
"""timm's index of a feature level. Several indices are one level, the mean of their features."""


class FrozenEncoder(nn.Module):
    """Computes features of images at several levels, without gradient and always in evaluation mode.

    Attributes:
        name: timm's name of the backbone, NO_ENCODER, or the name of a package's weights.
        levels: The feature levels, shallow to deep.
        padding_for: Image size in pixels that fixes the padding of strided convolutions, for images of any size.
            None for timm's own padding.
        normed: True if the final normalisation of a vision transformer is applied to every level.
        prefix_tokens: Number of class and register tokens that follow the levels; 0 unless they were requested.
        backbone: timm's model. The stages after the deepest level are removed, so they use neither time nor memory.
        channels: Number of channels of each level, shallow to deep.
        strides: Stride in pixels of each level, shallow to deep.
        has_tokens: True for a vision transformer. Its features are kept as tokens lie in memory, channels side by side.
            So cached and new ones are summed in the same order.
        channels_last_out: Whether the backbone gives features as (B, H, W, C), as Swin does.
        weights_source: Where the weights came from.
        mean: (1, 3, 1, 1) mean for the normalisation of images.
        std: (1, 3, 1, 1) standard deviation for the normalisation of images.
    """

    def __init__(
        self,
        name: str,
        levels: tuple[Level, ...],
        padding_for: int | None = None,
        normed: bool = False,
        prefix_tokens: bool = False,
    ) -> None:
        """Create an encoder without pretrained weights; `load_encoder` creates one with them.

        An InputError is raised if the encoder or a level is unknown, or if it has no such normalisation or tokens.

        Args:
            name: timm's name of the backbone.
            levels: The feature levels, shallow to deep.
            padding_for: Image size in pixels that fixes the padding, None for timm's own padding.
            normed: True to apply the final normalisation of a vision transformer to every level.
            prefix_tokens: True to give class and register tokens of a vision transformer, too.
        """
        super().__init__()
        self.name, self.levels, self.padding_for, self.normed = name, levels, padding_for, normed
        groups = [level if isinstance(level, tuple) else (level,) for level in levels]
        single = tuple(dict.fromkeys(index for group in groups for index in group))
        grouped = len(single) < len(levels) or any(len(group) > 1 for group in groups)
        indices = tuple(sorted(single)) if grouped else single
        self.backbone: Any = _create_backbone(name, indices, normed)
        self._groups = [[indices.index(index) for index in group] for group in groups] if grouped else []
        self.prefix_tokens = _prefix_tokens(self.backbone, name) if prefix_tokens else 0
        self.channels: tuple[int, ...] = self._of_levels(self.backbone.feature_info.channels())
        self.strides: tuple[int, ...] = self._of_levels(self.backbone.feature_info.reduction())
        self.has_tokens = hasattr(getattr(self.backbone, "model", None), "num_prefix_tokens")
        self.channels_last_out = "NHWC" in str(getattr(self.backbone, "output_fmt", ""))
        self.weights_source = "none"
        config = self.backbone.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self._removed_weights = _remove_unused_stages(self.backbone)
        if padding_for is not None:
            pad_as_for(self.backbone, padding_for, name)
        self.requires_grad_(False)
        self.eval()

    def weights(self) -> State:
        """Return the weights, including those of the removed stages.

        Returns:
            The tensors of timm's `features_only` model at these levels, under its names.
        """
        return {**self.backbone.state_dict(), **self._removed_weights}

    def load_weights(self, state: State) -> None:
        """Load weights.

        Args:
            state: Tensors with the names and shapes of `weights`.
        """
        own = self.backbone.state_dict()
        self.backbone.load_state_dict({name: state[name] for name in own})
        self._removed_weights = {name: state[name] for name in self._removed_weights}

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of `weights`, which does not depend on where they came from or how they were stored."""
        return digest(self.weights())

    def describe_features(self) -> str:
        """Describe for a protocol card what else than levels decides the features, '' if nothing does."""
        normed = ["after the final normalisation"] if self.normed else []
        return ", ".join(normed + (["with class and register tokens"] if self.prefix_tokens else []))

    def train(self, mode: bool = True) -> FrozenEncoder:  # noqa: ARG002
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of images.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            One (B, C_l, H / stride_l, W / stride_l) tensor for each level l, shallow to deep.
            If class and register tokens were requested, their (B, T, C_l) for each level follow.
        """
        normed = (images - self.mean) / self.std
        if self.prefix_tokens:
            pairs = self.backbone.model.forward_intermediates(
                normed,
                indices=self.backbone.out_indices,
                norm=self.normed,
                return_prefix_tokens=True,
                intermediates_only=True,
            )
            maps, prefixes = zip(*pairs, strict=True)
            return [_channels_last(level) for level in self._means(maps)] + self._means(prefixes)
        features: list[Tensor] = self.backbone(normed)
        levels = self._means(features) if self._groups else features
        if self.has_tokens:
            return [_channels_last(level) for level in levels]
        return [level.movedim(-1, 1) for level in levels] if self.channels_last_out else levels

    def _means(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each level's features; a level of one index is that feature itself."""
        means = []
        for group in self._groups or [[position] for position in range(len(features))]:
            total = features[group[0]]
            for position in group[1:]:
                total = total + features[position]
            means.append(total / len(group) if len(group) > 1 else total)
        return means

    def _of_levels(self, values: Sequence[int]) -> tuple[int, ...]:
        """The value of each level, of the values of timm's indices; an InputError if they differ within a level."""
        for group in self._groups:
            if len({values[position] for position in group}) > 1:
                raise InputError(
                    f"encoder '{self.name}': levels {list(self.levels)} join features of different sizes; join only "
                    "those of equal ones, such as the blocks of a vision transformer"
                )
        return tuple(values[group[0]] for group in self._groups) if self._groups else tuple(values)


def load_encoder(
    name: str,
    levels: tuple[Level, ...],
    weights_dir: Path | None,
    sha256: str | None = None,
    **options: Any,
) -> FrozenEncoder:
    """Create a frozen encoder with its weights.

    Args:
        name: timm's name of the backbone.
        levels: The feature levels, shallow to deep.
        weights_dir: Folder with the weights file, or the file itself; None for a package or timm's hub.
        sha256: Hash that the tensors must have; None for no check.
        options: `padding_for`, `normed` and `prefix_tokens` of `FrozenEncoder`.

    Returns:
        The encoder.

    Raises:
        InputError: If the encoder or a level is unknown, weights are missing or do not fit, or the hash differs.
    """
    encoder = FrozenEncoder(name, levels, **options)
    if name == NO_ENCODER:
        return encoder
    state, encoder.weights_source = load_state(name, weights_dir)
    subject = f"encoder '{name}': the weights ({encoder.weights_source})"
    encoder.load_weights(match_tensors(encoder.weights(), state, subject))
    if sha256 is not None and encoder.weights_sha256 != sha256:
        raise InputError(f"{subject} have SHA-256 {encoder.weights_sha256}, the experiment expects {sha256}")
    return encoder


class _NoBackbone(nn.Module):
    """Stands for timm's model where there is no encoder. It gives no features."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = FeatureInfo([], out_indices=())
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    def forward(self, images: Tensor) -> list[Tensor]:  # noqa: ARG002
        return []


class _NormedTokens(nn.Module):
    """A vision transformer that gives the patch tokens of blocks after its final normalisation, as timm's wrapper would."""

    def __init__(self, model: Any, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.out_indices = model.prune_intermediate_layers(list(indices), prune_norm=False)
        self.model, self.pretrained_cfg = model, model.pretrained_cfg
        self.feature_info = FeatureInfo(model.feature_info, tuple(self.out_indices))

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.model.forward_intermediates(
            images, indices=self.out_indices, norm=True, intermediates_only=True
        )
        return features


def _create_backbone(name: str, indices: tuple[int, ...], normed: bool) -> Any:
    """Create timm's `features_only` model without pretrained weights."""
    if name == NO_ENCODER:
        if indices:
            raise InputError(f"encoder '{name}' has no level {indices[0]}; write `levels: []`")
        return _NoBackbone()
    architecture, models = name.split(".", maxsplit=1)[0], timm.list_models()
    if architecture not in models:
        raise InputError(f"unknown encoder '{name}'{nearest(architecture, models)}; `timm.list_models()` lists them")
    make = partial(timm.create_model, timm_name(name), pretrained=False)
    if not normed:
        make = partial(make, features_only=True, out_indices=indices)
    try:
        try:
            model = make(dynamic_img_size=True)  # a vision transformer then takes images of other sizes
        except TypeError:
            model = make()
        if normed and not isinstance(getattr(model, "norm", None), nn.LayerNorm):
            raise InputError(f"encoder '{name}' has no final normalisation of tokens; remove encoder.normed")
        return _NormedTokens(model, indices) if normed else model
    except (RuntimeError, AssertionError, IndexError, ValueError, AttributeError) as fault:
        raise InputError(f"encoder '{name}' has no features at levels {list(indices)} ({fault})") from None


def _prefix_tokens(backbone: Any, name: str) -> int:
    """Count the class and register tokens of a backbone.

    Args:
        backbone: timm's `features_only` model.
        name: Name of the encoder, for messages.

    Returns:
        Their number.

    Raises:
        InputError: If it has none.
    """
    count = getattr(getattr(backbone, "model", None), "num_prefix_tokens", 0)
    if not count:
        raise InputError(f"encoder '{name}' has no class or register tokens; remove encoder.prefix_tokens")
    return int(count)


def _channels_last(level: Tensor) -> Tensor:
    return level.contiguous(memory_format=torch.channels_last)


def _remove_unused_stages(backbone: Any) -> State:
    """Remove the stages after the deepest level, which timm's EfficientNet and MobileNet wrappers would compute.

    Args:
        backbone: timm's `features_only` model, changed in place.

    Returns:
        The tensors of the removed stages.
    """
    stage_indices, stages = getattr(backbone, "_stage_out_idx", None), getattr(backbone, "blocks", None)
    if (
        not isinstance(stage_indices, dict)
        or not isinstance(stages, nn.Sequential)
        or backbone.feature_hooks is not None
    ):
        return {}
    state = backbone.state_dict()
    backbone.blocks = stages[: max(stage_indices)]
    return {name: state[name] for name in state.keys() - backbone.state_dict().keys()}
