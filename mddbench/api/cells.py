"""Runs experiments, loads their models and reads their records."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mddbench.api.paths import OUT, PathName, path_of
from mddbench.data.images import resize_image
from mddbench.data.own import CACHE
from mddbench.errors import CellError, InputError
from mddbench.metrics.names import COLUMNS, MEAN
from mddbench.runs.records import RECORD, Record, read_record, read_records
from mddbench.sizes import ImageSize, height_and_width

if TYPE_CHECKING:
    import pandas as pd

    from mddbench.inference.finished import FinishedModel
    from mddbench.inference.predict import Prediction

NAMED = "named"
"""Stands in place of a suite, for cells that the caller named."""


def run(
    names: str | Sequence[str],
    *,
    seeds: Iterable[int] | None = None,
    data_root: PathName | None = None,
    out: PathName = OUT,
    device: str = "auto",
    jobs: int = 1,
    weights_dir: PathName | None = None,
    tracking: str = "mlflow",
    quiet: bool = True,
    **overrides: Any,
) -> list[Record]:
    """Train and evaluate experiments, as `mddbench run` does. Finished cells are not run again.

    Torch is set to deterministic algorithms for the rest of the process. An InputError is raised if a name, a setting or
    a file cannot be used; nothing is run then.

    Args:
        names: Experiments as 'mini/rd4ad', ablations, or YAML files.
        seeds: Seeds in place of the experiments' own.
        data_root: The dataset's folder, or a folder that holds datasets under their names.
        out: Folder for cells and the tracking store.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        jobs: Number of cells at once.
        weights_dir: Folder with encoder weights, or their file.
        tracking: 'mlflow' for the store of $MLFLOW_TRACKING_URI, else the one in `out`; or 'none'.
        quiet: False to show the progress on stderr.
        overrides: Settings to change: `epochs=1`, or with two underscores for a dot, `optimizer__lr=0.001`.

    Returns:
        The records of the cells, in the order of the experiments and seeds.

    Raises:
        CellError: If a cell fails. The other cells are run before, and finished ones stay.
    """
    from mddbench.cli.running import Logging, device_of, run_cells, set_up_process, store_uri
    from mddbench.execution.options import RunOptions
    from mddbench.execution.plan import plan

    progress, folder = set_up_process(quiet), Path(out)
    wanted = [names] if isinstance(names, str) else list(names)
    changes = {name.replace("__", "."): value for name, value in overrides.items()}
    cells = plan(wanted, NAMED, None if seeds is None else tuple(seeds), changes)
    options = RunOptions(folder, folder / CACHE, device_of(device), path_of(data_root), path_of(weights_dir))
    logging = Logging(store_uri(tracking, None, folder), NAMED)
    outcomes, unlogged = run_cells(cells, options, jobs, logging, progress)
    for line in unlogged:
        warnings.warn(f"not logged to MLflow: {line}", stacklevel=2)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise CellError(f"{len(failed)} of {len(outcomes)} cells failed; {failed[0].cell.name}: {failed[0].message}")
    return [read_record(outcome.folder / RECORD) for outcome in outcomes if outcome.folder is not None]


def load(
    cell: PathName,
    *,
    out: PathName = OUT,
    seed: int | None = None,
    device: str = "auto",
    weights_dir: PathName | None = None,
) -> Model:
    """Load the model of a finished cell.

    An InputError is raised if there is no such cell, or if its files are damaged.

    Args:
        cell: Folder of the cell, or the name of its experiment, such as 'mini/rd4ad', or the id of its run in MLflow.
        out: Output folder of the runs, for a name.
        seed: Seed of the cell; None for the lowest.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        weights_dir: Folder with encoder weights, or their file.

    Returns:
        The model.
    """
    from mddbench.engine.device import choose_device
    from mddbench.inference.finished import FinishedModel, find_cell

    folder = find_cell(str(cell), Path(out), seed)
    return Model(FinishedModel.load(folder, choose_device(device), path_of(weights_dir)))


@dataclass(frozen=True)
class Model:
    """The trained model of a finished cell.

    Attributes:
        finished: The model with its record and its network.
    """

    finished: FinishedModel

    @property
    def record(self) -> Record:
        """The record of the cell: settings, metrics and protocol card."""
        return self.finished.record

    def predict(
        self,
        images: PathName | Iterable[PathName],
        *,
        category: str | None = None,
        threshold: float | None = None,
        false_alarms: int | None = None,
    ) -> Iterator[Prediction]:
        """Score image files. Only a few of them are in memory at a time.

        An InputError is raised for a folder without images, and for a category that does not suit the model.
        A file that cannot be read costs only itself: its prediction has a fault.

        Args:
            images: Files, folders or patterns.
            category: Category of the images, for models that need to be told.
            threshold: Images with a higher score are defective; None for a stored threshold, if there is one.
            false_alarms: Percent of false alarms whose stored threshold is used; None for 5.

        Yields:
            A prediction for each image: its score, its map (H, W) at the model's size, and the verdict 'OK' or 'NG'.
        """
        from mddbench.inference.predict import predict
        from mddbench.inference.sources import find_images
        from mddbench.inference.verdicts import choose_threshold

        given = [images] if isinstance(images, str | PathLike) else images
        chosen = choose_threshold(self.finished, threshold, false_alarms, category).value
        yield from predict(self.finished, find_images([str(each) for each in given]), category, chosen)

    def score(
        self, images: Sequence[NDArray[np.uint8]], *, category: str | None = None
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Score images in memory.

        An InputError is raised for an image of another shape or type, and for a category that does not suit the model.

        Args:
            images: (H, W, 3) uint8 RGB each, of any size; or (N, H, W, 3).
            category: Category of the images, for models that need to be told.

        Returns:
            Anomaly maps (N, H, W) of the model's image size and image scores (N,).
        """
        from mddbench.engine.inference import BATCH_SIZE

        index, size = self.finished.choose(category), self.finished.image_size
        resized = [_resized(image, size, number) for number, image in enumerate(images)]
        parts = [
            self.finished.score(np.stack(resized[start : start + BATCH_SIZE]), index)
            for start in range(0, len(resized), BATCH_SIZE)
        ]
        if not parts:
            return np.empty((0, *height_and_width(size)), dtype=np.float32), np.empty(0, dtype=np.float32)
        return np.concatenate([maps for maps, _ in parts]), np.concatenate([scores for _, scores in parts])


def records(folder: PathName = OUT) -> pd.DataFrame:
    """Read the records of finished cells as a table.

    An InputError is raised if there is no record, or if one is not valid.

    Args:
        folder: Output folder of runs, or a folder of exported records.

    Returns:
        A row for each category of each cell, and one for its mean. The columns are experiment, method, label, dataset,
        seed, identity, category, and the metrics in [0, 1], NaN where one is not defined.
    """
    import pandas as pd

    rows = [
        {
            "experiment": record.experiment,
            "method": record.method,
            "label": record.label,
            "dataset": record.dataset,
            "seed": record.seed,
            "identity": record.identity,
            "category": category,
            **{key: record.value(category, key) for key in COLUMNS},
        }
        for record in read_records(Path(folder))
        for category in (MEAN, *record.categories)
    ]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _resized(image: NDArray[np.uint8], size: ImageSize, number: int) -> NDArray[np.uint8]:
    """Resize an image as image files are resized."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image {number}: expected (H, W, 3) uint8, found {image.shape} {image.dtype}")
    return resize_image(Image.fromarray(image), size)
