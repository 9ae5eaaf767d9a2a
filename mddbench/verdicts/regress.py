"""The regression gate: are the metrics of a candidate worse than those of a reference by more than seeds explain?

Rows are matched by dataset, images, experiment and the settings that `--set` changed. They are never matched by
identity, because a wanted change of the code changes it. The means over the seeds that both rows have are compared,
metric by metric.

The spread s of a metric is its standard deviation over the seeds of a reference row. It is pooled over the rows of one
method on one dataset (root mean square), since three seeds alone say little. For n shared seeds, a difference above
SIGMAS * s * sqrt(2 / n) is reported. The tolerance is at least FLOOR, and it is FLOOR where no row of the method has
two seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mddbench.errors import InputError
from mddbench.metrics.names import ITEM, LABELS, MAD, MEAN, METRICS
from mddbench.report.rows.groups import changed_settings
from mddbench.report.rows.studies import only_of_ablation
from mddbench.runs.records import Record

SIGMAS, FLOOR = 3.0, 0.001
KEYS = (*(metric.key for metric in METRICS), MAD.key, ITEM.key)
MOST_CATEGORIES = 3
Verdict = Literal["regression", "improvement", "within"]


@dataclass(frozen=True)
class Move:
    """The mean of one metric over shared seeds, before and after, in [0, 1]; NaN where it is not defined.

    Attributes:
        metric: Key of the metric.
        before: Mean of the reference.
        after: Mean of the candidate.
        tolerance: The largest difference that seeds explain.
        categories: The categories that moved most in the same direction, with their differences.
        lost: The categories in which the metric is not defined any more.
    """

    metric: str
    before: float
    after: float
    tolerance: float
    categories: tuple[tuple[str, float], ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """The mean after minus the mean before."""
        return self.after - self.before

    @property
    def verdict(self) -> Verdict:
        """'within' if the difference is within the tolerance. A metric that is not defined any more is a regression."""
        if self.lost or (math.isnan(self.after) and not math.isnan(self.before)):
            return "regression"
        if math.isnan(self.before) or abs(self.difference) <= self.tolerance:
            return "within"
        return "regression" if self.difference < 0 else "improvement"


@dataclass(frozen=True)
class Comparison:
    """A row of the reference and its counterpart in the candidate.

    Attributes:
        name: Name of the row.
        seeds: The seeds that both have.
        moves: The metrics.
        differs: Why the two cannot be compared; empty if they can.
    """

    name: str
    seeds: tuple[int, ...]
    moves: tuple[Move, ...] = ()
    differs: str = ""

    @property
    def failed(self) -> bool:
        """True if the gate must not pass."""
        return bool(self.differs) or any(move.verdict == "regression" for move in self.moves)


@dataclass(frozen=True)
class _Row:
    """The records of one protocol.

    Attributes:
        name: Name of the row.
        key: Equal for a row and its counterpart.
        records: Seed -> record.
    """

    name: str
    key: str
    records: dict[int, Record]

    @property
    def first(self) -> Record:
        return next(iter(self.records.values()))


def compare(candidate: Iterable[Record], reference: Iterable[Record]) -> tuple[list[Comparison], list[str]]:
    """Compare the rows of a candidate with those of a reference.

    An InputError is raised if a folder holds one cell twice with different metrics.

    Args:
        candidate: The new records.
        reference: The old records.

    Returns:
        A comparison of each row that both have, and the names of the reference's rows that the candidate lacks.
    """
    new, old = _rows(candidate, "the candidate"), _rows(reference, "the reference")
    spreads = _spreads(old)
    compared, lacking = [], []
    for row in old:
        counterparts = [match for match in new if match.key == row.key and not _belongs_to_another(match, row, old)]
        same_protocol = [match for match in counterparts if match.first.protocol == row.first.protocol]
        rivals = [rival for rival in old if rival.key == row.key and rival.first.fingerprint == row.first.fingerprint]
        if not counterparts:
            lacking.append(row.name)
        elif not same_protocol and (len(counterparts) > 1 or len(rivals) > 1):
            protocols = sorted({match.first.protocol[:8] for match in (*rivals, *counterparts)})
            reason = f"several protocols go by this name ({', '.join(protocols)}); keep one of them in each folder"
            compared.append(Comparison(row.name, (), differs=reason))
        else:
            counterpart = (same_protocol or counterparts)[0]
            compared.append(_compare_rows(row, counterpart, spreads[row.first.dataset, row.first.method]))
    return compared, lacking


def _belongs_to_another(candidate: _Row, row: _Row, rows: Sequence[_Row]) -> bool:
    """True if a candidate's row is the counterpart of another reference row, by its protocol or by its images."""
    for rival in rows:
        if rival is not row and rival.key == row.key:
            same_images = rival.first.fingerprint == candidate.first.fingerprint != row.first.fingerprint
            if rival.first.protocol == candidate.first.protocol or same_images:
                return True
    return False


