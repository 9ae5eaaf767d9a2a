"""What `mddbench run --dry-run` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mddbench.execution.cells import Cell
    from mddbench.execution.plan import RunOptions
    from mddbench.progress import Reporter


def show_plan(cells: list[Cell], options: RunOptions, speaker: Reporter, as_json: bool) -> None:
    """Print the plan and what it would cost, as a table or as JSON."""
    from mddbench.execution.estimate import estimate

    found = estimate(cells, options, speaker)
    rows: list[dict[str, Any]] = [
        {
            "experiment": each.experiment.name,
            "seeds": list(each.seeds),
            "epochs": each.experiment.epochs,
            "train_images": each.train_images,
            "test_images": each.test_images,
            "step_seconds": each.step_seconds,
            "hours": each.hours,
            "cache_mib": each.cache_mib,
        }
        for each in found
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
    total = sum(row["hours"] or 0.0 for row in rows)
    print(
        f"{len(cells)} cells, about {_duration(total)} on {options.device} one after the other, from timed steps; decoding and "
        "metrics come on top"
    )


def _duration(hours: float) -> str:
    return f"{60 * hours:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
