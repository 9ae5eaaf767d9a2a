"""Pictures of anything, as the Describable Textures Dataset has them: what defects may be drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mddbench.data.cache import decoded_splits
from mddbench.data.fingerprint import manifest
from mddbench.data.samples import Sample
from mddbench.data.tree import image_files, nested
from mddbench.errors import InputError
from mddbench.progress import WARNING, Reporter


@dataclass(frozen=True)
class Textures:
    """images: (N, S, S, 3) uint8 RGB; fingerprint: of the files, wherever they lie."""

    images: NDArray[np.uint8]
    fingerprint: str

    def __str__(self) -> str:
        return f"{len(self.images)} pictures, {self.fingerprint[:16]}"


def open_textures(folder: Path, size: int, cache: Path, reporter: Reporter) -> Textures:
    """All pictures below a folder, without what this program wrote there, decoded once into the cache. Raises InputError if
    there is none, or for a faulty one.
    """
    found = sorted(path for each in (folder, *nested(folder)) for path in image_files(each) if path.is_file())
    if not found:
        raise InputError(f"--textures {folder}: expected a folder of pictures, as images/ of DTD; found none there")
    samples = tuple(Sample(path, "textures", "train") for path in found)
    files = manifest(folder, found, reporter, remembered=cache / "manifests")
    (decoded,) = decoded_splits([samples], size, cache / "decoded", files, reporter)
    for line in decoded.oddities.lines(folder):
        reporter.say(f"{WARNING}--textures {folder}: {line}")
    return Textures(decoded.images, files.fingerprint)
