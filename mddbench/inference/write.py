"""Writes predictions: a CSV table, a JSON list, heat maps and raw maps, each as soon as its image is scored."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from mddbench.data.images import decode_at_own_size
from mddbench.data.own import mark_own
from mddbench.data.parallel import in_parallel
from mddbench.errors import InputError
from mddbench.inference.heat import HeatPainter
from mddbench.inference.predict import Prediction

COLUMNS = ("image", "name", "score", "threshold", "verdict", "category", "fault")
CSV_FILE, JSON_FILE, HEAT, MAPS = "predictions.csv", "predictions.json", "heat", "maps"
MOST_PICTURES = 32
"""The usual number of predictions that wait for their pictures."""


class CsvWriter:
    """A CSV table with a line for each prediction.

    Attributes:
        stream: Where it is written.
    """

    def __init__(self, stream: IO[str]) -> None:
        """Write the head of the table.

        Args:
            stream: Where the table is written.
        """
        self.stream = stream
        self.table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        self.table.writeheader()

    def add(self, prediction: Prediction) -> None:
        """Write a line."""
        row = {key: "" if value is None else value for key, value in prediction.row().items()}
        # No csv module before Python 3.11 writes the character NUL, which a path from standard input can hold.
        self.table.writerow({key: str(value).replace("\0", r"\x00") for key, value in row.items()})
        self.stream.flush()


class JsonWriter:
    """A JSON list with an object for each prediction. It is written one object at a time."""

    def __init__(self, stream: IO[str]) -> None:
        """Begin the list.

        Args:
            stream: Where the list is written.
        """
        self.stream, self.separator = stream, "[\n"

    def add(self, prediction: Prediction) -> None:
        """Write an object."""
        self.stream.write(f"{self.separator}{json.dumps(prediction.row())}")
        self.stream.flush()
        self.separator = ",\n"

    def finish(self) -> None:
        """End the list."""
        self.stream.write("[]\n" if self.separator == "[\n" else "\n]\n")


class PredictionFolder:
    """A folder of results: a table, a list, and on request pictures and maps. A file of the same name is replaced.

    Attributes:
        folder: The folder.
        painter: Paints heat maps; None if they are not wanted.
        keep_maps: True to write each anomaly map as a NumPy file, too.
        most_waiting: The largest number of predictions that wait for their pictures.
    """

    def __init__(
        self, folder: Path, painter: HeatPainter | None, keep_maps: bool, most_waiting: int = MOST_PICTURES
    ) -> None:
        """Prepare the folder.

        Args:
            folder: The folder. It is made if it does not exist.
            painter: Paints heat maps; None if they are not wanted.
            keep_maps: True to write each anomaly map as a NumPy file, too.
            most_waiting: The largest number of predictions that wait for their pictures; 0 to write each at once.
        """
        self.folder, self.painter, self.keep_maps, self.most_waiting = folder, painter, keep_maps, most_waiting

    def write(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Write predictions as they come. Pictures are painted in threads, beside the scoring.

        Args:
            predictions: The predictions.

        Yields:
            Each prediction, when all of it is written.

        Raises:
            InputError: If a file cannot be written.
        """
        mark_own(self.folder)
        try:
            with (
                (self.folder / CSV_FILE).open("w", encoding="utf-8", errors="backslashreplace", newline="") as table,
                (self.folder / JSON_FILE).open("w", encoding="utf-8") as objects,
            ):
                writers = CsvWriter(table), JsonWriter(objects)
                try:
                    for prediction in self._drawn(predictions):
                        for writer in writers:
                            writer.add(prediction)
                        yield prediction
                finally:
                    writers[1].finish()
        except OSError as fault:
            raise InputError(f"{fault.filename or self.folder}: cannot be written ({fault.strerror})") from None

    def _drawn(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Return the predictions when their maps and pictures are written."""
        return (
            in_parallel(self._draw, predictions, self.most_waiting)
            if self.most_waiting
            else map(self._draw, predictions)
        )

    def _draw(self, prediction: Prediction) -> Prediction:
        """Write the map and the picture of a prediction, if they are wanted."""
        if prediction.map is None:
            return prediction
        if self.keep_maps:
            np.save(self._file(MAPS, prediction, ".npy"), prediction.map)
        if self.painter is not None:
            try:
                image = decode_at_own_size(prediction.source.path)
            except InputError as fault:
                return replace(prediction, fault=f"no heat map: {fault}")
            picture = self.painter.paint(image, prediction.map)
            Image.fromarray(picture).save(self._file(HEAT, prediction, ".png"), compress_level=1)
        return prediction

    def _file(self, kind: str, prediction: Prediction, suffix: str) -> Path:
        """Return the file of a map or a picture. Its folder is made."""
        file = self.folder / kind / f"{prediction.source.name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
