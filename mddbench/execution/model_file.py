"""The file with the learned tensors of a finished cell: one model for all categories, or one for each."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mddbench.nn.tensor_files import digest
from mddbench.runs.records import Record

MODEL = "model.safetensors"
"""Name of the file in a cell's folder."""
TRAINING = "mddbench.training"
"""Key in the metadata of the file. Its value is the training identity of the cell."""

State = dict[str, Tensor]


def write_model(state: State, file: Path, training_identity: str) -> None:
    """Write the file of a cell's models, whole or not at all.

    Args:
        state: Name -> tensor, of all models together.
        file: The file.
        training_identity: Hash over all that decides the trained weights.
    """
    partial = file.with_name(f"{file.name}.part")
    save_file(state, partial, {TRAINING: training_identity})
    os.replace(partial, file)


def read_model(file: Path, record: Record) -> tuple[State | None, str]:
    """Read the file of a cell's models and compare its hash with the record.

    Args:
        file: The file.
        record: Record of the cell.

    Returns:
        (content, ''), or (None, reason) if the file cannot be used.
    """
    try:
        state = load_file(file)
    except FileNotFoundError:
        return None, "it is not there"
    except (SafetensorError, OSError) as fault:
        return None, f"it cannot be read ({str(fault).splitlines()[0]})"
    if digest(state) != record.model_sha256:
        return None, "it is damaged (its tensors have another SHA-256 than its record says)"
    return state, ""


def trained_as(file: Path) -> str | None:
    """Read the training identity from a model's file; None if it has none or cannot be read."""
    try:
        with safe_open(file, "pt") as stored:
            return (stored.metadata() or {}).get(TRAINING)
    except (SafetensorError, OSError):
        return None


def joined(model: str, name: str) -> str:
    """Return the name of a model's tensor in the file of all models."""
    return f"{model}/{name}" if model else name


def state_of(flat: State, model: str) -> State:
    """Return the state of one model from the content of the file of all models.

    Args:
        flat: Name -> tensor, of all models together.
        model: The category of the model; '' for the one model that serves all categories.

    Returns:
        Name -> tensor.
    """
    if not model:
        return flat
    return {name.removeprefix(f"{model}/"): value for name, value in flat.items() if name.startswith(f"{model}/")}
