"""The names that the authors of two methods give to what is named otherwise here, so that their files can be read.

Code read: hq-deng/RD4AD at 6554076 (MIT) and zhiyuanyou/UniAD at a5b9d9d (Apache-2.0); none of it is used. A name is turned by
the rules in their order, as often as they apply.
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
from mddbench.nn.weights import as_timm, named_as_efficientnet

Rules = Sequence[tuple[str, str]]
"""What is found in a name of ours (a regular expression), and what the authors have in its place."""

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
"""RD4AD: the embedding is `bn`, its parts that nothing reads are `bn.conv4` and `bn.bn4`."""

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
"""UniAD: in a decoder's layer `self_attn` asks the encoder's tokens, `multihead_attn` those of the layer before."""


def check_backbone(given: State, encoder: FrozenEncoder, where: str) -> None:
    """Raise InputError if a file holds the EfficientNet that it was trained with, and the encoder is another one."""
    theirs = {name: value for name, value in given.items() if name.startswith("backbone.")}
    own = encoder.weights()
    if named_as_efficientnet(theirs) is None:
        return
    other = as_timm(theirs)
    for name, value in own.items():
        if name in other and (
            other[name].shape != value.shape or not torch.allclose(other[name].to(value), value, 1e-5, 1e-6)
        ):
            raise InputError(
                f"{where}: holds the encoder that it was trained with, and '{encoder.name}' ({encoder.weights_source}) has "
                f"other weights at '{name}'; give the file by --weights-dir, too"
            )


def renamed(wanted: State, content: Any, rules: Rules, where: str, unread: Sequence[str] = ()) -> State:
    """What a file of the authors holds, under our names and in our types.

    wanted: our state; content: the file's, dicts of tensors however nested, perhaps with `module.` before names; unread: how
    names begin that may be there and are not needed.
    Raises InputError, with what is in the file, if it does not hold exactly what is wanted.
    """
    given = flattened(content)
    found: State = {}
    for name, value in wanted.items():
        theirs = name
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        if theirs not in given:
            if name.endswith("num_batches_tracked"):  # no inference reads it; old files lack it
                found[name] = value
                continue
            raise InputError(f"{where}: lacks '{theirs}'; it is of another network ({described(given)})")
        tensor = given.pop(theirs)
        if tensor.shape != value.shape:
            raise InputError(
                f"{where}: '{theirs}' is {tuple(tensor.shape)}, expected {tuple(value.shape)}; it is of another network or size"
            )
        found[name] = tensor.to(value)
    more = [name for name in given if not name.startswith(tuple(unread))]
    if more:
        raise InputError(f"{where}: holds '{more[0]}', which the method does not have; it is of another network")
    return found


def flattened(content: Any, before: str = "") -> State:
    """The tensors of nested dicts, their names joined by dots and without `module.`, which parallel training puts before."""
    found: State = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        own = before + str(name).removeprefix("module.")
        if isinstance(value, Tensor):
            found[own] = value
        else:
            found |= flattened(value, f"{own}.")
    return found
