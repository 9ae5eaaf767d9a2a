"""The table of a search for settings: the score of each recipe, and that of the best trial with its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from mddbench.metrics.names import LABELS
from mddbench.report.tables.table import DASH, Cell, Column, Row, Table
from mddbench.runs.search import METRICS, SearchResult, Trial


def search_table(results: Sequence[SearchResult]) -> Table:
    """Return a row for each method.

    Args:
        results: The results of the searches, at least one.

    Returns:
        The table. Its notes say on which data the trials were judged.
    """
    metric = " or ".join(LABELS[key] for key in METRICS if key in {result.metric for result in results})
    columns = (
        Column("Trials", "trials", "count"),
        Column(f"{metric} of the recipe", "recipe"),
        Column(f"{metric} of the best", "best"),
        Column("Settings of the best", "settings", "text"),
    )
    labels = [result.label for result in results]
    rows = tuple(
        Row(
            result.label if labels.count(result.label) == 1 else f"{result.label} ({result.experiment})",
            (
                Cell(str(len(result.trials)), len(result.trials)),
                _score(result, result.recipe),
                _score(result, result.winner),
                Cell(settings_in_words(result.winner.settings)),
            ),
        )
        for result in sorted(results, key=lambda result: result.label.lower())
    )
    return Table("The search for settings", "Method", columns, rows, _notes(results))


def settings_in_words(settings: dict[str, Any]) -> str:
    """Return settings in one line, without the prefix of a method's own settings.

    >>> settings_in_words({"optimizer.lr": 0.001, "settings.bottleneck_width": 64})
    'optimizer.lr 0.001, bottleneck_width 64'
    """
    return ", ".join(
        f"{name.removeprefix('settings.')} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    )


def _score(result: SearchResult, trial: Trial) -> Cell:
    score = result.score(trial)
    return Cell(f"{100 * score:.1f}", score) if math.isfinite(score) else Cell(DASH)


def _notes(results: Sequence[SearchResult]) -> tuple[str, ...]:
    judged = sorted({str(result.judged_on) for result in results})
    budgets = [f"{result.label} {result.epochs}" for result in results]
    alike = len({result.epochs for result in results}) == 1
    seeds = sorted({", ".join(map(str, result.seeds)) for result in results})
    failed = [f"{result.label}: {len(result.failed)} of its trials failed." for result in results if result.failed]
    processors = sorted({trial.processor for result in results for trial in result.trials if trial.processor})
    if len(processors) > 1:
        failed.append(f"Trials ran on several machines: {'; '.join(processors)}.")
    return (
        f"Percent. Trials are judged on {'; '.join(judged)}. These numbers chose settings, so they are no test results.",
        f"Epochs: {results[0].epochs if alike else ', '.join(budgets)}. Seeds of each trial: {' or '.join(seeds)}.",
        *failed,
    )
