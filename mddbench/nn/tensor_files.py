"""Files of tensors as people have them: safetensors, or pickles of which nothing is executed, however they are packed."""

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
"""`.tar` is of `name.pth.tar`, as training scripts write it."""
PACKED_AS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "model_state_dict", "net", "module")
"""Where checkpoints keep their state dict: the first that is there counts, averaged weights before others, as in timm."""
State = dict[str, Tensor]


class Inert:
    """Stands for an object of a pickle that is no tensor: it takes whatever it is made with and does nothing."""

    def __init__(self, *_: object) -> None:
        """Forget it."""

    def __setstate__(self, _: object) -> None:
        """Forget it."""


INERT = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
"""What training scripts keep beside their tensors: settings, and metrics as NumPy's numbers. Read as `Inert`."""
DICTS = ("easydict.EasyDict",)
"""The same, of what is filled like a dict: read as one."""


def read_tensors(file: Path) -> State:
    """The state dict of a weights file, taken out of what it is packed in.

    A hash in the name (`name-0123abcd.pth`) must be the start of the file's SHA-256.
    Raises InputError, with what is in the file, for one that holds no state dict.
    """
    return state_of(read_content(file), file)


def read_content(file: Path) -> Any:
    """What a weights file holds; nothing in it is executed. Raises InputError if it cannot be read as tensors."""
    _check_name(file)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        # By name: the objects themselves would be looked up, and then called.
        known: list[Any] = [(_inert(name), name) for name in INERT] + [(OrderedDict, name) for name in DICTS]
        with torch.serialization.safe_globals(known):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise InputError(f"{file}: cannot be read as weights ({_why(file, fault)})") from None


def _inert(name: str) -> type[Inert]:
    """A class of its own for each name, since the reader wants them to differ."""
    return type(name.rpartition(".")[2], (Inert,), {})


def _why(file: Path, fault: Exception) -> str:
    unsafe: list[str] = []
    try:
        if file.suffix != ".safetensors":
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # it is no such file at all
        unsafe = []
    others = [name for name in unsafe if name not in (*INERT, *DICTS)]
    if others:
        return f"it asks to run {', '.join(sorted(others)[:3])}, and nothing in a weights file is run; save its tensors alone"
    return f"{type(fault).__name__}; fetch the file again"


DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
"""What people put where others put a hash."""


def _check_name(file: Path) -> None:
    stated = re.search(r"-([0-9a-f]{8,64})$", file.stem)
    if stated is not None and not DATE.fullmatch(stated[1]):
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
        if not actual.startswith(stated[1]):
            raise InputError(
                f"{file}: its SHA-256 begins {actual[:8]}, its name says {stated[1]}; fetch the file again"
            )


def state_of(content: Any, file: Path) -> State:
    """The tensors of a file's content by name, whatever they are packed in (PACKED_AS, nested)."""
    packed = content
    while isinstance(packed, dict) and not _is_state(packed):
        name = next((name for name in PACKED_AS if isinstance(packed.get(name), dict) and packed[name]), None)
        if name is None:
            break
        packed = packed[name]
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
    """In a few words what a file holds."""
    if not isinstance(content, dict):
        return type(content).__name__
    if not content:
        return "an empty dict"
    names = [str(name) for name in content]
    kind = f"{len(names)} tensors" if _is_state(content) else f"a dict of {len(names)}"
    return f"{kind}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
