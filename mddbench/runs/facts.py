"""What a tracking store gets of a cell beside its numbers: facts, tags, settings, and names that MLflow allows."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mddbench.experiments.ablation import is_ablation
from mddbench.runs.card import ProtocolCard
from mddbench.runs.records import Record


@dataclass(frozen=True)
class CellFacts:
    """What the tracking store gets when a run starts.

    Attributes:
        name: Name of the run.
        dataset: Name of the dataset.
        identity: Identity of the cell.
        fingerprint: Fingerprint of the dataset.
        profile: Numbers that say how much of the dataset was read.
        params: Settings without nesting.
        tags: Protocol card, environment and code.
    """

    name: str
    dataset: str
    identity: str
    fingerprint: str
    profile: dict[str, int]
    params: dict[str, str]
    tags: dict[str, str]


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
        fingerprint=record.fingerprint,
        profile={"categories": len(record.categories)},
        params={"seed": str(record.seed), **flat_settings(record.settings)},
        tags=tags_of(record.card, record.environment, record.protocol, record.experiment),
    )


def tags_of(card: ProtocolCard, environment: Mapping[str, Any], protocol: str, experiment: str) -> dict[str, str]:
    """Describe a run by its tags.

    Args:
        card: Protocol card of the cell.
        environment: Description of machine and software.
        protocol: Identity of the cell without its seed.
        experiment: Name of the experiment.

    Returns:
        Name -> text. Values of other types are JSON.
    """
    tags = {f"mddbench.card.{key}": _text(value) for key, value in card.texts().items()}
    tags |= {f"mddbench.environment.{key}": _text(value) for key, value in environment.items()}
    return tags | {"mddbench.protocol": protocol, "mddbench.experiment": experiment, "mddbench.status": "running"}


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


def metric_names(categories: list[str]) -> dict[str, str]:
    """Find a name for each category that MLflow allows in the key of a metric. The names are all different.

    MLflow allows letters and digits of all scripts, '_', '-', '.' and spaces. Other characters become '_'.
    A category without any letter or digit is named by its position and a hash. The tags of a run hold the true names.

    >>> metric_names(["schüssel", "螺丝", "nut (big)", "nut [big]"])
    {'schüssel': 'schüssel', '螺丝': '螺丝', 'nut (big)': 'nut _big_', 'nut [big]': 'nut _big_-2'}

    Args:
        categories: Names of the categories.

    Returns:
        Category -> allowed name.
    """
    plain: dict[str, str] = {}
    for position, category in enumerate(categories):
        name = re.sub(r"^\.\.|[^\w\-. ]", "_", unicodedata.normalize("NFC", category))
        readable = any(character.isalnum() for character in name)
        plain[category] = (
            name if readable else f"category-{position}-{hashlib.sha256(category.encode()).hexdigest()[:8]}"
        )
    unchanged = {name for category, name in plain.items() if name == category}
    names: dict[str, str] = {}
    for category, name in plain.items():
        number, candidate = 1, name
        while candidate != category and (candidate in unchanged or candidate in names.values()):
            number += 1
            candidate = f"{name}-{number}"
        names[category] = candidate
    return names
