"""The record of a cell: one JSON file with its settings, its machine, its metrics and its cost."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from mddbench.errors import InputError
from mddbench.metrics.names import ITEM, MAD, MEAN, SEVEN, expected_keys
from mddbench.runs.bounds import LONGEST_NAME, LONGEST_TEXT, MOST_COST, Category, Natural, Number, small_value
from mddbench.runs.card import ProtocolCard
from mddbench.runs.thresholds import Thresholds
from mddbench.settings import Strict, validated


def _plain_name(value: str) -> str:
    if not value or any(forbidden in value for forbidden in ("/", "\\", "..", "\0")):
        raise ValueError("expected a plain name without '/' or '..'")
    return value


VERSION: Literal[2] = 2
"""Of a record as it is written now. In version 1 the setting of the card was a text. Both are read."""
Name = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(_plain_name)]
Label = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
CostValue = Annotated[float, Field(ge=0, le=MOST_COST)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Value = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)] | None
End = Annotated[float, Field(ge=-0.1, le=1.1)]
Interval = tuple[End, End] | None
Scalar = Annotated[str | int | float | bool | None, AfterValidator(small_value)]
Nested = Annotated[dict[str, Any], AfterValidator(small_value)]


IMAGES = "images"
"""Key of the environment under which the name of a user's own images stands."""
RECORD = "record.json"
"""Name of the file in a cell's folder and among a run's artifacts."""
REPORT_FILES = "report-files.json"
"""Name of a report's list of its own files, which is no record."""


class EpochLog(Strict):
    """The measurements of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean of the loss over the steps; None for a method that only collects.
        terms: Mean of each loss term over the steps.
        lr: Learning rate of the last step.
        seconds: Wall-clock time in seconds; None if other cells ran on the device.
        images: Number of training images that were used.
        diagnostics: The method's own numbers at the end of the epoch.
        joules: Energy that the GPU took; None, which is not written, if there is no counter or others used the GPU.
    """

    epoch: Natural
    loss: Number | None
    terms: dict[Label, Number]
    lr: Number
    seconds: CostValue | None
    images: Natural
    diagnostics: dict[Label, Number] = Field(default_factory=dict)
    joules: CostValue | None = None

    @model_serializer(mode="wrap")
    def _without_what_older_records_lack(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name != "joules" or value is not None}


class CurvePoint(Strict):
    """The means of the metrics on the test split after an epoch. They are a diagnostic that influences nothing.

    Attributes:
        epoch: Number of the epoch, from 1.
        metrics: Metric -> mean over the categories; None where it is not defined.
    """

    epoch: Natural
    metrics: dict[str, Value]

    def value(self, key: str) -> float:
        """Return the mean of a metric over the categories.

        Args:
            key: Key of the metric.

        Returns:
            The mean, NaN if it is not defined.
        """
        mean = self.metrics[key]
        return math.nan if mean is None else mean


class Record(Strict):
    """The stored results of a finished cell.

    Two runs of one cell may differ only in cost, environment, test curve, and the seconds and joules in the history.

    Attributes:
        record_version: Version of the format.
        identity: Hash of settings, seed, fingerprint of the data, hash of the weights, and version of the method.
        protocol: The same hash without the seed. Cells with the same protocol are the seeds of one row.
        status: 'finished'.
        method: Name of the method.
        label: Name of the method in tables.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        seed: Seed of the cell.
        fingerprint: Fingerprint of the dataset.
        metrics: 'mean' and each category -> metric -> value; None where a metric is not defined.
        bounds: Category -> metric -> interval that contains the exact value, for approximate metrics.
        confidence: 'mean' and each category -> metric -> 95 % bootstrap interval, if it was requested.
        card: The protocol for readers.
        settings: All settings.
        model_sha256: Hash of the learned tensors.
        cost: Name -> cost in its own unit; None where it was not measured.
        environment: Machine and software.
        history: One entry for each epoch.
        test_curve: Metrics of the test split after some epochs, if they were requested.
        further: 'mean' and each category -> further metric -> value; None where a metric is not defined. A metric that
            was not measured is not in it. Older records have none, and no `further` is written then.
        thresholds: The thresholds that were set without test labels; None, which is not written, if none were to be set.
    """

    record_version: Annotated[Literal[1, 2], AfterValidator(lambda _: VERSION)] = VERSION
    identity: Hash
    protocol: Hash
    status: Literal["finished"]
    method: Name
    label: Label
    dataset: Name
    experiment: Annotated[str, Field(max_length=LONGEST_TEXT)]
    seed: Natural
    fingerprint: Hash
    metrics: dict[Category, dict[str, Value]]
    bounds: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    confidence: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    card: ProtocolCard
    settings: Nested
    model_sha256: Hash
    cost: dict[Label, CostValue | None]
    environment: dict[Label, Scalar]
    history: list[EpochLog]
    test_curve: list[CurvePoint] = Field(default_factory=list)
    further: dict[Category, dict[Label, Value]] = Field(default_factory=dict)
    thresholds: Thresholds | None = None

    @property
    def categories(self) -> list[str]:
        """Names of the categories."""
        return [name for name in self.metrics if name != MEAN]

    @property
    def shown_dataset(self) -> str:
        """What a report calls the images: the name of a user's own ones, or else that of the dataset.

        It is a plain name of letters, digits and '-', '_' and spaces, so that a folder can have it.
        """
        own = str(self.environment.get(IMAGES) or "")
        return "".join(sign if sign.isalnum() or sign in "-_ " else "-" for sign in own).strip() or self.dataset

    def value(self, group: str, key: str) -> float:
        """Return the value of a metric. The mAD of a category is the mean of its seven metrics.

        Args:
            group: 'mean' or the name of a category.
            key: Key of the metric, which may be a further one.

        Returns:
            The value, NaN if it is not defined, if it was not measured, or if there is no such category.
        """
        if key == MAD.key and group != MEAN:
            return sum(self.value(group, metric) for metric in SEVEN) / len(SEVEN)
        values = self.metrics if key in self.metrics.get(group, {}) else self.further
        value = values.get(group, {}).get(key)
        return math.nan if value is None else value

    @model_serializer(mode="wrap")
    def _without_what_older_records_lack(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name not in ("further", "thresholds") or value}

    def deterministic(self) -> dict[str, Any]:
        """Return the content that is equal in two runs of one cell on one machine, to the last bit.

        Returns:
            The fields as dicts and lists, without cost, environment, test curve, and seconds and joules in the history.
        """
        content = self.model_dump(exclude={"cost", "environment", "test_curve"})
        content["history"] = [
            {k: v for k, v in entry.items() if k not in ("seconds", "joules")} for entry in content["history"]
        ]
        return content


