"""Reading of weights files: safetensors, or pickles of which nothing is executed.

A file may pack its state dict into other dicts.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mddbench.errors import InputError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
"""File suffixes of weights. `.tar` stands for `name.pth.tar`, which training scripts write."""
PACKED_AS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "model_state_dict", "net", "module")
"""Keys under which checkpoints store their state dict.

The first key that exists is used. Averaged weights come before others, as in timm.
"""
State = dict[str, Tensor]


class Inert:
    """Replaces an object of a pickle that is not a tensor: it accepts any arguments and does nothing."""

    def __init__(self, *_: object) -> None:
        """Ignore the arguments."""

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""


INERT = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
"""Types that training scripts store beside tensors: settings, and metrics as NumPy numbers.

They are read as `Inert`.
"""
DICTS = ("easydict.EasyDict",)
"""Types of settings that are filled like a dict. They are read as a dict."""


def read_tensors(file: Path) -> State:
    """Read the state dict of a weights file, and unpack it from other dicts.

    An InputError is raised if the file holds no state dict. The message says what it holds.

    Args:
        file: Weights file. A hash in its name (`name-0123abcd.pth`) must be the start of the file's SHA-256.

    Returns:
        Tensors by name.
    """
    return state_of(read_content(file), file)


def read_content(file: Path) -> Any:
    """Read a weights file without executing anything in it.

    Args:
        file: Weights file. A hash in its name must be the start of the file's SHA-256.

    Returns:
        The content, mostly nested dicts of tensors.

    Raises:
        InputError: If the file cannot be read as tensors, or has another hash.
    """
    _check_hash_in_name(file)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        # Replacements are given by name. Otherwise PyTorch would look up the objects themselves and call them.
        replacements: list[Any] = [(_inert(name), name) for name in INERT] + [(OrderedDict, name) for name in DICTS]
        with torch.serialization.safe_globals(replacements):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as fault:  # noqa: BLE001 - damaged and foreign files raise errors of many types
        raise InputError(f"{file}: cannot be read as weights ({_reason(file, fault)})") from None


def _inert(name: str) -> type[Inert]:
    """Create a new class for each name, since PyTorch's reader needs different classes."""
    return type(name.rpartition(".")[2], (Inert,), {})


def _reason(file: Path, fault: Exception) -> str:
    """Explain why a file cannot be read."""
    unsafe: list[str] = []
    try:
        if file.suffix != ".safetensors":
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # noqa: BLE001 - a file that is no checkpoint at all raises errors of many types
        unsafe = []
    refused = [name for name in unsafe if name not in (*INERT, *DICTS)]
    if refused:
        names = ", ".join(sorted(refused)[:3])
        return f"it asks to run {names}, and nothing in a weights file is run; save its tensors alone"
    return f"{type(fault).__name__}; fetch the file again"


DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
"""A date, which some file names have in the place of a hash."""


def _check_hash_in_name(file: Path) -> None:
    """Raise InputError if the name of a file states a hash and the file has another one."""
    stated = re.search(r"-([0-9a-f]{8,64})$", file.stem)
    if stated is not None and not DATE.fullmatch(stated[1]):
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
        if not actual.startswith(stated[1]):
            raise InputError(
                f"{file}: its SHA-256 begins {actual[:8]}, its name says {stated[1]}; fetch the file again"
            )


def state_of(content: Any, file: Path) -> State:
    """Unpack the state dict from the content of a file.

    Args:
        content: State dict, perhaps nested in dicts under keys of PACKED_AS.
        file: File with this content, for messages.

    Returns:
        Tensors by name.

    Raises:
        InputError: If there is no state dict. The message says what the file holds.
    """
    packed = content
    while isinstance(packed, dict) and not _is_state(packed):
        key = next((key for key in PACKED_AS if isinstance(packed.get(key), dict) and packed[key]), None)
        if key is None:
            break
        packed = packed[key]
    if not _is_state(packed):
        raise InputError(f"{file}: expected a state dict of tensors, found {described(content)}")
    return dict(packed)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def described(content: Any) -> str:
    """Describe the content of a file in a few words."""
    if not isinstance(content, dict):
        return type(content).__name__
    if not content:
        return "an empty dict"
    names = [str(name) for name in content]
    kind = f"{len(names)} tensors" if _is_state(content) else f"a dict of {len(names)}"
    return f"{kind}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def digest(state: State) -> str:
    """Hash the names, types, shapes and values of tensors.

    Args:
        state: Tensors by name, on any device.

    Returns:
        SHA-256 in hexadecimal digits. It does not depend on where the tensors came from.
    """
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()
