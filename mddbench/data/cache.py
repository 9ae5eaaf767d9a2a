"""Decodes each split once into one uint8 array on disk, which all methods, seeds and epochs share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from mddbench.data.fingerprint import Manifest
from mddbench.data.images import ABOVE_ZERO, DECODE_VERSION, MaskRule, decode_image, native_mask, resize_mask
from mddbench.data.oddities import Oddities
from mddbench.data.parallel import in_parallel
from mddbench.data.samples import Sample
from mddbench.data.stored import ArrayFile, DamagedError, Writer, read_seals, write_seals
from mddbench.errors import InputError, UnpreparedError
from mddbench.progress import Reporter, SilentReporter
from mddbench.sizes import ImageSize, height_and_width, pixel_count, shown_size

Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]
ROOM = 2**28
"""The most bytes that decoded images which wait to be written may take together."""
PLAUSIBLE_SHARE = 0.5
"""A defect that covers more of its image than this share is reported as suspicious."""
LONG_CHECK = 2**30
"""Comparing this many bytes with their checksums takes so long that a message announces it."""
VANISHED = "vanished"
"""The finding for a defect that has no pixel left at the image size."""


class Decoded(NamedTuple):
    """The decoded images of a split.

    Attributes:
        images: (N, size, size, 3) uint8, RGB.
        masks: (N, size, size) bool, True at pixels of a defect.
        oddities: What is odd about the files. They are named relative to the dataset's root.
    """

    images: Pixels
    masks: Masks
    oddities: Oddities


def decoded_splits(
    splits: Sequence[tuple[Sample, ...]],
    size: ImageSize,
    folder: Path,
    files: Manifest,
    reporter: Reporter,
    rule: MaskRule = ABOVE_ZERO,
    decode: bool = True,
) -> list[Decoded]:
    """Return the decoded arrays of some splits, memory-mapped.

    Splits are decoded now if the folder does not hold them yet, or if their arrays are damaged.
    Each file is checked against the manifest. The disk space that all splits need is reported before.
    Arrays are written to temporary files and renamed, by one process while others wait.
    Neither a killed run nor a full disk leaves a half-written array.

    An InputError is also raised for a faulty file, and for a disk that is too small.

    Args:
        splits: The samples of each split.
        size: The size of the decoded images.
        folder: The folder of the arrays.
        files: The manifest of the dataset's files.
        reporter: Receives progress and messages.
        rule: The rule that says which mask pixels are defects.
        decode: False to use only what is decoded.

    Returns:
        For each split its arrays, in the order of its samples.

    Raises:
        UnpreparedError: If images are to be decoded and may not be.
    """
    all_arrays = [_Arrays(samples, size, folder, _key(samples, size, files, rule)) for samples in splits]
    loaded = [arrays.load(reporter) for arrays in all_arrays]
    needed = sum(arrays.needed for arrays, decoded in zip(all_arrays, loaded, strict=True) if decoded is None)
    if needed and not decode:
        raise UnpreparedError(
            f"{folder}: holds no decoded images of these files ({shown_size(size)}); they were removed or damaged, or the data "
            "have changed: `mddbench prepare PLAN` decodes them, or says so"
        )
    if needed:
        free = _free(folder, needed)
        reporter.say(f"decoded images will take {needed / 2**20:.0f} MiB of {free / 2**20:.0f} MiB free in {folder}")
    return [decoded or arrays.make(files, rule, reporter) for arrays, decoded in zip(all_arrays, loaded, strict=True)]


def decode_faults(
    samples: tuple[Sample, ...], size: ImageSize, rule: MaskRule, reporter: Reporter
) -> Iterator[tuple[str, bool]]:
    """Decode the image and mask files of some samples, and report what is wrong with them.

    Args:
        samples: The samples.
        size: The size of the decoded images.
        rule: The rule that says which mask pixels are defects.
        reporter: Receives progress.

    Yields:
        For each problem one line, and True if the problem would stop a run.
    """
    vanished, oddities = list[Sample](), Oddities()
    with reporter.task("checking images", len(samples)) as task:
        inspect = partial(_inspect, size=size, rule=rule)
        for sample, (line, stops, sample_oddities) in zip(samples, in_parallel(inspect, samples), strict=True):
            task.advance()
            oddities.merge(sample_oddities)
            if line == VANISHED:
                vanished.append(sample)
            elif line:
                yield line, stops
    if vanished:
        yield (
            f"{len(vanished)} defects have no pixel left at {shown_size(size)}, that of {vanished[0].image} for one",
            False,
        )
    yield from ((line, False) for line in oddities.lines())


def _inspect(sample: Sample, size: ImageSize, rule: MaskRule) -> tuple[str, bool, Oddities]:
    """What is wrong with a sample's files, whether it stops a run, and what is odd about the files."""
    oddities, of_image, of_mask = Oddities(), set[str](), set[str]()
    try:
        _, native = decode_image(sample.image, 8, oddities=of_image)
        oddities.add(of_image, str(sample.image))
        if not sample.masks:
            return "", False, oddities
        mask, first = native_mask(sample.masks, native, rule, oddities=of_mask), sample.masks[0]
    except InputError as fault:
        return str(fault), True, oddities
    oddities.add(of_mask, str(first))
    if not mask.any():
        return f"{first}: the mask of a defective image is empty; no pixel counts as defect", False, oddities
    if mask.mean() > PLAUSIBLE_SHARE:
        return f"{first}: {mask.mean():.0%} of the image is marked as defect; is the mask inverted?", False, oddities
    return ("" if resize_mask(mask, size).any() else VANISHED), False, oddities