def nullable(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Replace NaN by None in metrics, because JSON has no NaN.

    Args:
        metrics: 'mean' or category -> metric -> value.

    Returns:
        The same with None for NaN.
    """
    return {
        group: {key: None if math.isnan(value) else value for key, value in values.items()}
        for group, values in metrics.items()
    }


def nullable_pairs(
    intervals: dict[str, dict[str, tuple[float, float]]],
) -> dict[str, dict[str, tuple[float, float] | None]]:
    """Replace intervals that contain NaN by None, because JSON has no NaN.

    Args:
        intervals: 'mean' or category -> metric -> the two ends of an interval.

    Returns:
        The same with None for each interval that contains NaN.
    """
    return {
        group: {key: None if math.isnan(sum(pair)) else pair for key, pair in values.items()}
        for group, values in intervals.items()
    }


def write_record(record: Record, path: Path) -> None:
    """Write a record as a JSON file. It is written under another name and renamed, so that it is never half written.

    Args:
        record: The record.
        path: The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(as_json(record), encoding="utf-8")
    os.replace(partial, path)


def as_json(record: Record) -> str:
    """Write a record as JSON.

    Args:
        record: The record.

    Returns:
        The text, with a newline at its end.
    """
    return json.dumps(record.model_dump(), indent=1, allow_nan=False) + "\n"


def read_record(path: Path) -> Record:
    """Read a record from a file of any origin. Its content is checked.

    Args:
        path: The file.

    Returns:
        The record.

    Raises:
        InputError: If the file cannot be read or is no valid record. The message is one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read ({getattr(fault, 'strerror', fault)})") from None
    return parse_record(text, str(path))


def parse_record(text: str, source: str) -> Record:
    """Parse a record from JSON text of any origin.

    Args:
        text: The JSON text.
        source: Name of the file, for the error message.

    Returns:
        The record.

    Raises:
        InputError: If the text is no valid record. The message is one line.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as fault:
        raise InputError(f"{source}: not valid JSON ({fault})") from None
    except RecursionError:
        raise InputError(f"{source}: not a record (nested too deeply)") from None
    if not isinstance(raw, dict):
        raise InputError(f"{source}: expected a record, found {type(raw).__name__}")
    record = validated(Record, raw, source)
    for group, values in record.metrics.items():
        expected = expected_keys(group)
        if set(values) - {ITEM.key} != expected:
            differing = sorted(set(values) ^ expected)
            raise InputError(f"{source}: metrics of '{group}' should be {sorted(expected)}; differs in {differing}")
    for point in record.test_curve:
        if set(point.metrics) - {ITEM.key} != expected_keys(MEAN):
            raise InputError(f"{source}: test_curve at epoch {point.epoch} should give {sorted(expected_keys('mean'))}")
    if MEAN not in record.metrics or len(record.metrics) < 2:
        raise InputError(
            f"{source}: expected metrics of 'mean' and of at least one category, found {list(record.metrics)}"
        )
    return record


def record_files(folder: Path) -> list[Path]:
    """Find the record files in the output folder of a run, or in an exported folder.

    Args:
        folder: The folder.

    Returns:
        The files, sorted.

    Raises:
        InputError: If there is no record.
    """
    cells = folder / "cells"
    candidates = cells.glob("*/record.json") if cells.is_dir() else folder.rglob("*.json")
    files = sorted(file for file in candidates if file.name != REPORT_FILES)
    if not files:
        raise InputError(
            f"{folder}: no records there; expected <dataset>/<method>-seed<N>.json or a run's output folder"
        )
    return files


def read_records(folder: Path) -> list[Record]:
    """Read all records of a folder.

    An InputError is raised if there is no record, or if one is not valid.

    Args:
        folder: The output folder of a run, or an exported folder.

    Returns:
        The records, sorted by file.
    """
    return [read_record(file) for file in record_files(folder)]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
