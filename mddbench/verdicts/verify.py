"""Measured against published: are a paper's numbers reproduced under its own protocol?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mddbench.experiments.schema import Experiment, ReportedSettings
from mddbench.metrics.names import LABELS, SEVEN
from mddbench.report.rows.groups import MEAN
from mddbench.report.rows.reported import Published, category_count, find, means
from mddbench.runs.records import Record

DECIDING = ("image_size", "batch_size", "epochs", "encoder", "optimizer", "schedule", "gradient_clip", "precision")
"""Settings of a record that must be those of its experiment's file for the published protocol to be the same."""
Verdict = Literal["reproduced", "within the spread", "off", "no published value", "not defined", "not run"]
Rescored = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Identity of a cell -> convention -> 'mean' and each category -> metric -> value in [0, 1], of cells that kept their maps."""
EXACT = "exact"
MOST_HINTS = 2


@dataclass(frozen=True)
class Judgement:
    """One metric of an experiment's mean, or of a category's, in [0, 1]; NaN where there is none. convention: by which the
    measured value was computed; hints: what may explain that it is off; protocol: of the runs, where an experiment has several.
    """

    experiment: str
    place: str
    metric: str
    measured: float
    deviation: float
    seeds: int
    published: float
    tolerance: float
    sigmas: float
    convention: str = EXACT
    hints: tuple[str, ...] = ()
    protocol: str = ""

    @property
    def verdict(self) -> Verdict:
        """reproduced: as near as the tolerance; within the spread: as near as some standard deviations over the seeds."""
        if math.isnan(self.published):
            return "no published value"
        if math.isnan(self.measured):
            return "not defined" if self.seeds else "not run"
        distance = round(abs(self.measured - self.published), 12)  # a difference of decimals is not one of numbers
        if distance <= self.tolerance:
            return "reproduced"
        return "within the spread" if distance <= self.sigmas * self.deviation else "off"

    def __str__(self) -> str:
        place = "" if self.place == MEAN else f" {self.place}"
        place += f" (protocol {self.protocol[:8]})" if self.protocol else ""
        told = f"{self.experiment}{place} {LABELS[self.metric]}: {self.verdict}"
        if self.verdict in ("not run", "not defined", "no published value"):
            return told
        spread = "" if math.isnan(self.deviation) else f" ± {100 * self.deviation:.1f}"
        distance = 100 * (self.measured - self.published)
        by = f" by {distance:+.1f}" if self.verdict == "off" else ""
        counted = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        counted += "" if self.convention == EXACT else f", as {self.convention} counts"
        line = f"{told}{by}: {100 * self.measured:.1f}{spread} ({counted}), published {100 * self.published:.1f}"
        return "\n".join([line, *(f"    {hint}" for hint in self.hints)])

    def as_dict(self) -> dict[str, Any]:
        """For a script; null where there is no value."""
        values = {
            "measured": self.measured,
            "deviation": self.deviation,
            "published": self.published,
            "tolerance": self.tolerance,
        }
        shown = {key: None if math.isnan(value) else value for key, value in values.items()}
        named = {
            "experiment": self.experiment,
            "protocol": self.protocol,
            "place": self.place,
            "metric": self.metric,
            "seeds": self.seeds,
        }
        return {**named, **shown, "convention": self.convention, "verdict": self.verdict, "hints": list(self.hints)}


def verify(
    experiments: Iterable[Experiment], records: Sequence[Record], categories: bool, rescored: Rescored | None = None
) -> tuple[list[Judgement], list[str]]:
    """A judgement of each metric of each experiment that names published numbers, and lines about records that were left out.

    categories: of each category, too, where the source has it; rescored: what kept maps give by other conventions, which is
    compared where the source counts so. Raises InputError if an experiment's words fit several sources.
    """
    judgements: list[Judgement] = []
    left_out: list[str] = []
    for experiment in experiments:
        own = [record for record in records if record.experiment == experiment.name]
        reasons = [_differs(record, experiment) for record in own]
        for reason in sorted(set(filter(None, reasons))):
            left_out.append(f"{experiment.name}: left out what is under another protocol ({reason})")
        fitting = [record for record, reason in zip(own, reasons, strict=True) if not reason]
        protocols = list(dict.fromkeys(record.protocol for record in fitting))
        for protocol in protocols or [""]:
            members = [record for record in fitting if record.protocol == protocol]
            found = _of_experiment(experiment, members, categories, rescored or {})
            judgements += [replace(one, protocol=protocol) for one in found] if len(protocols) > 1 else found
        if len(protocols) > 1:
            left_out.append(
                f"{experiment.name}: {len(protocols)} protocols (other method settings, data, weights), judged apart"
            )
    return judgements, left_out


def _of_experiment(
    experiment: Experiment, records: list[Record], categories: bool, rescored: Rescored
) -> list[Judgement]:
    told = experiment.reported
    way = told.convention if told else EXACT
    others = [rescored[record.identity][way] for record in records if way in rescored.get(record.identity, {})]
    convention = way if records and len(others) == len(records) else EXACT
    rows = {}
    if told is not None:
        rows = find(experiment.dataset, told.method, told.source, told.epochs, experiment.setting)
    places = [MEAN, *sorted(set(rows) - {MEAN})] if categories else [MEAN]
    judgements = []
    for place in places:
        for key in SEVEN:
            values = [record.value(place, key) for record in records]
            if convention != EXACT:
                values = [tables.get(place, {}).get(key, math.nan) for tables in others]
            judgement = Judgement(
                experiment.name,
                place,
                key,
                measured=float(np.mean(values)) if values else math.nan,
                deviation=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
                seeds=len(values),
                published=rows[place].values.get(key, math.nan) if place in rows else math.nan,
                tolerance=told.tolerance / 100 if told else math.nan,
                sigmas=told.sigmas if told else math.nan,
                convention=convention,
            )
            if told is not None and judgement.verdict == "off":
                judgement = replace(judgement, hints=_hints(judgement, experiment, told))
            judgements.append(judgement)
    return judgements


def _hints(judgement: Judgement, experiment: Experiment, told: ReportedSettings) -> tuple[str, ...]:
    """What may explain that it is off: the convention of its metrics, other published numbers, what is known."""
    hints = []
    if told.convention not in (EXACT, judgement.convention):
        hints.append(
            f"the source's metrics are of another convention ({told.convention}); what that explains shows from kept maps: "
            f"mddbench run {experiment.name} --keep-maps"
        )
    near = [
        row
        for row in means(experiment.dataset, experiment.setting)
        if row.method == told.method and judgement.place == MEAN and _near(row, judgement)
    ]
    hints += [_elsewhere(row, judgement.metric) for row in near[:MOST_HINTS]]
    return (*hints, *(f"known: {text}" for text in told.known))


def _near(row: Published, judgement: Judgement) -> bool:
    value = row.values.get(judgement.metric, math.nan)
    return value != judgement.published and abs(value - judgement.measured) <= judgement.tolerance


def _elsewhere(row: Published, metric: str) -> str:
    budget = f"after {row.epochs} epochs" if row.epochs.isdigit() else f"({row.epochs or 'epochs not told'})"
    return f"published elsewhere {budget}: {100 * row.values[metric]:.1f} ({row.source})"


def _differs(record: Record, experiment: Experiment) -> str:
    """Why a record of the experiment cannot stand beside the published numbers, '' if it can."""
    if experiment.setting == "unified" and not record.card.standard_setting:
        return record.card.shown("setting")
    if record.card.trained_elsewhere:
        return "weights from a file"
    expected = category_count(experiment.dataset)
    if expected and len(record.categories) != expected:
        return f"{len(record.categories)} of {expected} categories"
    current = experiment.model_dump(mode="json")
    changed = [key for key in DECIDING if record.settings.get(key) != current[key]]
    if record.settings.get("overrides"):
        changed += [f"--set {key}" for key in record.settings["overrides"]]
    return f"other {', '.join(dict.fromkeys(changed))}" if changed else ""
