"""The regression gate: are a candidate's metrics worse than a reference's by more than seeds explain?

Rows are matched by dataset, images, experiment and what `--set` changed, never by identity, which a wanted change of the code
changes. Their means over the seeds that both have are compared, metric by metric. What seeds explain is a standard deviation s
of the reference: over the seeds of a row, pooled over the rows of one method on one dataset (root mean square), since three
seeds alone tell little. A move beyond SIGMAS * s * sqrt(2 / n), for n shared seeds, is told; FLOOR is the least that counts,
and all that there is where no row of the method has two seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mddbench.errors import InputError
from mddbench.metrics.names import ITEM, LABELS, MAD, METRICS
from mddbench.report.rows.studies import only_of_ablation
from mddbench.runs.card import label
from mddbench.runs.records import Record

SIGMAS, FLOOR = 3.0, 0.001
KEYS = (*(metric.key for metric in METRICS), MAD.key, ITEM.key)
MOST_CATEGORIES = 3
Verdict = Literal["regression", "improvement", "within"]


@dataclass(frozen=True)
class Move:
    """One metric's mean over shared seeds, before and after, in [0, 1]; NaN where it is not defined. tolerance: what seeds
    explain; categories: those that moved most in the same direction, and by how much; lost: those where it was defined and is
    no more.
    """

    metric: str
    before: float
    after: float
    tolerance: float
    categories: tuple[tuple[str, float], ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> Verdict:
        if self.lost or (math.isnan(self.after) and not math.isnan(self.before)):
            return "regression"
        if math.isnan(self.before) or abs(self.difference) <= self.tolerance:
            return "within"
        return "regression" if self.difference < 0 else "improvement"


@dataclass(frozen=True)
class Comparison:
    """A row of the reference beside its counterpart. seeds: that both have; differs: why the two cannot be compared, or ''."""

    name: str
    seeds: tuple[int, ...]
    moves: tuple[Move, ...] = ()
    differs: str = ""

    @property
    def failed(self) -> bool:
        """Whether the gate must not pass."""
        return bool(self.differs) or any(move.verdict == "regression" for move in self.moves)


@dataclass(frozen=True)
class _Row:
    """The seeds of one protocol. key: what makes it the counterpart of another; images: the dataset's fingerprint."""

    name: str
    key: str
    records: dict[int, Record]

    @property
    def first(self) -> Record:
        return next(iter(self.records.values()))


def compare(candidate: Iterable[Record], reference: Iterable[Record]) -> tuple[list[Comparison], list[str]]:
    """Each row that both have, and the names of the reference's rows that the candidate lacks.

    Raises InputError if a folder holds one cell twice with different metrics.
    """
    new, old = _rows(candidate, "the candidate"), _rows(reference, "the reference")
    spreads = _spreads(old)
    compared, lacking = [], []
    for row in old:
        others = [other for other in new if other.key == row.key and not _belongs_to_another(other, row, old)]
        same = [other for other in others if other.first.protocol == row.first.protocol]
        rivals = [one for one in old if one.key == row.key and one.first.fingerprint == row.first.fingerprint]
        if not others:
            lacking.append(row.name)
        elif not same and (len(others) > 1 or len(rivals) > 1):
            protocols = sorted({each.first.protocol[:8] for each in (*rivals, *others)})
            why = f"several protocols go by this name ({', '.join(protocols)}); keep one of them in each folder"
            compared.append(Comparison(row.name, (), differs=why))
        else:
            compared.append(_one(row, (same or others)[0], spreads[row.first.dataset, row.first.method]))
    return compared, lacking


def _belongs_to_another(other: _Row, row: _Row, rows: Sequence[_Row]) -> bool:
    """Whether a row of the candidate is the counterpart of another of the reference: by its protocol, or by its images."""
    for one in rows:
        if one is not row and one.key == row.key:
            same_images = one.first.fingerprint == other.first.fingerprint != row.first.fingerprint
            if one.first.protocol == other.first.protocol or same_images:
                return True
    return False


