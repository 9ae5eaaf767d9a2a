"""Tensor names in the files of some methods' authors, so that their files can be read.

The rules turn a name of ours into the authors' name. They apply in their order, each as often as it matches.

Code read: hq-deng/RD4AD at 6554076 (MIT), zhiyuanyou/UniAD at a5b9d9d (Apache-2.0) and
tientrandinh/Revisiting-Reverse-Distillation at 7f2ceb7 (MIT); none of it is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.tensor_files import State, described
from mddbench.nn.weights import as_timm, efficientnet_prefix

Rules = Sequence[tuple[str, str]]
"""Pairs of a regular expression, which matches in our names, and its replacement in the authors' names."""

REVERSE_DISTILLATION: Rules = (
    (r"^bottleneck\.down1\.0\.", "bn.conv1."),
    (r"^bottleneck\.down1\.1\.", "bn.bn1."),
    (r"^bottleneck\.down1\.3\.", "bn.conv2."),
    (r"^bottleneck\.down1\.4\.", "bn.bn2."),
    (r"^bottleneck\.down2\.0\.", "bn.conv3."),
    (r"^bottleneck\.down2\.1\.", "bn.bn3."),
    (r"^bottleneck\.embed\.(\d+)\.shortcut\.", r"bn.bn_layer.\1.downsample."),
    (r"^bottleneck\.embed\.", "bn.bn_layer."),
    (r"^decoder\.stages\.0\.", "decoder.layer1."),
    (r"^decoder\.stages\.1\.", "decoder.layer2."),
    (r"^decoder\.stages\.2\.", "decoder.layer3."),
    (r"\.shortcut\.", ".upsample."),
    (r"\.body\.0\.0\.", ".conv1."),
    (r"\.body\.0\.1\.", ".bn1."),
    (r"\.body\.2\.0\.", ".conv2."),
    (r"\.body\.2\.1\.", ".bn2."),
    (r"\.body\.4\.0\.", ".conv3."),
    (r"\.body\.4\.1\.", ".bn3."),
)
"""RD4AD: the embedding is `bn`; its layers `bn.conv4` and `bn.bn4` are never used."""

PROJECTED_DISTILLATION: Rules = (
    *REVERSE_DISTILLATION,
    (r"^projections\.0\.body\.", "proj.proj_a.proj."),
    (r"^projections\.1\.body\.", "proj.proj_b.proj."),
    (r"^projections\.2\.body\.", "proj.proj_c.proj."),
)
"""RD++: as RD4AD, with a projection for each level. The rules of RD4AD come first and match none of their names."""

UNIFIED_TRANSFORMER: Rules = (
    (r"^project_in\.", "reconstruction.input_proj."),
    (r"^project_out\.", "reconstruction.output_proj."),
    (r"^position\.rows$", "reconstruction.pos_embed.row_embed.weight"),
    (r"^position\.columns$", "reconstruction.pos_embed.col_embed.weight"),
    (r"^norm\.", "reconstruction.transformer.decoder.norm."),
    (r"^encoder_layers\.(\d+)\.feed\.norm\.", r"reconstruction.transformer.encoder.layers.\1.norm2."),
    (r"^encoder_layers\.", "reconstruction.transformer.encoder.layers."),
    (r"^decoder_layers\.", "reconstruction.transformer.decoder.layers."),
    (r"\.query$", ".learned_embed.weight"),
    (r"\.(self_attention|encoder_attention)\.multihead\.", ".self_attn."),
    (r"\.(self_attention|encoder_attention)\.norm\.", ".norm1."),
    (r"\.previous_attention\.multihead\.", ".multihead_attn."),
    (r"\.previous_attention\.norm\.", ".norm2."),
    (r"\.feed\.body\.0\.", ".linear1."),
    (r"\.feed\.body\.3\.", ".linear2."),
    (r"\.feed\.norm\.", ".norm3."),
)
"""UniAD: in a decoder layer, `self_attn` attends to the encoder's tokens.

`multihead_attn` attends to the tokens of the layer before.
"""


def check_backbone(given: State, encoder: FrozenEncoder, file: str) -> None:
    """Check that the encoder equals the EfficientNet in a file of the authors, if the file holds one.

    Args:
        given: Tensors of the file.
        encoder: Encoder that the method uses.
        file: Name of the file, for messages.

    Raises:
        InputError: If the file holds an EfficientNet with other weights.
    """
    backbone = {name: value for name, value in given.items() if name.startswith("backbone.")}
    own = encoder.weights()
    if efficientnet_prefix(backbone) is None:
        return
    expected = as_timm(backbone)
    for name, value in own.items():
        if name in expected and (
            expected[name].shape != value.shape or not torch.allclose(expected[name].to(value), value, 1e-5, 1e-6)
        ):
            raise InputError(
                f"{file}: holds the encoder that it was trained with, and '{encoder.name}' ({encoder.weights_source}) "
                f"has other weights at '{name}'; give the file by --weights-dir, too"
            )


def renamed(wanted: State, content: Any, rules: Rules, file: str, unread: Sequence[str] = ()) -> State:
    """Rename the tensors of an authors' file to our names, and convert them to our types.

    Args:
        wanted: Our own state, which gives names, shapes and types.
        content: Content of the file: nested dicts of tensors, whose names may begin with `module.`.
        rules: Rules that turn our names into the authors' names.
        file: Name of the file, for messages.
        unread: Beginnings of names that may be in the file and are not needed.

    Returns:
        A tensor for each name of `wanted`. Counters of batches that the file lacks are taken from `wanted`.

    Raises:
        InputError: If a tensor is missing, has another shape, or is not needed. The message names it.
    """
    given = flattened(content)
    state: State = {}
    for name, value in wanted.items():
        authors_name = name
        for pattern, replacement in rules:
            authors_name = re.sub(pattern, replacement, authors_name)
        if authors_name not in given:
            if name.endswith("num_batches_tracked"):  # inference does not read it, and old files lack it
                state[name] = value
                continue
            raise InputError(f"{file}: lacks '{authors_name}'; it is of another network ({described(given)})")
        tensor = given.pop(authors_name)
        if tensor.shape != value.shape:
            raise InputError(
                f"{file}: '{authors_name}' is {tuple(tensor.shape)}, expected {tuple(value.shape)}; "
                f"it is of another network or size"
            )
        state[name] = tensor.to(value)
    unknown = [name for name in given if not name.startswith(tuple(unread))]
    if unknown:
        raise InputError(f"{file}: holds '{unknown[0]}', which the method does not have; it is of another network")
    return state


def flattened(content: Any, prefix: str = "") -> State:
    """Collect the tensors of nested dicts.

    Args:
        content: Nested dicts of tensors. Anything that is neither a dict nor a tensor is left out.
        prefix: Put before every name.

    Returns:
        Tensors by name. The names of nested dicts are joined by dots.
        `module.`, which parallel training puts before a name, is removed.
    """
    tensors: State = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        path = prefix + str(name).removeprefix("module.")
        if isinstance(value, Tensor):
            tensors[path] = value
        else:
            tensors |= flattened(value, f"{path}.")
    return tensors
