"""What a tracking store gets of a cell beside its curves: facts, settings, a description, and the table of its categories."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from mddbench.experiments.ablation import is_ablation
from mddbench.metrics.names import COLUMNS, ITEM, LABELS, MEAN
from mddbench.runs.card import CARD_FIELDS, ProtocolCard
from mddbench.runs.records import Record

TOLD = ("epochs", "image_size", "encoder")
"""Fields of the protocol card that the description of a cell gives beside its setting."""


@dataclass(frozen=True)
class CellFacts:
    """What the tracking store gets when a run starts.

    Attributes:
        name: Name of the run.
        dataset: Name of the dataset.
        identity: Identity of the cell.
        protocol: The same without the seed.
        experiment: Name of the experiment.
        about: The cell in a sentence, see `describe`.
        fingerprint: Fingerprint of the dataset.
        profile: Numbers that say how much of the dataset was read.
        params: Settings without nesting.
        commit: Git commit of the code, '' outside a checkout.
    """

    name: str
    dataset: str
    identity: str
    protocol: str
    experiment: str
    about: str
    fingerprint: str
    profile: dict[str, int]
    params: dict[str, str]
    commit: str


def facts_of(record: Record) -> CellFacts:
    """Collect the facts of a cell that finished elsewhere.

    Args:
        record: The record of the cell.

    Returns:
        The facts.
    """
    return CellFacts(
        name=f"{record.method}/{record.dataset}/seed{record.seed}"
        + (f" ({record.experiment})" if is_ablation(record.experiment) else ""),
        dataset=record.dataset,
        identity=record.identity,
        protocol=record.protocol,
        experiment=record.experiment,
        about=describe(record.label, record.dataset, record.seed, record.card),
        fingerprint=record.fingerprint,
        profile={"categories": len(record.categories)},
        params={"seed": str(record.seed), **flat_settings(record.settings)},
        commit=str(record.environment.get("commit") or ""),
    )


def describe(label: str, dataset: str, seed: int, card: ProtocolCard) -> str:
    """Describe a cell in a sentence.

    Args:
        label: Name of the method in tables.
        dataset: Name of the dataset.
        seed: Seed of the cell.
        card: Its protocol card.

    Returns:
        Markdown, as in '**RD4AD** on mini: one model for 8 categories, epochs 60, image size 128, seed 0'.
    """
    told = [f"{CARD_FIELDS[name].label} {card.shown(name)}" for name in TOLD if name in card.model_fields_set]
    setting = [] if card.setting is None else [str(card.setting)]
    return f"**{label}** on {dataset}: {', '.join([*setting, *told, f'seed {seed}'])}"


def results_row(record: Record) -> str:
    """Write the results of a cell as the row of a table.

    Args:
        record: The record.

    Returns:
        A Markdown table of one row, in percent.
    """
    keys = [*COLUMNS, *([ITEM.key] if ITEM.key in record.metrics[MEAN] else [])]
    values = [record.value(MEAN, key) for key in keys]
    cells = [record.label, str(record.seed), *("–" if math.isnan(value) else f"{100 * value:.1f}" for value in values)]
    lines = (["Method", "Seed", *(LABELS[key] for key in keys)], ["---"] * len(cells), cells)
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)


def category_table(record: Record) -> dict[str, list[Any]]:
    """Write the metrics of each category as a table.

    Args:
        record: The record.

    Returns:
        'columns' with the names of the columns, and 'data' with a list of values for each category.
    """
    groups = [{**record.metrics[name], **record.further.get(name, {})} for name in record.categories]
    keys = list(dict.fromkeys(key for group in groups for key in group))
    rows = [[name, *(group.get(key) for key in keys)] for name, group in zip(record.categories, groups, strict=True)]
    return {"columns": ["category", *(LABELS.get(key, key) for key in keys)], "data": rows}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings.

    Args:
        settings: Setting -> value or a dict of further settings.
        prefix: Text before each name.

    Returns:
        Names with dots -> value as text, such as 'optimizer.lr' -> '0.005'.
    """
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat
