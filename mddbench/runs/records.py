"""The record of a cell: one JSON that holds what was run, on what, how well it did and what it cost."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mddbench.errors import InputError
from mddbench.metrics.names import ITEM, MAD, SEVEN, expected_keys
from mddbench.runs.bounds import LARGEST, LONGEST_NAME, LONGEST_TEXT, MOST_COST, Natural, small_value
from mddbench.runs.card import ProtocolCard
from mddbench.settings import Strict, validated


def _plain_name(value: str) -> str:
    if not value or any(part in value for part in ("/", "\\", "..", "\0")):
        raise ValueError("expected a plain name without '/' or '..'")
    return value


Name = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(_plain_name)]
Category = Annotated[str, Field(min_length=1, max_length=255)]
Label = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
CostValue = Annotated[float, Field(ge=0, le=MOST_COST)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Value = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)] | None
End = Annotated[float, Field(ge=-0.1, le=1.1)]
Interval = tuple[End, End] | None
Scalar = Annotated[str | int | float | bool | None, AfterValidator(small_value)]
Nested = Annotated[dict[str, Any], AfterValidator(small_value)]


RECORD = "record.json"
"""Its file, in a cell's folder and among a run's artifacts."""
REPORT_FILES = "report-files.json"
"""The list that a report keeps of its files, which is no record."""


class EpochLog(Strict):
    """What one epoch was like. loss and terms are means over its steps, loss is None for a method that only collects; lr is the
    last step's; seconds are wall time, None where other cells ran on the device; diagnostics are the method's own, at the
    epoch's end.
    """

    epoch: Natural
    loss: Number | None
    terms: dict[Label, Number]
    lr: Number
    seconds: CostValue | None
    images: Natural
    diagnostics: dict[Label, Number] = Field(default_factory=dict)


class CurvePoint(Strict):
    """How a model did on the test split after an epoch: its means. A diagnostic that decides nothing."""

    epoch: Natural
    metrics: dict[str, Value]

    def value(self, key: str) -> float:
        """A metric's mean, NaN if it is not defined."""
        found = self.metrics[key]
        return math.nan if found is None else found


class Record(Strict):
    """What is stored of a finished cell. A metric that is not defined is null.

    identity: hash of settings, seed, data fingerprint, weights hash and method version; protocol: the same without the seed,
    so that cells of one protocol are the seeds of one row. card: the protocol for people. history: one entry an epoch.
    bounds: of approximate metrics, category -> metric -> interval that holds the exact value; confidence: the same of 95 %
    bootstrap intervals, if they were asked for.
    test_curve: how it did on the test split while it trained, if that was asked for.
    cost, environment and the seconds in history are the only other parts that differ between two runs of one cell.
    """

    record_version: Literal[1] = 1
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

    @property
    def categories(self) -> list[str]:
        return [name for name in self.metrics if name != "mean"]

    def value(self, place: str, key: str) -> float:
        """A metric of 'mean' or of a category, NaN if it is not defined or there is no such category. A category's mAD is the
        mean of its seven.
        """
        if key == MAD.key and place != "mean":
            return sum(self.value(place, each) for each in SEVEN) / len(SEVEN)
        found = self.metrics.get(place, {}).get(key)
        return math.nan if found is None else found

    def deterministic(self) -> dict[str, Any]:
        """The parts that two runs of one cell on one machine share, to the last bit."""
        content = self.model_dump(exclude={"cost", "environment", "test_curve"})
        content["history"] = [{k: v for k, v in entry.items() if k != "seconds"} for entry in content["history"]]
        return content


def nullable(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Metrics as a record holds them: NaN becomes None."""
    return {
        place: {key: None if math.isnan(value) else value for key, value in values.items()}
        for place, values in metrics.items()
    }


def nullable_pairs(
    intervals: dict[str, dict[str, tuple[float, float]]],
) -> dict[str, dict[str, tuple[float, float] | None]]:
    """Intervals with NaN, which JSON does not have, as None."""
    return {
        place: {key: None if math.isnan(sum(pair)) else pair for key, pair in values.items()}
        for place, values in intervals.items()
    }


def write_record(record: Record, path: Path) -> None:
    """Write a record as JSON, beside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(as_json(record), encoding="utf-8")
    os.replace(partial, path)


def as_json(record: Record) -> str:
    """The record's JSON text, with a newline at its end."""
    return json.dumps(record.model_dump(), indent=1, allow_nan=False) + "\n"


def read_record(path: Path) -> Record:
    """A record from a file, which may come from anywhere: checked, with InputError in one line if it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read ({getattr(fault, 'strerror', fault)})") from None
    return parse_record(text, str(path))


def parse_record(text: str, where: str) -> Record:
    """A record from JSON text. Raises InputError, naming `where` it came from, if it is not one."""
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as fault:
        raise InputError(f"{where}: not valid JSON ({fault})") from None
    except RecursionError:
        raise InputError(f"{where}: not a record (nested too deeply)") from None
    if not isinstance(raw, dict):
        raise InputError(f"{where}: expected a record, found {type(raw).__name__}")
    record = validated(Record, raw, where)
    for place, values in record.metrics.items():
        expected = expected_keys(place)
        if set(values) - {ITEM.key} != expected:
            odd = sorted(set(values) ^ expected)
            raise InputError(f"{where}: metrics of '{place}' should be {sorted(expected)}; differs in {odd}")
    for point in record.test_curve:
        if set(point.metrics) - {ITEM.key} != expected_keys("mean"):
            raise InputError(f"{where}: test_curve at epoch {point.epoch} should give {sorted(expected_keys('mean'))}")
    if "mean" not in record.metrics or len(record.metrics) < 2:
        raise InputError(
            f"{where}: expected metrics of 'mean' and of at least one category, found {list(record.metrics)}"
        )
    return record


def record_files(folder: Path) -> list[Path]:
    """The record files of a folder: a run's output, or an export, sorted. Raises InputError if there is none."""
    cells = folder / "cells"
    found = cells.glob("*/record.json") if cells.is_dir() else folder.rglob("*.json")
    files = sorted(file for file in found if file.name != REPORT_FILES)
    if not files:
        raise InputError(
            f"{folder}: no records there; expected <dataset>/<method>-seed<N>.json or a run's output folder"
        )
    return files


def read_records(folder: Path) -> list[Record]:
    """All records of a folder. Raises InputError if there is none or one is none."""
    return [read_record(file) for file in record_files(folder)]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
