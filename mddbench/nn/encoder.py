"""The frozen teacher: a timm backbone that turns an image into a pyramid of features."""

from __future__ import annotations

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
from mddbench.nn.tensor_files import State
from mddbench.nn.weights import digest, load_state
from mddbench.plugins import nearest

NO_ENCODER = "none"
"""Name of the encoder without weights and levels, for methods that learn from the pixels alone."""


class FrozenEncoder(nn.Module):
    """Computes features of images at several levels, without gradient and always in evaluation mode.

    Attributes:
        name: timm's name of the backbone, or NO_ENCODER.
        levels: timm's indices of the feature levels, shallow to deep.
        padding_for: Image size in pixels that fixes the padding of strided convolutions, for images of any size.
            None for timm's own padding.
        backbone: timm's model. The stages after the deepest level are removed, so they use neither time nor memory.
        channels: Number of channels of each level, shallow to deep.
        strides: Stride in pixels of each level, shallow to deep.
        channels_last_out: Whether the backbone gives features as (B, H, W, C), as Swin does.
        weights_source: Where the weights came from.
        mean: (1, 3, 1, 1) mean for the normalisation of images.
        std: (1, 3, 1, 1) standard deviation for the normalisation of images.
    """

    def __init__(self, name: str, levels: tuple[int, ...], padding_for: int | None = None) -> None:
        """Create an encoder without pretrained weights; `load_encoder` creates one with them.

        Args:
            name: timm's name of the backbone.
            levels: timm's indices of the feature levels, shallow to deep.
            padding_for: Image size in pixels that fixes the padding, None for timm's own padding.
        """
        super().__init__()
        self.name, self.levels, self.padding_for = name, levels, padding_for
        self.backbone: Any = _create_backbone(name, levels)
        self.channels: tuple[int, ...] = tuple(self.backbone.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.backbone.feature_info.reduction())
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
        """
        features: list[Tensor] = self.backbone((images - self.mean) / self.std)
        return [level.movedim(-1, 1) for level in features] if self.channels_last_out else features


def load_encoder(
    name: str,
    levels: tuple[int, ...],
    weights_dir: Path | None,
    sha256: str | None = None,
    padding_for: int | None = None,
) -> FrozenEncoder:
    """Create a frozen encoder with its weights.

    Args:
        name: timm's name of the backbone.
        levels: timm's indices of the feature levels, shallow to deep.
        weights_dir: Folder with the weights file, or the file itself; None for a package or timm's hub.
        sha256: Hash that the tensors must have; None for no check.
        padding_for: Image size in pixels that fixes the padding, None for timm's own padding.

    Returns:
        The encoder.

    Raises:
        InputError: If the encoder or a level is unknown, weights are missing or do not fit, or the hash differs.
    """
    encoder = FrozenEncoder(name, levels, padding_for)
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


def _create_backbone(name: str, levels: tuple[int, ...]) -> Any:
    """Create timm's `features_only` model without pretrained weights."""
    if name == NO_ENCODER:
        if levels:
            raise InputError(f"encoder '{name}' has no level {levels[0]}; write `levels: []`")
        return _NoBackbone()
    architecture, models = name.split(".", maxsplit=1)[0], timm.list_models()
    if architecture not in models:
        raise InputError(f"unknown encoder '{name}'{nearest(architecture, models)}; `timm.list_models()` lists them")
    make = partial(timm.create_model, name, features_only=True, out_indices=levels, pretrained=False)
    try:
        try:
            return make(dynamic_img_size=True)  # a vision transformer then takes images of other sizes than in training
        except TypeError:
            return make()
    except (RuntimeError, AssertionError, IndexError, ValueError) as fault:
        raise InputError(f"encoder '{name}' has no features at levels {list(levels)} ({fault})") from None


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
