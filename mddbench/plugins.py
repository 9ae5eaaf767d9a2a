"""Methods, datasets and experiments are found by file name: adding one means adding a file, and editing none."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module

from mddbench.errors import InputError

METHODS = ("mddbench.methods", "mddbench.baselines")
DATASETS = ("mddbench.data.datasets",)


def modules(packages: tuple[str, ...]) -> dict[str, str]:
    """Name -> full module name of every module of some packages, sorted by name, without importing them."""
    found: dict[str, str] = {}
    for package in packages:
        paths = import_module(package).__path__
        found.update({module.name: f"{package}.{module.name}" for module in pkgutil.iter_modules(paths)})
    return dict(sorted(found.items()))


def module_of(name: str, packages: tuple[str, ...]) -> str:
    """The full module name behind a plugin's name. Raises InputError, with the nearest name, if there is none."""
    found = modules(packages)
    if name not in found:
        what = "method" if packages == METHODS else "dataset"
        raise InputError(f"unknown {what} '{name}'{nearest(name, found)}; known: {', '.join(found)}")
    return found[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for the known name nearest to a wrong one, or ''."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
