"""Computes metrics again from kept maps, by the suite's own definitions and by the conventions of other code."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mddbench.arrays import refusing
from mddbench.errors import InputError
from mddbench.metrics.conventions import CONVENTIONS
from mddbench.metrics.conventions import VERSION as CONVENTIONS_VERSION
from mddbench.metrics.conventions import evaluate as evaluate_convention
from mddbench.metrics.names import LABELS, MAD, MEAN, METRIC_VERSIONS, SEVEN, Engine
from mddbench.metrics.suite import CategoryMetrics, mean_over_categories
from mddbench.progress import Reporter
from mddbench.runs.evidence import EVIDENCE, Evidence, load_evidence
from mddbench.runs.maps import INDEX, MAPS, KeptCategory, kept_categories, kept_maps
from mddbench.runs.merge import largest_mean_difference
from mddbench.runs.records import RECORD, Record, nullable, read_record

OWN = "own"
"""Name of the suite's own definitions, on the maps in half precision."""
CONVENTION_NAMES: tuple[str, ...] = (OWN, *CONVENTIONS)
"""The suite's own definitions, and the conventions of other code."""
RESCORED = "rescored.json"
MOST_DIFFERENCE = 0.01
"""Greatest difference between a mean of the suite's own metrics and the record's.

If the difference is greater, the maps come from another model.
"""
AGAIN = f"remove {MAPS} there and run the cell with --keep-maps again"
CHUNK = 64
"""Number of images whose maps are added to the metrics at once."""
Table = dict[str, dict[str, float]]
"""'mean' and each category -> metric -> value."""


@dataclass(frozen=True)
class Rescored:
    """The record of a cell and the metrics of its kept maps.

    Attributes:
        record: The record.
        folder: Folder of the cell.
        values: Name of a convention -> 'mean' and each category -> the seven metrics. The mean also has the mAD.
    """

    record: Record
    folder: Path
    values: dict[str, Table]

    def difference(self) -> tuple[str, float]:
        """Find the metric whose mean differs most from the record, by the suite's own definitions.

        Returns:
            Key of the metric, and the value from the kept maps minus the value of the record.
        """
        own = self.values[OWN][MEAN]
        key, difference = largest_mean_difference(own, self.record)
        return key, math.copysign(difference, own[key] - self.record.value(MEAN, key)) if difference else 0.0


def kept_cells(out: Path) -> list[Path]:
    """Find all finished cells with kept maps.

    Args:
        out: Output folder of the runs.

    Returns:
        The folders of the cells, sorted.
    """
    return [
        file.parent.parent
        for file in sorted((out / "cells").glob(f"*/{MAPS}/index.json"))
        if (file.parent.parent / RECORD).exists()
    ]


def rescore(folder: Path, conventions: Sequence[str], reporter: Reporter) -> Rescored:
    """Compute the metrics of a cell by several conventions.

    Metrics from an earlier call are read from their file if the maps and the code are still the same.
    The suite's own metrics are always computed, so that they can be compared with the record.
    The conventions have no rule for scores that are not finite. A category with such scores has no metrics in them,
    and then they have no mean.

    An InputError is also raised for unreadable files, and for maps that do not belong to the record.

    Args:
        folder: Folder of the cell.
        conventions: Names from CONVENTION_NAMES.
        reporter: Shows the progress.

    Returns:
        The metrics.

    Raises:
        InputError: If a convention is unknown.
    """
    unknown = [convention for convention in conventions if convention not in CONVENTION_NAMES]
    if unknown:
        raise InputError(f"convention '{unknown[0]}': expected one of {', '.join(CONVENTION_NAMES)}")
    record = read_record(folder / RECORD)
    basis = _basis(record, folder)
    tables = _read_tables(folder / RESCORED, basis, record)
    missing = [convention for convention in dict.fromkeys((OWN, *conventions)) if convention not in tables]
    if missing:
        tables |= _compute_tables(record, folder, missing, reporter)
        _refuse_foreign_maps(tables[OWN], record, folder)
        values = {convention: nullable(table) for convention, table in tables.items()}
        partial = folder / f"{RESCORED}.part"
        partial.write_text(json.dumps({"basis": basis, "values": values}, indent=1), encoding="utf-8")
        os.replace(partial, folder / RESCORED)
    return Rescored(record, folder, {convention: tables[convention] for convention in conventions})


def as_rows(rescored: Rescored) -> Iterator[tuple[str, dict[str, float]]]:
    """Return the lines of a cell's table: the record first, then the means by each convention.

    Args:
        rescored: The metrics of the cell.

    Yields:
        Name of the line, and metric -> value.
    """
    yield "record", {key: rescored.record.value(MEAN, key) for key in (*SEVEN, MAD.key)}
    for convention, table in rescored.values.items():
        yield convention, table[MEAN]


def as_dict(rescored: Rescored) -> dict[str, Any]:
    """Return the metrics of a cell for a script.

    Args:
        rescored: The metrics of the cell.

    Returns:
        JSON values: experiment, seed and identity, and for each convention the metrics; None where one is not defined.
    """
    record = rescored.record
    names = {"experiment": record.experiment, "seed": record.seed, "identity": record.identity}
    return {**names, "values": {convention: nullable(table) for convention, table in rescored.values.items()}}


