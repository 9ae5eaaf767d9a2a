"""Which settings of the command line an experiment takes, where methods of one plan use different ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mddbench.detector import load_method
from mddbench.engine.step import unused_overrides
from mddbench.experiments.ablation import is_ablation
from mddbench.experiments.catalogue import load_experiment


def used_overrides(names: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Leave out overrides for the experiments whose methods do not use them, where others do.

    So a budget of epochs can be given for a suite that holds a method of a single pass.

    Args:
        names: Names or files of experiments and ablations.
        overrides: Dotted setting -> value, from the command line.

    Returns:
        Name -> overrides. What no method uses is kept for all, so that it is refused.
    """
    methods = {name: load_method(load_experiment(name, overrides).method) for name in names if not is_ablation(name)}
    unused = {name: set(unused_overrides(overrides, method)) for name, method in methods.items()}
    useless = set.intersection(*unused.values()) if unused and len(unused) == len(names) else set()
    return {
        name: {key: value for key, value in overrides.items() if key in useless or key not in unused.get(name, ())}
        for name in names
    }
