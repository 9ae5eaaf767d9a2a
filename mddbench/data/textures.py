"""Pictures of any kind to draw defects with, as those of the Describable Textures Dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mddbench.data.cache import decoded_splits
from mddbench.data.fingerprint import manifest
from mddbench.data.listing import image_files, nested
from mddbench.data.samples import Sample
from mddbench.errors import InputError
from mddbench.progress import WARNING, Reporter
from mddbench.sizes import ImageSize


@dataclass(frozen=True)
class Textures:
    """Pictures to draw defects with.

    Attributes:
        images: (N, S, S, 3) uint8, RGB.
        fingerprint: The fingerprint of the files, equal wherever they lie.
    """

    images: NDArray[np.uint8]
    fingerprint: str

    def __str__(self) -> str:
        """Return the number of pictures and the start of the fingerprint, as the protocol card shows them."""
        return f"{len(self.images)} pictures, {self.fingerprint[:16]}"


def open_textures(folder: Path, size: ImageSize, cache: Path, reporter: Reporter, decode: bool = True) -> Textures:
    """Decode all pictures below a folder into the cache. Folders that mddbench wrote are skipped.

    Args:
        folder: The folder of the pictures.
        size: The size of the decoded pictures.
        cache: The cache folder.
        reporter: Receives progress, messages and warnings.
        decode: False to use only what is decoded. It is an UnpreparedError if that is not all.

    Returns:
        The pictures, sorted by path.

    Raises:
        InputError: If there is no picture, or if one is faulty.
    """
    files = sorted(path for inner in (folder, *nested(folder)) for path in image_files(inner) if path.is_file())
    if not files:
        raise InputError(f"--textures {folder}: expected a folder of pictures, as images/ of DTD; found none there")
    samples = tuple(Sample(path, "textures", "train") for path in files)
    file_manifest = manifest(folder, files, reporter, hash_folder=cache / "manifests")
    (decoded,) = decoded_splits([samples], size, cache / "decoded", file_manifest, reporter, decode=decode)
    for line in decoded.oddities.lines(folder):
        reporter.say(f"{WARNING}--textures {folder}: {line}")
    return Textures(decoded.images, file_manifest.fingerprint)
