"""The frozen teacher: a timm backbone that turns an image into a pyramid of features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.weights import digest, load_state
from mddbench.plugins import nearest


class FrozenEncoder(nn.Module):
    """Features of images at several levels, without gradient; in evaluation mode whatever `train()` says.

    channels, strides: of each level, shallow to deep; weights_sha256: hash of the tensors in use;
    weights_source: where they came from.
    """

    def __init__(self, name: str, levels: tuple[int, ...]) -> None:
        """An encoder with no weights worth the name; `load_encoder` is what people call."""
        super().__init__()
        self.name, self.levels = name, levels
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
        self.requires_grad_(False)
        self.eval()

    @property
    def weights_sha256(self) -> str:
        return digest(self.backbone.state_dict())

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
    name: str, levels: tuple[int, ...], weights_dir: Path | None, sha256: str | None = None
) -> FrozenEncoder:
    """A frozen encoder with its weights.

    sha256: if given, the hash that the tensors in use must have.
    Raises InputError for an unknown encoder or level, for missing or unfit weights, and for another hash.
    """
    encoder = FrozenEncoder(name, levels)
    state, encoder.weights_source = load_state(name, weights_dir)
    wanted = encoder.backbone.state_dict()
    # A counter that no inference reads; old files lack it.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unfit = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or unfit:
        what = f"lack '{missing[0]}'" if missing else f"hold '{unfit[0]}' in another shape"
        raise InputError(f"encoder '{name}': the weights ({encoder.weights_source}) {what}; they are another model's")
    encoder.backbone.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})
    if sha256 is not None and encoder.weights_sha256 != sha256:
        raise InputError(
            f"encoder '{name}': the weights ({encoder.weights_source}) have SHA-256 {encoder.weights_sha256}, the "
            f"experiment expects {sha256}"
        )
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
