"""The regression gate: are a candidate's metrics worse than a reference's by more than seeds explain?

Rows are matched by dataset, experiment and what `--set` changed, never by identity, which a wanted change of the code changes.
Their means over the seeds that both have are compared, metric by metric. What seeds explain is a standard deviation s of the
reference: over the seeds of a row, pooled over the rows of the dataset (root mean square), since three seeds alone tell too
little. A move beyond SIGMAS * s * sqrt(2 / n), for n shared seeds, is told; FLOOR is the least that counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mddbench.metrics.names import LABELS, MAD, METRICS
from mddbench.records import Record
from mddbench.report.ablations import only_of_ablation
from mddbench.report.groups import MUST_AGREE

SIGMAS, FLOOR = 3.0, 0.001
KEYS = (*(metric.key for metric in METRICS), MAD.key)
MOST_CATEGORIES = 3
Verdict = Literal["regression", "improvement", "within"]


@dataclass(frozen=True)
class Move:
    """One metric's mean over shared seeds, before and after, in [0, 1]; NaN where it is not defined. tolerance: what seeds
    explain; categories: those that moved most in the same direction, and by how much.
    """

    metric: str
    before: float
    after: float
    tolerance: float
    categories: tuple[tuple[str, float], ...] = ()

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> Verdict:
        if math.isnan(self.before) or math.isnan(self.after):
            return "within" if math.isnan(self.before) else "regression"
        if abs(self.difference) <= self.tolerance:
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


def compare(candidate: Iterable[Record], reference: Iterable[Record]) -> tuple[list[Comparison], list[str]]:
    """Each row that both have, and the names of the reference's rows that the candidate lacks."""
    new, old = _rows(candidate), _rows(reference)
    spreads = _spreads(old)
    shared = [(name, new[key], rows) for key, (name, rows) in old.items() if key in new]
    compared = [_one(name, newer, rows, spreads[rows[0].dataset]) for name, (_, newer), rows in shared]
    return compared, [name for key, (name, _) in old.items() if key not in new]


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


def _rows(records: Iterable[Record]) -> dict[str, tuple[str, list[Record]]]:
    """Key -> (name, the seeds of one row, the newest of each seed last). A variant of an ablation is known by its settings."""
    rows: dict[str, tuple[str, list[Record]]] = {}
    for record in sorted(records, key=lambda each: each.seed):
        overrides = record.settings.get("overrides") or {}
        own = record.settings if only_of_ablation(record) else {}
        plain = {key: value for key, value in own.items() if key != "overrides"}
        key = json.dumps([record.dataset, record.method, record.experiment, overrides, plain], sort_keys=True)
        told = "".join(f", {name}={value}" for name, value in overrides.items())
        suffix = f" [{record.protocol[:8]}]" if only_of_ablation(record) else ""
        name = f"{record.dataset}/{record.method} ({record.experiment}{told}){suffix}"
        if f"{record.dataset}/{record.method}" == record.experiment:
            name = f"{record.experiment}{told}"
        rows.setdefault(key, (name, []))[1].append(record)
    return rows


def _spreads(rows: dict[str, tuple[str, list[Record]]]) -> dict[str, dict[str, float]]:
    """Dataset -> metric -> standard deviation over seeds, pooled over rows; 0 where no row has two seeds."""
    variances: dict[str, dict[str, list[float]]] = {}
    for _, records in rows.values():
        found = variances.setdefault(records[0].dataset, {key: [] for key in KEYS})
        for key in KEYS:
            values = [record.value("mean", key) for record in records]
            if len(values) > 1 and not any(map(math.isnan, values)):
                found[key].append(float(np.var(values, ddof=1)))
    return {
        dataset: {key: math.sqrt(np.mean(each)) if each else 0.0 for key, each in found.items()}
        for dataset, found in variances.items()
    }


def _one(name: str, candidate: list[Record], reference: list[Record], spread: dict[str, float]) -> Comparison:
    new, old = ({record.seed: record for record in records} for records in (candidate, reference))
    seeds = tuple(sorted(set(new) & set(old)))
    if not seeds:
        return Comparison(name, (), differs=f"no seed is in both ({sorted(new)} and {sorted(old)})")
    one, other = old[seeds[0]], new[seeds[0]]
    differs = "; ".join(
        f"{key.replace('_', ' ')} {one.card.get(key)} before, {other.card.get(key)} now"
        for key in MUST_AGREE
        if one.card.get(key) != other.card.get(key)
    )
    if one.fingerprint != other.fingerprint:
        differs = "; ".join(filter(None, (differs, "other images: the dataset's fingerprint is another")))
    if differs:
        return Comparison(name, seeds, differs=differs)
    moves = tuple(_move(key, [new[s] for s in seeds], [old[s] for s in seeds], spread[key]) for key in KEYS)
    return Comparison(name, seeds, moves)


def _move(key: str, new: Sequence[Record], old: Sequence[Record], spread: float) -> Move:
    tolerance = max(FLOOR, SIGMAS * spread * math.sqrt(2 / len(new)))
    before, after = _mean(old, "mean", key), _mean(new, "mean", key)
    sign = 1 if after >= before else -1
    moved = [(name, _mean(new, name, key) - _mean(old, name, key)) for name in old[0].categories]
    along = sorted((each for each in moved if sign * each[1] > 0), key=lambda each: -abs(each[1]))
    return Move(key, before, after, tolerance, tuple(along[:MOST_CATEGORIES]))


def _mean(records: Sequence[Record], place: str, key: str) -> float:
    if key == MAD.key and place != "mean":
        return math.nan
    return float(np.mean([record.value(place, key) for record in records]))


def _told(move: Move) -> str:
    if math.isnan(move.after):
        return f"{LABELS[move.metric]} {100 * move.before:.1f} before, not defined now: regression"
    categories = ", ".join(f"{name} {100 * difference:+.1f}" for name, difference in move.categories)
    what = "" if move.verdict == "within" else f": {move.verdict}{f', most in {categories}' if categories else ''}"
    return (
        f"{LABELS[move.metric]} {100 * move.before:.1f} -> {100 * move.after:.1f} "
        f"({100 * move.difference:+.2f}, tolerance {100 * move.tolerance:.2f}){what}"
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
