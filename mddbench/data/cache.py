"""Decodes a split once into one uint8 array on disk that all methods, seeds and epochs share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.data.images import DECODE_VERSION, decode_image, decode_mask
from mddbench.data.samples import Sample
from mddbench.errors import InputError
from mddbench.progress import Reporter

Pixels = NDArray[np.uint8]
Decoded = tuple[Pixels, NDArray[np.bool_]]


def decoded_split(
    samples: tuple[Sample, ...], size: int, folder: Path, fingerprint: str, reporter: Reporter
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Images (N, size, size, 3) uint8 and masks (N, size, size) bool of some samples, in their order, memory-mapped.

    Decoded now if the folder does not hold them yet. Written beside and renamed, so that a killed run or two
    runs at once leave no half-written array. Raises InputError for a faulty file or too small a disk.
    """
    names = "\n".join(f"{sample.split}/{sample.category}/{sample.defect}/{sample.image.name}" for sample in samples)
    key = hashlib.sha256(f"{fingerprint}\n{size}\n{DECODE_VERSION}\n{names}".encode()).hexdigest()[:16]
    images_file, masks_file = folder / f"{key}-images.npy", folder / f"{key}-masks.npy"
    try:
        return np.load(images_file, mmap_mode="r"), np.load(masks_file, mmap_mode="r")
    except (FileNotFoundError, EOFError, ValueError):  # not there, or cut short by something else: decode (anew)
        folder.mkdir(parents=True, exist_ok=True)
        _room_for(folder, len(samples) * size * size * 4)
        _write(samples, size, (images_file, masks_file), reporter)
    return np.load(images_file, mmap_mode="r"), np.load(masks_file, mmap_mode="r")


def decode_faults(samples: tuple[Sample, ...], reporter: Reporter) -> Iterator[str]:
    """Every fault of the image and mask files of some samples, as one line each."""

    def fault(sample: Sample) -> str | None:
        try:
            _decode(sample, 8)
        except InputError as error:
            return str(error)
        return None

    with reporter.task("checking images", len(samples)) as task:
        for line in _in_parallel(fault, samples):
            task.advance()
            if line is not None:
                yield line


def _write(samples: tuple[Sample, ...], size: int, files: tuple[Path, Path], reporter: Reporter) -> None:
    partial = [file.with_name(f"{file.name}.{os.getpid()}.part") for file in files]
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((len(samples), size, size, 3), (len(samples), size, size))
    try:
        images = np.lib.format.open_memmap(partial[0], mode="w+", dtype=np.uint8, shape=shapes[0])
        masks = np.lib.format.open_memmap(partial[1], mode="w+", dtype=np.bool_, shape=shapes[1])
        with reporter.task(f"decoding {samples[0].split} images", len(samples)) as task:
            for index, (image, mask) in enumerate(_in_parallel(lambda sample: _decode(sample, size), samples)):
                images[index] = image
                if mask.any():  # the file begins as zeros, which take no room on the disk
                    masks[index] = mask
                task.advance()
        for array in (images, masks):
            array.flush()
        for part, file in zip(partial, files, strict=True):
            os.replace(part, file)
    finally:
        for part in partial:
            part.unlink(missing_ok=True)


def _decode(sample: Sample, size: int) -> Decoded:
    image, native = decode_image(sample.image, size)
    if sample.mask is None:
        return image, np.zeros((size, size), dtype=np.bool_)
    return image, decode_mask(sample.mask, size, native)


def _in_parallel(work: Callable[[Sample], Any], samples: Iterable[Sample]) -> Iterator[Any]:
    """Results in order, decoded by one thread a core, never more than a few hundred waiting."""
    samples = tuple(samples)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(samples), 256):
            yield from pool.map(work, samples[start : start + 256])


def _room_for(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: decoded images need {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free; "
            "free some or give another folder by --cache-dir"
        )
