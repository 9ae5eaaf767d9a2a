"""Published numbers beside measured ones: are the numbers of a paper reproduced under its own protocol?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mddbench.experiments.schema import Experiment, ReportedSettings
from mddbench.metrics.names import LABELS, MEAN, SEVEN
from mddbench.report.rows.reported import Published, category_count, find, means
from mddbench.runs.records import Record

DECIDING = ("image_size", "batch_size", "epochs", "encoder", "optimizer", "schedule", "gradient_clip", "precision")
"""The settings in which a record and its experiment's file must agree, so that the published protocol is the same."""
OF_EPOCHS = ("epochs", "optimizer", "schedule", "gradient_clip")
"""Those of them that do not concern a method that sees each image exactly once."""
Verdict = Literal["reproduced", "within the spread", "off", "no published value", "not defined", "not run"]
Rescored = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Metrics of cells that kept their maps: identity -> convention -> 'mean' or category -> metric -> value in [0, 1]."""
EXACT = "exact"
MOST_HINTS = 2


@dataclass(frozen=True)
class Judgement:
    """One metric of an experiment, measured and published, in [0, 1]; NaN where there is no value.

    Attributes:
        experiment: Name of the experiment.
        group: 'mean' or a category.
        metric: Key of the metric.
        measured: Mean over the seeds.
        deviation: Standard deviation over the seeds (of a sample).
        seeds: Number of seeds.
        published: The published value.
        tolerance: Largest difference that counts as reproduced.
        sigmas: Largest difference within the spread, in standard deviations.
        convention: How the measured value was computed.
        hints: Possible explanations of a difference.
        protocol: Hash of the runs' protocol if an experiment has several, else empty.
    """

    experiment: str
    group: str
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
        """'reproduced' within the tolerance, 'within the spread' within some standard deviations, or else 'off'."""
        if math.isnan(self.published):
            return "no published value"
        if math.isnan(self.measured):
            return "not defined" if self.seeds else "not run"
        distance = round(abs(self.measured - self.published), 12)  # without the rounding error of decimal numbers
        if distance <= self.tolerance:
            return "reproduced"
        return "within the spread" if distance <= self.sigmas * self.deviation else "off"

    def __str__(self) -> str:
        group = "" if self.group == MEAN else f" {self.group}"
        group += f" (protocol {self.protocol[:8]})" if self.protocol else ""
        start = f"{self.experiment}{group} {LABELS[self.metric]}: {self.verdict}"
        if self.verdict in ("not run", "not defined", "no published value"):
            return start
        spread = "" if math.isnan(self.deviation) else f" ± {100 * self.deviation:.1f}"
        distance = 100 * (self.measured - self.published)
        difference = f" by {distance:+.1f}" if self.verdict == "off" else ""
        counted = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        counted += "" if self.convention == EXACT else f", as {self.convention} counts"
        line = (
            f"{start}{difference}: {100 * self.measured:.1f}{spread} ({counted}), published {100 * self.published:.1f}"
        )
        return "\n".join([line, *(f"    {hint}" for hint in self.hints)])

    def as_dict(self) -> dict[str, Any]:
        """Return the judgement for a script.

        Returns:
            The fields and the verdict as JSON values; None where there is no value.
        """
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
            "place": self.group,
            "metric": self.metric,
            "seeds": self.seeds,
        }
        return {**named, **shown, "convention": self.convention, "verdict": self.verdict, "hints": list(self.hints)}


def verify(
    experiments: Iterable[Experiment], records: Sequence[Record], categories: bool, rescored: Rescored | None = None
) -> tuple[list[Judgement], list[str]]:
    """Compare the measured metrics of experiments with the published ones.

    An InputError is raised if an experiment's words fit several sources.

    Args:
        experiments: The experiments.
        records: The records of their runs, and of others.
        categories: True to judge each category, too, if the source has it.
        rescored: Metrics by the conventions of sources, from kept maps. They are compared if the source counts so.

    Returns:
        A judgement of each metric of each experiment, and lines about records that were left out.
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
            judged = _of_experiment(experiment, members, categories, rescored or {})
            several = len(protocols) > 1
            judgements += [replace(judgement, protocol=protocol) for judgement in judged] if several else judged
        if len(protocols) > 1:
            left_out.append(
                f"{experiment.name}: {len(protocols)} protocols (other method settings, data, weights), judged apart"
            )
    return judgements, left_out


