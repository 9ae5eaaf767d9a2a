"""Metrics computed again from kept maps: as the suite has them, and as other code does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mddbench.errors import InputError
from mddbench.evidence import Evidence, load_evidence
from mddbench.fit import MAPS, RECORD
from mddbench.maps import KeptCategory, kept_maps
from mddbench.metrics.conventions import CONVENTIONS
from mddbench.metrics.conventions import evaluate as evaluate_convention
from mddbench.metrics.names import METRIC_VERSIONS, SEVEN, Engine
from mddbench.metrics.suite import CategoryMetrics, mean_over_categories
from mddbench.progress import Reporter
from mddbench.records import Record, nullable, read_record
from mddbench.runner import EVIDENCE

OWN = "own"
"""The suite's own definitions, on the maps in half precision."""
WAYS: tuple[str, ...] = (OWN, *CONVENTIONS)
RESCORED = "rescored.json"
CHUNK = 64
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Rescored:
    """A cell's record and what its kept maps give: way -> 'mean' and each category -> the seven metrics (and mAD)."""

    record: Record
    folder: Path
    values: dict[str, Table]

    def largest_difference(self) -> float:
        """Between the record's means and the suite's own metrics of the kept maps: what half precision costs."""
        mean = self.values[OWN]["mean"]
        pairs = [(mean[key], self.record.value("mean", key)) for key in SEVEN]
        return max((abs(one - other) for one, other in pairs if not np.isnan(one - other)), default=0.0)


def kept_cells(out: Path) -> list[Path]:
    """The folders of finished cells below an output folder that keep their maps, sorted."""
    return [
        file.parent.parent
        for file in sorted((out / "cells").glob(f"*/{MAPS}/index.json"))
        if (file.parent.parent / RECORD).exists()
    ]


def rescore(folder: Path, ways: Sequence[str], reporter: Reporter) -> Rescored:
    """A cell's metrics in each of the ways; what was computed before is read from beside the maps, if they are older.

    Raises InputError for an unknown way and for files that cannot be read.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise InputError(f"convention '{unknown[0]}': expected one of {', '.join(WAYS)}")
    record = read_record(folder / RECORD)
    known = _known(folder)
    missing = [way for way in ways if way not in known]
    if missing:
        evidence = {part.category: part for part in load_evidence(folder / EVIDENCE)}
        tables: dict[str, Table] = {way: {} for way in missing}
        with reporter.task(f"re-scoring {folder.name}", len(evidence) * len(missing)) as task:
            for kept in kept_maps(folder / MAPS):
                for way in missing:
                    tables[way][kept.category] = _of_category(
                        kept, _fitting(kept, evidence, folder), way, _engine(record)
                    )
                    task.advance(1)
        known |= {way: {"mean": mean_over_categories(table), **table} for way, table in tables.items()}
        partial = folder / f"{RESCORED}.part"
        partial.write_text(
            json.dumps({way: nullable(table) for way, table in known.items()}, indent=1), encoding="utf-8"
        )
        os.replace(partial, folder / RESCORED)
    return Rescored(record, folder, {way: known[way] for way in ways})


def as_rows(found: Rescored) -> Iterator[tuple[str, dict[str, float]]]:
    """Lines of a cell's table: what its record says, then its means in each of the ways."""
    yield "record", {key: found.record.value("mean", key) for key in (*SEVEN, "mad")}
    for way, table in found.values.items():
        yield way, table["mean"]


def as_dict(found: Rescored) -> dict[str, Any]:
    """For a script; null where a metric is not defined."""
    record = found.record
    named = {"experiment": record.experiment, "seed": record.seed, "identity": record.identity}
    return {**named, "values": {way: nullable(table) for way, table in found.values.items()}}


def _of_category(kept: KeptCategory, evidence: Evidence, way: str, engine: Engine) -> dict[str, float]:
    if way != OWN:
        if kept.masks is None:
            return dict.fromkeys(SEVEN, float("nan"))
        maps = kept.maps.astype(np.float32)
        return evaluate_convention(way, maps=maps, masks=kept.masks, image_scores=evidence.scores)
    metrics = CategoryMetrics(engine)
    for start in range(0, len(kept.maps), CHUNK):
        part = slice(start, start + CHUNK)
        metrics.update(
            maps=kept.maps[part],
            masks=None if kept.masks is None else kept.masks[part],
            image_scores=evidence.scores[part],
            image_labels=evidence.labels[part],
        )
    return metrics.compute()


def _engine(record: Record) -> Engine:
    """The engine that the record's own metrics are from."""
    return next(
        (engine for engine, version in METRIC_VERSIONS.items() if version == record.card.get("metrics")), "exact"
    )


def _fitting(kept: KeptCategory, evidence: dict[str, Evidence], folder: Path) -> Evidence:
    found = evidence.get(kept.category)
    if found is None or len(found.scores) != len(kept.maps):
        raise InputError(
            f"{folder}: {MAPS} and {EVIDENCE} do not belong together; run the cell with --force --keep-maps"
        )
    return found


def _known(folder: Path) -> dict[str, Table]:
    """What was computed before from these maps; nothing if that cannot be read or is older than they are."""
    file, index = folder / RESCORED, folder / MAPS / "index.json"
    try:
        if file.stat().st_mtime_ns < index.stat().st_mtime_ns:
            return {}
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            way: {
                place: {key: float("nan") if value is None else float(value) for key, value in row.items()}
                for place, row in table.items()
            }
            for way, table in content.items()
            if way in WAYS
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
