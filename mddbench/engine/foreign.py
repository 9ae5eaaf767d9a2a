"""Weights that others trained: the authors' files in place of a training, so that what they published can be evaluated.

Nothing in a file is executed, and what was loaded is told by its SHA-256: in the card, and so in a cell's identity, which is
never that of a cell that was trained here.
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
OF_TRAINING = ("epochs", "iterations", "batch_size", "optimizer", "schedule", "gradient_clip", "selection")
"""What a protocol card says of a training, and nobody knows of weights from a file."""
UNKNOWN = "not known (weights from a file)"
WHOLE = ""
"""The name of a model that is for all categories."""


def learned(detector: Detector, path: Path, models: Sequence[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each model's name and what it learned, on the host; the detector has learned it then, and knows of which files all are.

    path: the file of the one model; or a folder with a file for each category, whose name ends in the category's.
    Raises InputError, in one line, for a file that is not there or not of the method's authors.
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
    if model == WHOLE:
        if path.is_file():
            return path
        found = "a folder, which is for --set setting=separate" if path.is_dir() else "nothing"
        raise InputError(f"{OPTION} {path}: expected the file of one model for all categories, found {found}")
    if not path.is_dir():
        raise InputError(
            f"{OPTION} {path}: expected a folder with a file for each category, as setting=separate asks for"
        )
    named = [file for file in sorted(path.iterdir()) if _category(file.name, models) == model]
    if len(named) != 1:
        found = ", ".join(file.name for file in named[:3]) or "none"
        raise InputError(f"{OPTION} {path}: expected one file for '{model}', as wres50_{model}.pth; found {found}")
    return named[0]


def _category(name: str, categories: Sequence[str]) -> str | None:
    """The category that a file's name ends in, alone or behind one word, as wres50_; the longest, None if there is none.

    >>> _category("wres50_metal_nut.pth", ["nut", "metal_nut"]), _category("wres50_metal_nut.pth", ["nut"])
    ('metal_nut', None)
    """
    for suffix in sorted(SUFFIXES, key=len):
        name = name.removesuffix(suffix)
    named = [each for each in categories if re.fullmatch(rf"([^_-]+[_-])?{re.escape(each)}", name)]
    return max(named, key=len, default=None)


def _digest(files: list[Path]) -> str:
    """SHA-256 of a file; of several over theirs, in the order of the categories."""
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
