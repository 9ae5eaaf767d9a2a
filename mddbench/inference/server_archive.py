"""The archive that MVTec's evaluation server takes for MVTec AD 2, and a check of such an archive.

    FOLDER/anomaly_images/<category>/<split>/<image>.tiff                 anomaly maps: one channel, float16
    FOLDER/anomaly_images_thresholded/<category>/<split>/<image>.png      255 where the map is above the threshold, else 0
    FOLDER.tar.gz                                                         the folder, to upload

All files have the size of their image. The scores of a category are divided by its threshold, if that is above 0, so that
half precision keeps about three digits of them. The server computes its metrics for each category.

Source: the script for uploads that MVTec publishes with the dataset (check_and_prepare_data_for_upload.py).
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from mddbench.data.hidden import HiddenSplit
from mddbench.data.images import size_of
from mddbench.data.parallel import in_parallel
from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel
from mddbench.inference.heat import enlarged
from mddbench.inference.predict import Prediction, predict
from mddbench.inference.sources import Source
from mddbench.metrics.thresholds import above
from mddbench.progress import Reporter

MAPS, BINARY = "anomaly_images", "anomaly_images_thresholded"
SUFFIXES = {MAPS: ".tiff", BINARY: ".png"}
MOST_WAITING = 8
"""The largest number of maps that wait to be written."""
LARGEST = float(np.finfo(np.float16).max)


def missing_images(splits: Sequence[HiddenSplit]) -> list[Path]:
    """Find the images of hidden splits that are not there.

    Args:
        splits: The splits.

    Returns:
        The files.
    """
    return [split.folder / name for split in splits for name in split.names if not (split.folder / name).is_file()]


def pixel_thresholds(model: FinishedModel, rule: str, categories: Sequence[str]) -> dict[str, float]:
    """Find the stored threshold of pixels of each category.

    Args:
        model: The model.
        rule: The rule by which they were set: 'sigma', that of the dataset's authors, or 'quantile'.
        categories: The categories.

    Returns:
        Category -> threshold.

    Raises:
        InputError: If a threshold was not set.
    """
    stored = model.record.thresholds
    if stored is None:
        raise InputError(
            f"{model.folder}: no thresholds were set; train with --set calibration=validation, which holds out the "
            "dataset's own validation images"
        )
    found = {category: stored.of_pixels(category).get((rule, "each")) for category in categories}
    lacking = [category for category, threshold in found.items() if threshold is None]
    if lacking:
        raise InputError(f"{model.folder}: no threshold of pixels by the rule '{rule}' for {', '.join(lacking)}")
    return {category: threshold for category, threshold in found.items() if threshold is not None}


def write_archive(
    model: FinishedModel, splits: Sequence[HiddenSplit], rule: str, folder: Path, progress: Reporter
) -> None:
    """Score the hidden images and write the folder of the archive. An archive of an earlier run is replaced.

    Args:
        model: The model.
        splits: The hidden splits of the dataset.
        rule: The rule by which the thresholds of pixels were set, 'sigma' or 'quantile'.
        folder: The folder of the archive.
        progress: Shows the progress.

    Raises:
        InputError: If an image is missing or cannot be read, if a threshold was not set, or if the folder holds something
            else or has no name.
    """
    folder = folder.resolve()
    thresholds = pixel_thresholds(model, rule, sorted({split.category for split in splits}))
    demand_images(splits)
    if not folder.name or folder.is_file():
        raise InputError(f"{folder}: expected a folder with a name of its own; choose another")
    if foreign := sorted(_names(folder) - set(SUFFIXES)):
        raise InputError(f"{folder}: holds {foreign[0]}, which is no part of an archive; give another folder")
    _packed_file(folder).unlink(missing_ok=True)
    for part in SUFFIXES:
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with progress.task("scoring", sum(len(split.names) for split in splits)) as task:
        for split in splits:
            writer = _SplitWriter(folder, split, thresholds[split.category])
            for _ in in_parallel(writer.write, _predictions(model, split), MOST_WAITING):
                task.advance()


def demand_images(splits: Sequence[HiddenSplit]) -> None:
    """Make sure that all hidden images are there.

    Args:
        splits: The splits.

    Raises:
        InputError: If one is not there.
    """
    if absent := missing_images(splits):
        total = sum(len(split.names) for split in splits)
        raise InputError(
            f"{absent[0]}: not there; {len(absent)} of {total} hidden images are missing; look at where --data-root "
            "points, or unpack the dataset anew"
        )


def _predictions(model: FinishedModel, split: HiddenSplit) -> Iterator[Prediction]:
    """Score the images of a split. An InputError is raised for the first that cannot be read."""
    sources = [Source(split.folder / name, PurePosixPath(name)) for name in split.names]
    for prediction in predict(model, sources, split.category if model.needs_category else None):
        if prediction.fault:
            raise InputError(prediction.fault)
        yield prediction


class _SplitWriter:
    """Writes the files of one split.

    Attributes:
        folder: The folder of the archive.
        split: The split.
        threshold: The threshold of pixels.
    """

    def __init__(self, folder: Path, split: HiddenSplit, threshold: float) -> None:
        self.folder, self.split, self.threshold = folder, split, threshold
        for part in SUFFIXES:
            (folder / part / split.category / split.name).mkdir(parents=True)

    def write(self, prediction: Prediction) -> None:
        """Write the map and the binary image of a prediction."""
        values = prediction.map
        assert values is not None  # since there is no fault
        full = enlarged(values, _size(prediction.source.path))
        scaled = full / self.threshold if self.threshold > 0 else full
        half = np.clip(scaled, -LARGEST, LARGEST).astype(np.float16)
        tifffile.imwrite(self._file(MAPS, prediction), half, compression="zlib")
        binary: NDArray[np.uint8] = np.where(above(full, self.threshold), 255, 0).astype(np.uint8)
        Image.fromarray(binary).save(self._file(BINARY, prediction), compress_level=1)

    def _file(self, part: str, prediction: Prediction) -> Path:
        stem = prediction.source.name.stem
        return self.folder / part / self.split.category / self.split.name / f"{stem}{SUFFIXES[part]}"


def pack(folder: Path, progress: Reporter) -> Path:
    """Pack the folder of an archive into a file beside it, which is complete or not there.

    Args:
        folder: The folder.
        progress: Shows the progress.

    Returns:
        The file to upload.
    """
    folder = folder.resolve()
    file = _packed_file(folder)
    part = file.with_name(f"{file.name}.part")
    files = sorted(path for kind in SUFFIXES for path in (folder / kind).rglob("*") if path.is_file())
    with progress.task("packing", len(files)) as task, tarfile.open(part, "w:gz", compresslevel=1) as archive:
        for path in files:
            archive.add(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
            task.advance()
    part.replace(file)
    return file


def _packed_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.tar.gz")


def archive_faults(folder: Path, splits: Sequence[HiddenSplit], progress: Reporter) -> Iterator[str]:
    """Check the folder of an archive by the published rules, and the size of each file, which they leave out.

    Args:
        folder: The folder.
        splits: The hidden splits of the dataset, whose images must be there.
        progress: Shows the progress.

    Yields:
        One line for each folder or file that is missing, too much, or not as it has to be.
    """
    yield from _strangers(folder, set(SUFFIXES))
    files: list[tuple[Path, Path]] = []
    for part, suffix in SUFFIXES.items():
        if not (folder / part).is_dir():
            continue
        yield from _strangers(folder / part, {split.category for split in splits})
        for category in sorted({split.category for split in splits}):
            yield from _strangers(folder / part / category, {s.name for s in splits if s.category == category})
        for split in splits:
            place = folder / part / split.category / split.name
            expected = {str(PurePosixPath(name).with_suffix(suffix)): name for name in split.names}
            yield from _strangers(place, set(expected))
            files += [
                (place / name, split.folder / image) for name, image in expected.items() if (place / name).is_file()
            ]
    with progress.task("checking", len(files)) as task:
        for fault in in_parallel(lambda pair: _fault_of(*pair), files):
            task.advance()
            if fault:
                yield fault


def _strangers(folder: Path, expected: set[str]) -> Iterator[str]:
    """The lines for what a folder lacks, and for what it holds and should not."""
    found = _names(folder)
    for words, names in (("missing", expected - found), ("not expected", found - expected)):
        if names:
            first, *others = sorted(names)
            more = f", and {len(others)} others" if others else ""
            yield f"{folder / first}: {words}{more}"


def _names(folder: Path) -> set[str]:
    """The names of all that a folder holds, hidden files too, since the server takes none; none if it does not exist."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _fault_of(file: Path, image: Path) -> str | None:
    """What is wrong with one file; None if nothing is."""
    is_map = file.suffix == SUFFIXES[MAPS]
    try:
        values = tifffile.imread(file) if is_map else np.asarray(Image.open(file, formats=["PNG"]))
    except Exception as fault:  # noqa: BLE001 - a damaged file can raise almost anything
        return f"{file}: cannot be read ({type(fault).__name__}: {' '.join(str(fault).split())[:120]})"
    size = _size(image)
    if values.ndim != 2:
        wrong = f"expected one channel, found {values.shape}"
    elif is_map and values.dtype != np.float16:
        wrong = f"expected float16, found {values.dtype}"
    elif is_map and not np.isfinite(values).all():
        wrong = "holds values that are not finite"
    elif not is_map and not np.isin(values, (0, 255)).all():
        wrong = f"expected values 0 and 255, found {values[~np.isin(values, (0, 255))][0]}"
    elif values.shape != size:
        wrong = f"is {values.shape[0]} x {values.shape[1]} pixels, its image {size[0]} x {size[1]}; expected the same"
    else:
        return None
    return f"{file}: {wrong}"


def _size(image: Path) -> tuple[int, int]:
    """The (height, width) of an image."""
    size = size_of(image)
    if size is None:
        raise InputError(f"{image}: cannot be read as an image; unpack the dataset anew")
    return size
