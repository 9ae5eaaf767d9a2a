"""Decodes a split once into one uint8 array on disk that all methods, seeds and epochs share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from mddbench.data.fingerprint import Manifest
from mddbench.data.images import ABOVE_ZERO, DECODE_VERSION, MaskRule, decode_image, native_mask, resize_mask
from mddbench.data.oddities import Oddities
from mddbench.data.samples import Sample
from mddbench.data.stored import ArrayFile, DamagedError, Writer, read_seals, write_seals
from mddbench.errors import InputError
from mddbench.machine import processor_count
from mddbench.progress import Reporter, SilentReporter

Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]
AHEAD = 256
"""Images that may wait decoded for their turn to be written."""
ROOM = 2**28
"""Bytes that they may take, however large they are."""
MOSTLY = 0.5
"""A larger part of an image is rarely a defect."""
MUCH = 2**30
"""Bytes that take so long to compare with their checksums that it is said."""
VANISHED = "vanished"
Work = TypeVar("Work")
Result = TypeVar("Result")


class Decoded(NamedTuple):
    """images (N, size, size, 3) uint8; masks (N, size, size) bool; oddities: of the files, named below the dataset's root."""

    images: Pixels
    masks: Masks
    oddities: Oddities


def decoded_splits(
    parts: Sequence[tuple[Sample, ...]],
    size: int,
    folder: Path,
    files: Manifest,
    reporter: Reporter,
    rule: MaskRule = ABOVE_ZERO,
) -> list[Decoded]:
    """Each part decoded, in the samples' order, memory-mapped.

    Decoded now if the folder does not hold them yet, or not as they were written, each file checked against the manifest; what
    all parts will need on the disk is said before. Written beside and renamed, by one process while others wait, so that
    neither a killed run nor a full disk leaves a half-written array. Raises InputError for a faulty file or too small a disk.
    """
    arrays = [_Arrays(samples, size, folder, _key(samples, size, files, rule)) for samples in parts]
    found = [each.load(reporter) for each in arrays]
    needed = sum(each.needed for each, there in zip(arrays, found, strict=True) if there is None)
    if needed:
        free = _free(folder, needed)
        reporter.say(f"decoded images will take {needed / 2**20:.0f} MiB of {free / 2**20:.0f} MiB free in {folder}")
    return [there or each.make(files, rule, reporter) for each, there in zip(arrays, found, strict=True)]


def decode_faults(
    samples: tuple[Sample, ...], size: int, rule: MaskRule, reporter: Reporter
) -> Iterator[tuple[str, bool]]:
    """What is wrong with the image and mask files of some samples at an image size: one line, and whether it stops a run."""
    vanished, oddities = list[Sample](), Oddities()
    with reporter.task("checking images", len(samples)) as task:
        look = partial(_look, size=size, rule=rule)
        for sample, (line, stops, odd) in zip(samples, _in_parallel(look, samples), strict=True):
            task.advance()
            oddities.merge(odd)
            if line == VANISHED:
                vanished.append(sample)
            elif line:
                yield line, stops
    if vanished:
        yield f"{len(vanished)} defects have no pixel left at {size}x{size}, that of {vanished[0].image} for one", False
    yield from ((line, False) for line in oddities.lines())


def _look(sample: Sample, size: int, rule: MaskRule) -> tuple[str, bool, Oddities]:
    """What is wrong with a sample's files, whether it stops a run, and what is odd about them."""
    oddities, of_image, of_mask = Oddities(), set[str](), set[str]()
    try:
        _, native = decode_image(sample.image, 8, odd=of_image)
        oddities.add(of_image, str(sample.image))
        if not sample.masks:
            return "", False, oddities
        mask, first = native_mask(sample.masks, native, rule, odd=of_mask), sample.masks[0]
    except InputError as fault:
        return str(fault), True, oddities
    oddities.add(of_mask, str(first))
    if not mask.any():
        return f"{first}: the mask of a defective image is empty; no pixel counts as defect", False, oddities
    if mask.mean() > MOSTLY:
        return f"{first}: {mask.mean():.0%} of the image is marked as defect; is the mask inverted?", False, oddities
    return ("" if resize_mask(mask, size).any() else VANISHED), False, oddities


def _key(samples: tuple[Sample, ...], size: int, files: Manifest, rule: MaskRule) -> str:
    digest = hashlib.sha256(f"{files.fingerprint}\n{size}\n{DECODE_VERSION}\n{rule}\n".encode())
    for sample in samples:
        digest.update("\t".join(files.of(file).path for file in (sample.image, *sample.masks)).encode() + b"\n")
    return digest.hexdigest()[:16]


