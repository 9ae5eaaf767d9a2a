"""Weights from files of a method's authors, in place of a training, so that published models can be evaluated.

No code in a file is executed. The SHA-256 of what was loaded is part of the protocol card and of the cell's identity.
So such a cell never has the identity of a cell that was trained here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.tensor_files import SUFFIXES, read_content

OPTION = "--from-checkpoint"
UNKNOWN = "not known (weights from a file)"
ALL_CATEGORIES = ""
"""Name of the one model that serves all categories."""


def load_authors_models(
    detector: Detector, path: Path, models: Sequence[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Load the weights of each model into the detector, one model after another.

    The detector's `learned_from` is set to the SHA-256 of all files.
    An InputError is raised for a file that does not exist or is not from the method's authors. Its message is one line.

    Args:
        detector: The detector that gets the weights.
        path: File of the one model, or a folder with one file for each category.
            The name of such a file ends with the name of its category.
        models: Names of the models: the categories, or ALL_CATEGORIES alone.

    Yields:
        Name of a model, and its learned state on the host. The detector has this state at that moment.
    """
    files = {model: _file(path, model, models) for model in models}
    detector.learned_from = f"from a file, SHA-256 {_digest(list(files.values()))}"
    for model, file in files.items():
        detector.load_authors_state(read_content(file), str(file))
        yield (
            model,
            {name: value.detach().cpu().clone().contiguous() for name, value in detector.learned_state().items()},
        )


def _file(path: Path, model: str, models: Sequence[str]) -> Path:
    """Find the file of a model."""
    if model == ALL_CATEGORIES:
        if path.is_file():
            return path
        found = "a folder, which is for --set setting=separate" if path.is_dir() else "nothing"
        raise InputError(f"{OPTION} {path}: expected the file of one model for all categories, found {found}")
    if not path.is_dir():
        raise InputError(
            f"{OPTION} {path}: expected a folder with a file for each category, as setting=separate asks for"
        )
    files = [file for file in sorted(path.iterdir()) if _category(file.name, models) == model]
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:3]) or "none"
        raise InputError(f"{OPTION} {path}: expected one file for '{model}', as wres50_{model}.pth; found {found}")
    return files[0]


def _category(name: str, categories: Sequence[str]) -> str | None:
    """Return the category of a file by its name: the category alone, or one word before it, as in wres50_nut.pth.

    If several categories fit, it is the longest; None if none fits.

    >>> _category("wres50_metal_nut.pth", ["nut", "metal_nut"]), _category("wres50_metal_nut.pth", ["nut"])
    ('metal_nut', None)
    """
    for suffix in sorted(SUFFIXES, key=len):
        name = name.removesuffix(suffix)
    fitting = [category for category in categories if re.fullmatch(rf"([^_-]+[_-])?{re.escape(category)}", name)]
    return max(fitting, key=len, default=None)


def _digest(files: list[Path]) -> str:
    """Compute the SHA-256 of a file; for several files that of their hashes, in the order of the categories."""
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