def _of_experiment(
    experiment: Experiment, records: list[Record], categories: bool, rescored: Rescored
) -> list[Judgement]:
    reported = experiment.reported
    wanted = reported.convention if reported else EXACT
    tables = [rescored[record.identity][wanted] for record in records if wanted in rescored.get(record.identity, {})]
    convention = wanted if records and len(tables) == len(records) else EXACT
    rows = {}
    if reported is not None:
        rows = find(experiment.dataset, reported.method, reported.source, reported.epochs, experiment.setting)
    groups = [MEAN, *sorted(set(rows) - {MEAN})] if categories else [MEAN]
    judgements = []
    for group in groups:
        for key in SEVEN:
            values = [record.value(group, key) for record in records]
            if convention != EXACT:
                values = [table.get(group, {}).get(key, math.nan) for table in tables]
            judgement = Judgement(
                experiment.name,
                group,
                key,
                measured=float(np.mean(values)) if values else math.nan,
                deviation=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
                seeds=len(values),
                published=rows[group].values.get(key, math.nan) if group in rows else math.nan,
                tolerance=reported.tolerance / 100 if reported else math.nan,
                sigmas=reported.sigmas if reported else math.nan,
                convention=convention,
            )
            if reported is not None and judgement.verdict == "off":
                judgement = replace(judgement, hints=_hints(judgement, experiment, reported))
            judgements.append(judgement)
    return judgements


def _hints(judgement: Judgement, experiment: Experiment, reported: ReportedSettings) -> tuple[str, ...]:
    """Possible explanations of a difference: the convention of the metrics, other published numbers, known facts."""
    hints = []
    if reported.convention not in (EXACT, judgement.convention):
        hints.append(
            f"the source's metrics are of another convention ({reported.convention}); what that explains shows from kept "
            f"maps: mddbench run {experiment.name} --keep-maps"
        )
    near = [
        row
        for row in means(experiment.dataset, experiment.setting)
        if row.method == reported.method and judgement.group == MEAN and _near(row, judgement)
    ]
    hints += [_elsewhere(row, judgement.metric) for row in near[:MOST_HINTS]]
    return (*hints, *(f"known: {text}" for text in reported.known))


def _near(row: Published, judgement: Judgement) -> bool:
    """True if another published value is within the tolerance of the measured one."""
    value = row.values.get(judgement.metric, math.nan)
    return value != judgement.published and abs(value - judgement.measured) <= judgement.tolerance


def _elsewhere(row: Published, metric: str) -> str:
    budget = f"after {row.epochs} epochs" if row.epochs.isdigit() else f"({row.epochs or 'epochs not stated'})"
    return f"published elsewhere {budget}: {100 * row.values[metric]:.1f} ({row.source})"


def _differs(record: Record, experiment: Experiment) -> str:
    """The reason why a record cannot be compared with the published numbers; empty if it can."""
    if experiment.setting == "unified" and not record.card.standard_setting:
        return record.card.shown("setting")
    if record.card.trained_elsewhere:
        return "weights from a file"
    expected = category_count(experiment.dataset)
    if expected and len(record.categories) != expected:
        return f"{len(record.categories)} of {expected} categories"
    current = experiment.model_dump(mode="json")
    deciding = [key for key in DECIDING if not (record.card.one_pass and key in OF_EPOCHS)]
    changed = [key for key in deciding if record.settings.get(key) != current[key]]
    if record.settings.get("overrides"):
        changed += [f"--set {key}" for key in record.settings["overrides"]]
    return f"other {', '.join(dict.fromkeys(changed))}" if changed else ""