class _Arrays:
    """The array files of a decoded split, with the seals by which damage to them is seen; there is no file of masks where no
    sample has one.
    """

    def __init__(self, samples: tuple[Sample, ...], size: int, folder: Path, key: str) -> None:
        self.samples, self.size, self.folder, self.key = samples, size, folder, key
        self.masked = any(sample.masks for sample in samples)
        self.needed = len(samples) * size**2 * (4 if self.masked else 3)
        shape = (len(samples), size, size)
        self.images = ArrayFile(folder / f"{key}-images.npy", np.dtype(np.uint8), (*shape, 3))
        self.masks = ArrayFile(folder / f"{key}-masks.npy", np.dtype(np.bool_), shape)
        self.files = {"images": self.images, **({"masks": self.masks} if self.masked else {})}
        self.seals_file = folder / f"{key}.json"

    def load(self, reporter: Reporter) -> Decoded | None:
        """The arrays, if all are there and as they were written; what is not is said."""
        try:
            if not all(file.path.exists() for file in self.files.values()):
                return None
            before, oddities = read_seals(self.seals_file, self.files)
            if self.needed >= MUCH and any(seal.checked is None for seal in before.values()):
                reporter.say(f"comparing {self.needed / 2**30:.1f} GiB of decoded images with their checksums")
            found = {name: file.open(before[name]) for name, file in self.files.items()}
        except (DamagedError, OSError) as fault:
            reporter.say(f"{fault}; decoding its images anew")
            return None
        after = {name: seal for name, (_, seal) in found.items()}
        if after != before:
            with suppress(OSError):  # then the files are compared again the next time
                write_seals(after, oddities, self.seals_file)
        masks = found["masks"][0] if self.masked else np.broadcast_to(np.False_, self.masks.shape)
        return Decoded(found["images"][0], masks, oddities)

    def make(self, files: Manifest, rule: MaskRule, reporter: Reporter) -> Decoded:
        """Decode them, or wait for the process that does."""
        with _alone(self.folder / f"{self.key}.lock", reporter):
            found = self.load(SilentReporter())  # by a process that was quicker
            if found is None:
                self._write(files, rule, reporter)
                found = self.load(reporter)
        if found is None:
            raise InputError(
                f"{self.folder}: what was decoded cannot be read back; look at that disk, or give another by --cache-dir"
            )
        return found

    def _write(self, files: Manifest, rule: MaskRule, reporter: Reporter) -> None:
        for stale in self.folder.glob(f"{self.key}*.part"):  # of a killed process: the lock is ours
            stale.unlink()
        _free(self.folder, self.needed)
        oddities = Oddities()
        parts = [each.path.with_name(f"{each.path.name}.{os.getpid()}.part") for each in (self.images, self.masks)]
        try:
            with self._disk():
                with (
                    Writer(self.images, parts[0]) as images,
                    Writer(self.masks, parts[1]) as masks,
                    reporter.task(f"decoding {self.samples[0].split} images", len(self.samples)) as task,
                ):
                    decoded = _in_parallel(
                        lambda sample: _decode(sample, self.size, files, rule), self.samples, ROOM // (4 * self.size**2)
                    )
                    for image, mask, odd in decoded:
                        images.append(image)
                        masks.append(mask)
                        oddities.merge(odd)
                        task.advance()
                seals = {"images": images.keep(), **({"masks": masks.keep()} if self.masked else {})}
                write_seals(seals, oddities, self.seals_file)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            raise InputError(
                f"{self.folder}: decoded images cannot be written ({fault.strerror}); "
                "free some room or give another folder by --cache-dir"
            ) from None


def _free(folder: Path, needed: int) -> int:
    """Free bytes on the folder's disk. Raises InputError if they are not enough."""
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


def _decode(sample: Sample, size: int, files: Manifest, rule: MaskRule) -> Decoded:
    """One sample: an image (size, size, 3) and its mask (size, size)."""
    oddities, of_image, of_mask = Oddities(), set[str](), set[str]()
    entry = files.of(sample.image)
    image, native = decode_image(sample.image, size, entry.sha256, of_image)
    oddities.add(of_image, entry.path)
    if not sample.masks:
        return Decoded(image, np.zeros((size, size), dtype=np.bool_), oddities)
    entries = [files.of(mask) for mask in sample.masks]
    mask = native_mask(sample.masks, native, rule, [each.sha256 for each in entries], of_mask)
    oddities.add(of_mask, entries[0].path)
    return Decoded(image, resize_mask(mask, size), oddities)


def _in_parallel(work: Callable[[Work], Result], items: Iterable[Work], most: int = AHEAD) -> Iterator[Result]:
    """Results in order, made by one thread a core (decoding lets go of the interpreter), few of them waiting: `most`, if there
    may be at least one for each thread.
    """
    ahead = min(AHEAD, max(most, processor_count()))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(processor_count()) as pool:
        for item in items:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _alone(lock: Path, reporter: Reporter) -> Iterator[None]:
    """Hold a lock file; wait for a process that holds it."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        reporter.say(f"waiting for another process that decodes the same images ({lock})")
        held.acquire()
    try:
        yield
    finally:
        held.release()