def _key(samples: tuple[Sample, ...], size: ImageSize, files: Manifest, rule: MaskRule) -> str:
    """The name of a split's array files, from all that decides their content."""
    digest = hashlib.sha256(f"{files.fingerprint}\n{size}\n{DECODE_VERSION}\n{rule}\n".encode())
    for sample in samples:
        digest.update("\t".join(files.of(file).path for file in (sample.image, *sample.masks)).encode() + b"\n")
    return digest.hexdigest()[:16]


class _Arrays:
    """The array files of a decoded split, and the seals that reveal damage to them.

    A split without any mask has no file of masks.
    """

    def __init__(self, samples: tuple[Sample, ...], size: ImageSize, folder: Path, key: str) -> None:
        self.samples, self.size, self.folder, self.key = samples, size, folder, key
        self.masked = any(sample.masks for sample in samples)
        self.needed = len(samples) * pixel_count(size) * (4 if self.masked else 3)
        shape = (len(samples), *height_and_width(size))
        self.images = ArrayFile(folder / f"{key}-images.npy", np.dtype(np.uint8), (*shape, 3))
        self.masks = ArrayFile(folder / f"{key}-masks.npy", np.dtype(np.bool_), shape)
        self.files = {"images": self.images, **({"masks": self.masks} if self.masked else {})}
        self.seals_file = folder / f"{key}.json"

    def load(self, reporter: Reporter) -> Decoded | None:
        """The arrays, or None if a file is missing or damaged. Damage is reported."""
        try:
            if not all(file.path.exists() for file in self.files.values()):
                return None
            old_seals, oddities = read_seals(self.seals_file, self.files)
            if self.needed >= LONG_CHECK and any(seal.checked is None for seal in old_seals.values()):
                reporter.say(f"comparing {self.needed / 2**30:.1f} GiB of decoded images with their checksums")
            opened = {name: file.open(old_seals[name]) for name, file in self.files.items()}
        except (DamagedError, OSError) as fault:
            reporter.say(f"{fault}; decoding its images anew")
            return None
        new_seals = {name: seal for name, (_, seal) in opened.items()}
        if new_seals != old_seals:
            with suppress(OSError):  # then the files are compared again the next time
                write_seals(new_seals, oddities, self.seals_file)
        masks = opened["masks"][0] if self.masked else np.broadcast_to(np.False_, self.masks.shape)
        return Decoded(opened["images"][0], masks, oddities)

    def make(self, files: Manifest, rule: MaskRule, reporter: Reporter) -> Decoded:
        """Decode the images, or wait for another process that does so."""
        with _locked(self.folder / f"{self.key}.lock", reporter):
            decoded = self.load(SilentReporter())  # another process may have finished first
            if decoded is None:
                self._write(files, rule, reporter)
                decoded = self.load(reporter)
        if decoded is None:
            raise InputError(
                f"{self.folder}: what was decoded cannot be read back; "
                "look at that disk, or give another by --cache-dir"
            )
        return decoded

    def _write(self, files: Manifest, rule: MaskRule, reporter: Reporter) -> None:
        """Decode the images into array files. This process must hold the lock."""
        for stale in self.folder.glob(f"{self.key}*.part"):  # of a killed process, because this one holds the lock
            stale.unlink()
        _free(self.folder, self.needed)
        oddities = Oddities()
        partials = [file.path.with_name(f"{file.path.name}.{os.getpid()}.part") for file in (self.images, self.masks)]
        try:
            with self._disk_errors():
                with (
                    Writer(self.images, partials[0]) as images,
                    Writer(self.masks, partials[1]) as masks,
                    reporter.task(f"decoding {self.samples[0].split} images", len(self.samples)) as task,
                ):
                    decoded = in_parallel(
                        lambda sample: _decode(sample, self.size, files, rule),
                        self.samples,
                        ROOM // (4 * pixel_count(self.size)),
                    )
                    for image, mask, sample_oddities in decoded:
                        images.append(image)
                        masks.append(mask)
                        oddities.merge(sample_oddities)
                        task.advance()
                seals = {"images": images.finish(), **({"masks": masks.finish()} if self.masked else {})}
                write_seals(seals, oddities, self.seals_file)
        finally:
            for file in partials:
                file.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn an OSError in the `with` block into an InputError."""
        try:
            yield
        except OSError as fault:
            raise InputError(
                f"{self.folder}: decoded images cannot be written ({fault.strerror}); "
                "free some room or give another folder by --cache-dir"
            ) from None


def _free(folder: Path, needed: int) -> int:
    """The free bytes on the folder's disk. Raises InputError if they are fewer than needed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{folder}: cannot be made ({fault.strerror}); give another folder by --cache-dir") from None
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: decoded images need {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free; "
            "free some or give another folder by --cache-dir"
        )
    return free


def _decode(sample: Sample, size: ImageSize, files: Manifest, rule: MaskRule) -> Decoded:
    """One decoded sample: an image (H, W, 3) and its mask (H, W)."""
    oddities, of_image, of_mask = Oddities(), set[str](), set[str]()
    entry = files.of(sample.image)
    image, native = decode_image(sample.image, size, entry.sha256, of_image)
    oddities.add(of_image, entry.path)
    if not sample.masks:
        return Decoded(image, np.zeros(height_and_width(size), dtype=np.bool_), oddities)
    entries = [files.of(mask) for mask in sample.masks]
    mask = native_mask(sample.masks, native, rule, [mask_entry.sha256 for mask_entry in entries], of_mask)
    oddities.add(of_mask, entries[0].path)
    return Decoded(image, resize_mask(mask, size), oddities)


@contextmanager
def _locked(lock_file: Path, reporter: Reporter) -> Iterator[None]:
    """Hold a lock file inside the `with` block. If another process holds it, say so and wait."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.say(f"waiting for another process that decodes the same images ({lock_file})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
