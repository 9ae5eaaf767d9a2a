"""Results in the form that model repositories and leaderboards gather: YAML files in `.eval_results/`.

Source: Hugging Face's documentation of evaluation results (2026): a list of entries, each with a dataset and its task, a value,
a source and notes. A dataset has our name here; whoever publishes it names the repository that holds it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

import yaml

from mddbench.metrics.names import COLUMNS, LABELS, MEAN
from mddbench.runs.records import Record

FOLDER = ".eval_results"


def eval_results(records: Sequence[Record], by: str = "", url: str = "") -> dict[str, str]:
    """Write the means over seeds of each row.

    Args:
        records: The records, one a cell.
        by: Who submits them.
        url: Where they can be read.

    Returns:
        Path of a file, such as '.eval_results/mini-rd4ad-c61d0751.yaml' -> its text.
    """
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        rows[record.protocol].append(record)
    return {
        f"{FOLDER}/{own[0].dataset}-{own[0].method}-{protocol[:8]}.yaml": yaml.safe_dump(
            list(_entries(own, by, url)), sort_keys=False, allow_unicode=True
        )
        for protocol, own in sorted(rows.items())
    }


def _entries(records: Sequence[Record], by: str, url: str) -> Iterator[dict[str, Any]]:
    """Yield an entry for each metric that all seeds of a row have."""
    first = records[0]
    source = {"name": f"mddbench {first.environment.get('mddbench')}", "url": url, "user": by}
    seeds = ", ".join(str(seed) for seed in sorted(record.seed for record in records))
    for key in COLUMNS:
        values = [record.value(MEAN, key) for record in records]
        if any(map(math.isnan, values)):
            continue
        spread = f", standard deviation {stdev(values):.4f}" if len(values) > 1 else ""
        made = f"mean over {len(first.categories)} categories and seeds {seeds}{spread}"
        yield {
            "dataset": {"id": first.dataset, "task_id": key},
            "value": round(fmean(values), 6),
            "source": {name: text for name, text in source.items() if text},
            "notes": f"{LABELS[key]} of {first.label}: {made}; protocol {first.protocol[:16]}, {first.card.setting}",
        }
