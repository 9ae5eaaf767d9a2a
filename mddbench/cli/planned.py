"""The plan that `mddbench run --dry-run` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mddbench.execution.cells import Cell
    from mddbench.execution.options import RunOptions
    from mddbench.progress import Reporter


def show_plan(cells: list[Cell], options: RunOptions, reporter: Reporter, as_json: bool) -> None:
    """Print the plan of a run and its estimated cost.

    Args:
        cells: The cells of the run.
        options: The options of the run.
        reporter: Shows the progress of the estimate.
        as_json: True for JSON, False for a table.
    """
    from mddbench.execution.estimate import estimate

    estimates = estimate(cells, options, reporter)
    rows: list[dict[str, Any]] = [
        {
            "experiment": entry.experiment.name,
            "seeds": list(entry.seeds),
            "epochs": entry.experiment.epochs,
            "train_images": entry.train_images,
            "test_images": entry.test_images,
            "step_seconds": entry.step_seconds,
            "hours": entry.hours,
            "hours_range": entry.hours_range,
            "cache_mib": entry.cache_mib,
            "collected_mib": entry.collected_mib,
        }
        for entry in estimates
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{'experiment':<24} {'seeds':<10} {'epochs':>6} {'train':>7} {'test':>7} {'s/step':>8} {'hours':>8} {'cache':>9}"
    )
    for row in rows:
        seeds = ",".join(str(seed) for seed in row["seeds"])
        train, test = (str(row[key]) if row[key] is not None else "?" for key in ("train_images", "test_images"))
        hours = f"{row['hours']:.2f}" if row["hours"] is not None else "?"
        cache = f"{row['cache_mib']:.0f} MiB" if row["cache_mib"] is not None else "?"
        print(
            f"{row['experiment']:<24} {seeds:<10} {row['epochs']:>6} {train:>7} {test:>7} "
            f"{row['step_seconds']:>8.3f} {hours:>8} {cache:>9}"
        )
    for row in rows:
        if row["collected_mib"]:
            print(f"{row['experiment']} keeps up to {row['collected_mib']:.0f} MiB while it sees the training images")
    total = sum(row["hours"] or 0.0 for row in rows)
    fastest, slowest = (sum((row["hours_range"] or (0.0, 0.0))[end] for row in rows) for end in (0, 1))
    print(
        f"{len(cells)} cells, about {_duration(total)} ({_duration(fastest)} to {_duration(slowest)} by the fastest and "
        f"the slowest timed step) on {options.device} one after the other; decoding and metrics come on top"
    )


def _duration(hours: float) -> str:
    return f"{60 * hours:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