def lines(comparison: Comparison) -> list[str]:
    """Return the lines about a row for a person: every metric that moved, or one line that none did.

    Args:
        comparison: The row.

    Returns:
        At least one line.
    """
    row = f"{comparison.name} ({len(comparison.seeds)} seed{'s' * (len(comparison.seeds) != 1)})"
    if comparison.differs:
        return [f"{row}: not comparable: {comparison.differs}"]
    moved = [move for move in comparison.moves if move.verdict != "within"]
    if moved:
        return [f"{row}: {_in_words(move)}" for move in moved]
    if all(move.before == move.after or math.isnan(move.before) for move in comparison.moves):
        return [f"{row}: unchanged"]
    defined = [move for move in comparison.moves if not math.isnan(move.difference)]
    largest = max(defined, key=lambda move: abs(move.difference) / move.tolerance, default=None)
    if largest is None:
        return [f"{row}: no metric is defined in both"]
    return [f"{row}: within tolerance; nearest to it {_in_words(largest)}"]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a row for a script, with metrics in [0, 1].

    Args:
        comparison: The row.

    Returns:
        Plain values for JSON; None where a metric is not defined.
    """
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
    """The rows of a folder, one for each protocol. The settings tell the variants of an ablation apart."""
    rows: dict[tuple[str, str], _Row] = {}
    for record in sorted(records, key=lambda record: record.seed):
        overrides = record.settings.get("overrides") or {}
        settings = record.settings if only_of_ablation(record) else {}
        identifying = {key: value for key, value in settings.items() if key != "overrides"}
        identifying |= {"learned_weights": record.card.learned_weights} if record.card.trained_elsewhere else {}
        key = json.dumps([record.dataset, record.method, record.experiment, overrides, identifying], sort_keys=True)
        row = rows.setdefault((key, record.protocol), _Row(_name(record), key, {}))
        if row.records.setdefault(record.seed, record).metrics != record.metrics:
            cell = f"{row.name}, seed {record.seed}"
            raise InputError(f"{folder} has {cell}, twice with different metrics; keep one record of it")
    return list(rows.values())


def _name(record: Record) -> str:
    changed = changed_settings(record)
    if f"{record.dataset}/{record.method}" == record.experiment:
        return f"{record.experiment}{changed}"
    suffix = f" [{record.protocol[:8]}]" if only_of_ablation(record) else ""
    return f"{record.dataset}/{record.method} ({record.experiment}{changed}){suffix}"


def _spreads(rows: Sequence[_Row]) -> dict[tuple[str, str], dict[str, float]]:
    """(dataset, method) -> metric -> standard deviation over seeds, pooled over rows; 0 where no row has two seeds."""
    variances: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        by_metric = variances.setdefault((row.first.dataset, row.first.method), {key: [] for key in KEYS})
        for key in KEYS:
            values = [record.value(MEAN, key) for record in row.records.values()]
            if len(values) > 1 and not any(map(math.isnan, values)):
                by_metric[key].append(float(np.var(values, ddof=1)))
    return {
        method: {key: math.sqrt(np.mean(pooled)) if pooled else 0.0 for key, pooled in by_metric.items()}
        for method, by_metric in variances.items()
    }


def _compare_rows(row: _Row, counterpart: _Row, spread: dict[str, float]) -> Comparison:
    old, new = row.records, counterpart.records
    seeds = tuple(sorted(set(new) & set(old)))
    if not seeds:
        return Comparison(row.name, (), differs=f"no seed is in both ({sorted(new)} and {sorted(old)})")
    differs = list(dict.fromkeys(reason for seed in seeds for reason in _differences(old[seed], new[seed])))
    if differs:
        return Comparison(row.name, seeds, differs="; ".join(differs))
    moves = tuple(_move(key, [new[s] for s in seeds], [old[s] for s in seeds], spread[key]) for key in KEYS)
    return Comparison(row.name, seeds, moves)


def _differences(old: Record, new: Record) -> list[str]:
    """The reasons why two records cannot be compared."""
    reasons = [f"{name} {before} before, {now} now" for name, before, now in old.card.differing_task(new.card)]
    reasons += ["other images: the dataset's fingerprint is another"] if old.fingerprint != new.fingerprint else []
    missing = sorted(set(old.categories) ^ set(new.categories))
    return reasons + ([f"other categories: {', '.join(missing)} in one of them only"] if missing else [])


def _move(key: str, new: Sequence[Record], old: Sequence[Record], spread: float) -> Move:
    tolerance = max(FLOOR, SIGMAS * spread * math.sqrt(2 / len(new)))
    before, after = _mean(old, MEAN, key), _mean(new, MEAN, key)
    sign = 1 if after >= before else -1
    pairs = {name: (_mean(old, name, key), _mean(new, name, key)) for name in old[0].categories}
    moved = [(name, newer - older) for name, (older, newer) in pairs.items()]
    along = sorted((pair for pair in moved if sign * pair[1] > 0), key=lambda pair: -abs(pair[1]))
    lost = tuple(name for name, (older, newer) in pairs.items() if math.isnan(newer) and not math.isnan(older))
    return Move(key, before, after, tolerance, tuple(along[:MOST_CATEGORIES]), lost)


def _mean(records: Sequence[Record], category: str, key: str) -> float:
    if key == MAD.key and category != MEAN:
        return math.nan
    return float(np.mean([record.value(category, key) for record in records]))


def _in_words(move: Move) -> str:
    if math.isnan(move.after):
        return f"{LABELS[move.metric]} {100 * move.before:.1f} before, not defined now: regression"
    if move.lost:
        return f"{LABELS[move.metric]} is not defined any more for {', '.join(move.lost)}: regression"
    categories = ", ".join(f"{name} {100 * difference:+.1f}" for name, difference in move.categories)
    verdict = "" if move.verdict == "within" else f": {move.verdict}{f', most in {categories}' if categories else ''}"
    return (
        f"{LABELS[move.metric]} {100 * move.before:.1f} -> {100 * move.after:.1f} "
        f"({100 * move.difference:+.2f}, tolerance {100 * move.tolerance:.2f}){verdict}"
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