def lines(comparison: Comparison) -> list[str]:
    """What a person is told of a row: every metric that moved, or that none did."""
    row = f"{comparison.name} ({len(comparison.seeds)} seed{'s' * (len(comparison.seeds) != 1)})"
    if comparison.differs:
        return [f"{row}: not comparable: {comparison.differs}"]
    moved = [move for move in comparison.moves if move.verdict != "within"]
    if moved:
        return [f"{row}: {_told(move)}" for move in moved]
    if all(move.before == move.after or math.isnan(move.before) for move in comparison.moves):
        return [f"{row}: unchanged"]
    defined = [move for move in comparison.moves if not math.isnan(move.difference)]
    largest = max(defined, key=lambda move: abs(move.difference) / move.tolerance, default=None)
    if largest is None:
        return [f"{row}: no metric is defined in both"]
    return [f"{row}: within tolerance; nearest to it {_told(largest)}"]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The same for a script, in [0, 1]; null where a metric is not defined."""
    moves = [
        {
            "metric": move.metric,
            "before": _or_none(move.before),
            "after": _or_none(move.after),
            "tolerance": move.tolerance,
            "verdict": move.verdict,
        }
        for move in comparison.moves
    ]
    return {"row": comparison.name, "seeds": list(comparison.seeds), "differs": comparison.differs, "moves": moves}


def _rows(records: Iterable[Record], folder: str) -> list[_Row]:
    """The rows of a folder, each of one protocol. A variant of an ablation is known by its settings."""
    rows: dict[tuple[str, str], _Row] = {}
    for record in sorted(records, key=lambda each: each.seed):
        overrides = record.settings.get("overrides") or {}
        own = record.settings if only_of_ablation(record) else {}
        plain = {key: value for key, value in own.items() if key != "overrides"}
        plain |= {"learned_weights": record.card.learned_weights} if record.card.trained_elsewhere else {}
        key = json.dumps([record.dataset, record.method, record.experiment, overrides, plain], sort_keys=True)
        row = rows.setdefault((key, record.protocol), _Row(_name(record), key, {}))
        if row.records.setdefault(record.seed, record).metrics != record.metrics:
            cell = f"{row.name}, seed {record.seed}"
            raise InputError(f"{folder} has {cell}, twice with different metrics; keep one record of it")
    return list(rows.values())


def _name(record: Record) -> str:
    overrides = record.settings.get("overrides") or {}
    told = "".join(f", {key}={value}" for key, value in overrides.items())
    if f"{record.dataset}/{record.method}" == record.experiment:
        return f"{record.experiment}{told}"
    suffix = f" [{record.protocol[:8]}]" if only_of_ablation(record) else ""
    return f"{record.dataset}/{record.method} ({record.experiment}{told}){suffix}"


def _spreads(rows: Sequence[_Row]) -> dict[tuple[str, str], dict[str, float]]:
    """(dataset, method) -> metric -> standard deviation over seeds, pooled over rows; 0 where no row has two seeds."""
    variances: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        found = variances.setdefault((row.first.dataset, row.first.method), {key: [] for key in KEYS})
        for key in KEYS:
            values = [record.value("mean", key) for record in row.records.values()]
            if len(values) > 1 and not any(map(math.isnan, values)):
                found[key].append(float(np.var(values, ddof=1)))
    return {
        place: {key: math.sqrt(np.mean(each)) if each else 0.0 for key, each in found.items()}
        for place, found in variances.items()
    }


def _one(row: _Row, other: _Row, spread: dict[str, float]) -> Comparison:
    old, new = row.records, other.records
    seeds = tuple(sorted(set(new) & set(old)))
    if not seeds:
        return Comparison(row.name, (), differs=f"no seed is in both ({sorted(new)} and {sorted(old)})")
    differs = list(dict.fromkeys(why for seed in seeds for why in _differences(old[seed], new[seed])))
    if differs:
        return Comparison(row.name, seeds, differs="; ".join(differs))
    moves = tuple(_move(key, [new[s] for s in seeds], [old[s] for s in seeds], spread[key]) for key in KEYS)
    return Comparison(row.name, seeds, moves)


def _differences(old: Record, new: Record) -> list[str]:
    """Why two records cannot be compared."""
    before, now = old.card.task(), new.card.task()
    found = [f"{label(name)} {before[name]} before, {now[name]} now" for name in now if before[name] != now[name]]
    found += ["other images: the dataset's fingerprint is another"] if old.fingerprint != new.fingerprint else []
    missing = sorted(set(old.categories) ^ set(new.categories))
    return found + ([f"other categories: {', '.join(missing)} in one of them only"] if missing else [])


def _move(key: str, new: Sequence[Record], old: Sequence[Record], spread: float) -> Move:
    tolerance = max(FLOOR, SIGMAS * spread * math.sqrt(2 / len(new)))
    before, after = _mean(old, "mean", key), _mean(new, "mean", key)
    sign = 1 if after >= before else -1
    pairs = {name: (_mean(old, name, key), _mean(new, name, key)) for name in old[0].categories}
    moved = [(name, newer - older) for name, (older, newer) in pairs.items()]
    along = sorted((each for each in moved if sign * each[1] > 0), key=lambda each: -abs(each[1]))
    lost = tuple(name for name, (older, newer) in pairs.items() if math.isnan(newer) and not math.isnan(older))
    return Move(key, before, after, tolerance, tuple(along[:MOST_CATEGORIES]), lost)


def _mean(records: Sequence[Record], place: str, key: str) -> float:
    if key == MAD.key and place != "mean":
        return math.nan
    return float(np.mean([record.value(place, key) for record in records]))


def _told(move: Move) -> str:
    if math.isnan(move.after):
        return f"{LABELS[move.metric]} {100 * move.before:.1f} before, not defined now: regression"
    if move.lost:
        return f"{LABELS[move.metric]} is not defined any more for {', '.join(move.lost)}: regression"
    categories = ", ".join(f"{name} {100 * difference:+.1f}" for name, difference in move.categories)
    what = "" if move.verdict == "within" else f": {move.verdict}{f', most in {categories}' if categories else ''}"
    return (
        f"{LABELS[move.metric]} {100 * move.before:.1f} -> {100 * move.after:.1f} "
        f"({100 * move.difference:+.2f}, tolerance {100 * move.tolerance:.2f}){what}"
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
