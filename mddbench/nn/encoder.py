"""The frozen teacher: a timm backbone that turns an image into a pyramid of features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.naming import fitted
from mddbench.nn.padding import pad_as_for
from mddbench.nn.tensor_files import State
from mddbench.nn.weights import digest, load_state
from mddbench.plugins import nearest


class FrozenEncoder(nn.Module):
    """Features of images at several levels, without gradient; in evaluation mode whatever `train()` says.

    channels, strides: of each level, shallow to deep; weights_source: where the weights came from.
    backbone: timm's own, without the stages behind the deepest level, which are neither computed nor moved to a device.
    padding_for: the image size that strided convolutions are padded for at every size; None for timm's way.
    """

    def __init__(self, name: str, levels: tuple[int, ...], padding_for: int | None = None) -> None:
        """An encoder with no weights worth the name; `load_encoder` is what people call."""
        super().__init__()
        self.name, self.levels, self.padding_for = name, levels, padding_for
        self.backbone: Any = _pyramid(name, levels)
        self.channels: tuple[int, ...] = tuple(self.backbone.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.backbone.feature_info.reduction())
        self.channels_last_out = "NHWC" in str(getattr(self.backbone, "output_fmt", ""))  # Swin, for one
        self.weights_source = "none"
        config = self.backbone.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self._not_computed = _cut(self.backbone)
        if padding_for is not None:
            pad_as_for(self.backbone, padding_for, name)
        self.requires_grad_(False)
        self.eval()

    def weights(self) -> State:
        """The tensors that timm's `features_only` has at these levels, by its names, those of stages that are not computed
        included.
        """
        return {**self.backbone.state_dict(), **self._not_computed}

    def load_weights(self, state: State) -> None:
        """Take tensors that are named and shaped as `weights` has them."""
        own = self.backbone.state_dict()
        self.backbone.load_state_dict({name: state[name] for name in own})
        self._not_computed = {name: state[name] for name in self._not_computed}

    @property
    def weights_sha256(self) -> str:
        """Hash of `weights`: the same for one model wherever its weights came from and however they were packed."""
        return digest(self.weights())

    def train(self, mode: bool = True) -> FrozenEncoder:  # noqa: ARG002
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> features [(B, C_l, H / stride_l, W / stride_l)], shallow to deep."""
        features: list[Tensor] = self.backbone((images - self.mean) / self.std)
        return [level.movedim(-1, 1) for level in features] if self.channels_last_out else features


def load_encoder(
    name: str,
    levels: tuple[int, ...],
    weights_dir: Path | None,
    sha256: str | None = None,
    padding_for: int | None = None,
) -> FrozenEncoder:
    """A frozen encoder with its weights.

    weights_dir: a folder that holds them, or the file itself; sha256: if given, the hash that the tensors must have;
    padding_for: as `FrozenEncoder` has it.
    Raises InputError for an unknown encoder or level, for missing or unfit weights, and for another hash.
    """
    encoder = FrozenEncoder(name, levels, padding_for)
    state, encoder.weights_source = load_state(name, weights_dir)
    told = f"encoder '{name}': the weights ({encoder.weights_source})"
    encoder.load_weights(fitted(encoder.weights(), state, told))
    if sha256 is not None and encoder.weights_sha256 != sha256:
        raise InputError(f"{told} have SHA-256 {encoder.weights_sha256}, the experiment expects {sha256}")
    return encoder


def _pyramid(name: str, levels: tuple[int, ...]) -> Any:
    known = timm.list_models()
    if name.split(".", maxsplit=1)[0] not in known:
        raise InputError(
            f"unknown encoder '{name}'{nearest(name.split('.', maxsplit=1)[0], known)}; `timm.list_models()` lists them"
        )
    make = partial(timm.create_model, name, features_only=True, out_indices=levels, pretrained=False)
    try:
        try:
            return make(dynamic_img_size=True)  # a vision transformer's images need not have the size it was trained on
        except TypeError:
            return make()
    except (RuntimeError, AssertionError, IndexError, ValueError) as fault:
        raise InputError(f"encoder '{name}' has no features at levels {list(levels)} ({fault})") from None


def _cut(backbone: Any) -> State:
    """Take off the stages behind the deepest level, which timm's wrappers of EfficientNet and MobileNet would compute; returns
    their tensors.
    """
    places, stages = getattr(backbone, "_stage_out_idx", None), getattr(backbone, "blocks", None)
    if not isinstance(places, dict) or not isinstance(stages, nn.Sequential) or backbone.feature_hooks is not None:
        return {}
    whole = backbone.state_dict()
    backbone.blocks = stages[: max(places)]
    return {name: whole[name] for name in whole.keys() - backbone.state_dict().keys()}
