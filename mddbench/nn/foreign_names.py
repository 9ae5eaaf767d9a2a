"""The names that the authors of two methods give to what is named otherwise here, so that their files can be read.

Code read: hq-deng/RD4AD at 6554076 (MIT) and zhiyuanyou/UniAD at a5b9d9d (Apache-2.0); none of it is used. A name is turned by
the rules in their order, as often as they apply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mddbench.errors import InputError
from mddbench.nn.tensor_files import State, described

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