def _compute_tables(record: Record, folder: Path, conventions: Sequence[str], reporter: Reporter) -> dict[str, Table]:
    """Compute the metrics from the kept maps, for each convention."""
    evidence = {entry.category: entry for entry in load_evidence(folder / EVIDENCE)}
    for categories in (kept_categories(folder / MAPS), list(evidence)):
        if sorted(categories) != sorted(record.categories):
            raise InputError(
                f"{folder}: maps or scores are of {len(categories)} categories, which are not the record's "
                f"{len(record.categories)}; {AGAIN}"
            )
    tables: dict[str, Table] = {convention: {} for convention in conventions}
    without_mean = set()
    with reporter.task(f"re-scoring {folder.name}", len(evidence) * len(conventions)) as task:
        for stored in kept_maps(folder / MAPS):
            scores = evidence[stored.category]
            finite = _check(stored, scores, folder)
            for convention in conventions:
                if convention != OWN and not finite:
                    without_mean.add(convention)
                    reporter.say(
                        f"{folder.name}: {stored.category}: scores are not finite, for which {convention} has no rule"
                    )
                    tables[convention][stored.category] = dict.fromkeys(SEVEN, math.nan)
                else:
                    tables[convention][stored.category] = _of_category(stored, scores, convention, _engine(record))
                task.advance(1)
    undefined = dict.fromkeys((*SEVEN, MAD.key), math.nan)
    return {
        convention: {MEAN: undefined if convention in without_mean else mean_over_categories(table), **table}
        for convention, table in tables.items()
    }


def _check(stored: KeptCategory, evidence: Evidence, folder: Path) -> bool:
    """Return True if all scores of a category are finite. Raise InputError if maps and image scores do not match."""
    if len(evidence.scores) != len(stored.maps):
        raise InputError(
            f"{folder}: {stored.category} has {len(stored.maps)} maps and {len(evidence.scores)} image scores; {AGAIN}"
        )
    if any(np.isnan(values).any() for values in stored.maps):
        raise InputError(f"{folder}: a map of {stored.category} holds NaN; {AGAIN}")
    return bool(np.isfinite(evidence.scores).all()) and all(np.isfinite(values).all() for values in stored.maps)


def _refuse_foreign_maps(own: Table, record: Record, folder: Path) -> None:
    """Raise InputError if the suite's own metrics of the kept maps differ too much from the record."""
    key, difference = largest_mean_difference(own[MEAN], record)
    if difference > MOST_DIFFERENCE:
        raise InputError(
            f"{folder}: the maps do not belong to the record: "
            f"mean {LABELS[key]} of the maps is {own['mean'][key]:.4f}, "
            f"the record says {record.value('mean', key):.4f}; {AGAIN}"
        )


def _of_category(stored: KeptCategory, evidence: Evidence, convention: str, engine: Engine) -> dict[str, float]:
    """Compute the metrics of one category by a convention."""
    if convention != OWN:
        if stored.masks is None:
            return dict.fromkeys(SEVEN, float("nan"))
        maps = stored.maps.astype(np.float32)
        return evaluate_convention(convention, maps=maps, masks=stored.masks, image_scores=evidence.scores)
    metrics = CategoryMetrics(engine)
    for start in range(0, len(stored.maps), CHUNK):
        chunk = slice(start, start + CHUNK)
        metrics.update(
            maps=stored.maps[chunk],
            masks=None if stored.masks is None else stored.masks[chunk],
            image_scores=evidence.scores[chunk],
            image_labels=evidence.labels[chunk],
        )
    return metrics.compute()


def _engine(record: Record) -> Engine:
    """Return the engine that computed the metrics of the record."""
    return next((engine for engine, version in METRIC_VERSIONS.items() if version == record.card.metrics), "exact")


def _basis(record: Record, folder: Path) -> dict[str, str]:
    """Describe the data and the code of the metrics. Stored metrics are used only if this is the same."""
    content = hashlib.sha256()
    with refusing(folder, "a cell with kept maps", AGAIN):
        for file in (folder / MAPS / INDEX, folder / EVIDENCE):
            content.update(hashlib.sha256(file.read_bytes()).digest())
    return {
        "metrics": METRIC_VERSIONS[_engine(record)],
        "conventions": CONVENTIONS_VERSION,
        "model": record.model_sha256,
        "maps": content.hexdigest(),
    }


def _read_tables(file: Path, basis: dict[str, str], record: Record) -> dict[str, Table]:
    """Read metrics that were computed earlier on the same basis; {} if there are none or the file is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["basis"] != basis:
            return {}
        values = content["values"]
        tables = {name: _table(values[name], record) for name in CONVENTION_NAMES if name in values}
        if OWN not in tables or largest_mean_difference(tables[OWN][MEAN], record)[1] > MOST_DIFFERENCE:
            return {}
        return tables
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _table(raw: dict[str, dict[str, float | None]], record: Record) -> Table:
    """Convert a table from JSON. ValueError or LookupError is raised if it does not fit the record."""
    table = {}
    for group in (MEAN, *record.categories):
        table[group] = {key: _value(raw[group][key]) for key in (*SEVEN, *((MAD.key,) if group == MEAN else ()))}
    return table


def _value(raw: float | None) -> float:
    if raw is None:
        return math.nan
    if type(raw) not in (int, float) or not -1e-9 <= raw <= 1 + 1e-9:
        raise ValueError("not a metric's value")
    return float(raw)
