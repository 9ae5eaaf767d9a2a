"""Metrics computed again from kept maps: as the suite has them, and as other code does."""

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
from mddbench.metrics.names import LABELS, MAD, METRIC_VERSIONS, SEVEN, Engine
from mddbench.metrics.suite import CategoryMetrics, mean_over_categories
from mddbench.progress import Reporter
from mddbench.runs.evidence import EVIDENCE, Evidence, load_evidence
from mddbench.runs.maps import INDEX, MAPS, KeptCategory, kept_categories, kept_maps
from mddbench.runs.merge import farthest
from mddbench.runs.records import RECORD, Record, nullable, read_record

OWN = "own"
"""The suite's own definitions, on the maps in half precision."""
WAYS: tuple[str, ...] = (OWN, *CONVENTIONS)
RESCORED = "rescored.json"
FOREIGN = 0.01
"""Maps are another model's if a mean of the suite's own metrics differs by more from the record's."""
AGAIN = f"remove {MAPS} there and run the cell with --keep-maps again"
CHUNK = 64
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Rescored:
    """A cell's record and what its kept maps give: way -> 'mean' and each category -> the seven metrics (and mAD)."""

    record: Record
    folder: Path
    values: dict[str, Table]

    def difference(self) -> tuple[str, float]:
        """The metric whose mean is farthest from the record's, and the suite's own of the kept maps minus the record's."""
        own = self.values[OWN]["mean"]
        key, off = farthest(own, self.record)
        return key, math.copysign(off, own[key] - self.record.value("mean", key)) if off else 0.0


def kept_cells(out: Path) -> list[Path]:
    """The folders of finished cells below an output folder that keep their maps, sorted."""
    return [
        file.parent.parent
        for file in sorted((out / "cells").glob(f"*/{MAPS}/index.json"))
        if (file.parent.parent / RECORD).exists()
    ]


def rescore(folder: Path, ways: Sequence[str], reporter: Reporter) -> Rescored:
    """A cell's metrics in each of the ways; what was computed before, from the same by the same code, is read from its file.

    The suite's own are always computed, to compare them with the record's. A category with scores that are not finite has no
    metrics in the conventions, which have no rule for them, and then they have no mean.
    Raises InputError for an unknown way, for files that cannot be read, and for maps that do not belong to the record.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise InputError(f"convention '{unknown[0]}': expected one of {', '.join(WAYS)}")
    record = read_record(folder / RECORD)
    basis = _basis(record, folder)
    known = _known(folder / RESCORED, basis, record)
    missing = [way for way in dict.fromkeys((OWN, *ways)) if way not in known]
    if missing:
        known |= _computed(record, folder, missing, reporter)
        _refuse_foreign(known[OWN], record, folder)
        values = {way: nullable(table) for way, table in known.items()}
        partial = folder / f"{RESCORED}.part"
        partial.write_text(json.dumps({"basis": basis, "values": values}, indent=1), encoding="utf-8")
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


def _computed(record: Record, folder: Path, ways: Sequence[str], reporter: Reporter) -> dict[str, Table]:
    evidence = {part.category: part for part in load_evidence(folder / EVIDENCE)}
    for found in (kept_categories(folder / MAPS), list(evidence)):
        if sorted(found) != sorted(record.categories):
            raise InputError(
                f"{folder}: maps or scores are of {len(found)} categories, which are not the record's "
                f"{len(record.categories)}; {AGAIN}"
            )
    tables: dict[str, Table] = {way: {} for way in ways}
    without = set()
    with reporter.task(f"re-scoring {folder.name}", len(evidence) * len(ways)) as task:
        for kept in kept_maps(folder / MAPS):
            part = evidence[kept.category]
            finite = _check(kept, part, folder)
            for way in ways:
                if way != OWN and not finite:
                    without.add(way)
                    reporter.say(f"{folder.name}: {kept.category}: scores are not finite, for which {way} has no rule")
                    tables[way][kept.category] = dict.fromkeys(SEVEN, math.nan)
                else:
                    tables[way][kept.category] = _of_category(kept, part, way, _engine(record))
                task.advance(1)
    undefined = dict.fromkeys((*SEVEN, MAD.key), math.nan)
    return {
        way: {"mean": undefined if way in without else mean_over_categories(table), **table}
        for way, table in tables.items()
    }


def _check(kept: KeptCategory, evidence: Evidence, folder: Path) -> bool:
    """Whether all scores of a category are finite. Raises InputError if maps and image scores do not belong together."""
    if len(evidence.scores) != len(kept.maps):
        raise InputError(
            f"{folder}: {kept.category} has {len(kept.maps)} maps and {len(evidence.scores)} image scores; {AGAIN}"
        )
    if any(np.isnan(values).any() for values in kept.maps):
        raise InputError(f"{folder}: a map of {kept.category} holds NaN; {AGAIN}")
    return bool(np.isfinite(evidence.scores).all()) and all(np.isfinite(values).all() for values in kept.maps)


def _refuse_foreign(own: Table, record: Record, folder: Path) -> None:
    """Raise InputError if the suite's own metrics of the kept maps are not the record's."""
    key, off = farthest(own["mean"], record)
    if off > FOREIGN:
        raise InputError(
            f"{folder}: the maps do not belong to the record: mean {LABELS[key]} of the maps is {own['mean'][key]:.4f}, "
            f"the record says {record.value('mean', key):.4f}; {AGAIN}"
        )


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
    return next((engine for engine, version in METRIC_VERSIONS.items() if version == record.card.metrics), "exact")


def _basis(record: Record, folder: Path) -> dict[str, str]:
    """What metrics are computed from and by: they are read again only where all of it is the same."""
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


def _known(file: Path, basis: dict[str, str], record: Record) -> dict[str, Table]:
    """What was computed before on the same basis; nothing if that cannot be read or is no such table."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["basis"] != basis:
            return {}
        known = {way: _table(content["values"][way], record) for way in WAYS if way in content["values"]}
        return known if OWN in known and farthest(known[OWN]["mean"], record)[1] <= FOREIGN else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _table(raw: dict[str, dict[str, float | None]], record: Record) -> Table:
    """A table from JSON. Raises ValueError unless it has the record's places, with the metrics that belong there."""
    table = {}
    for place in ("mean", *record.categories):
        table[place] = {key: _value(raw[place][key]) for key in (*SEVEN, *((MAD.key,) if place == "mean" else ()))}
    return table


def _value(raw: float | None) -> float:
    if raw is None:
        return math.nan
    if type(raw) not in (int, float) or not -1e-9 <= raw <= 1 + 1e-9:
        raise ValueError("not a metric's value")
    return float(raw)
