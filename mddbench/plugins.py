"""Methods, datasets and experiments are found by file name: adding one means adding a file, and editing none.

Files outside this package count, too: those of a folder given by --plugins, and modules that other installed packages name in
the entry point groups `mddbench.methods` and `mddbench.datasets`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from mddbench.errors import InputError

METHODS = ("mddbench.methods", "mddbench.baselines")
DATASETS = ("mddbench.data.datasets",)
FOLDERS = {"methods": "mddbench.baselines", "datasets": "mddbench.data.datasets"}
"""Folders of a plug-in folder, and the package whose modules their files become; `experiments` is read where it lies."""

_added: list[Path] = []


def add_folder(folder: Path) -> None:
    """Take a folder's methods/*.py, datasets/*.py and experiments/*/*.yaml for plug-ins. Raises InputError if it has none of
    them, or one that goes by the name of another.
    """
    folder = folder.resolve()
    if folder in _added:
        return
    kinds = [kind for kind in (*FOLDERS, "experiments") if (folder / kind).is_dir()]
    if not kinds:
        found = "it has none of them" if folder.is_dir() else "no such folder"
        raise InputError(f"--plugins {folder}: expected the folders methods, datasets or experiments there; {found}")
    for kind in FOLDERS:
        known = modules(METHODS if kind == "methods" else DATASETS)
        for module in pkgutil.iter_modules([str(folder / kind)]):
            if module.name in known:
                raise InputError(f"{folder / kind / module.name}.py: '{module.name}' is known already; rename the file")
    for file in (folder / "experiments").glob("*/*.yaml"):
        name = file.relative_to(folder)
        if any((place / name).exists() for place in (Path(__file__).parent, *_added)):
            raise InputError(f"{file}: '{file.parent.name}/{file.stem}' is known already; rename the file")
    for kind, package in FOLDERS.items():
        if kind in kinds:
            import_module(package).__path__.append(str(folder / kind))
    _added.append(folder)


def added_folders() -> list[Path]:
    """The plug-in folders, as `add_folder` took them."""
    return list(_added)


def experiment_folders() -> list[Path]:
    """The folders `experiments` of the plug-in folders."""
    return [folder / "experiments" for folder in _added]


def modules(packages: tuple[str, ...]) -> dict[str, str]:
    """Name -> full module name of every module of some packages and of other packages' entry points, sorted by name, without
    importing them.
    """
    found: dict[str, str] = {}
    for package in packages:
        paths = import_module(package).__path__
        found.update({module.name: f"{package}.{module.name}" for module in pkgutil.iter_modules(paths)})
    group = "mddbench.methods" if packages == METHODS else "mddbench.datasets"
    for point in entry_points(group=group):
        if found.setdefault(point.name, point.value) != point.value:
            raise InputError(
                f"entry point {group}: '{point.name}' is both {found[point.name]} and {point.value}; rename one"
            )
    return dict(sorted(found.items()))


def module_of(name: str, packages: tuple[str, ...]) -> str:
    """The full module name behind a plugin's name. Raises InputError, with the nearest name, if there is none."""
    found = modules(packages)
    if name not in found:
        what = "method" if packages == METHODS else "dataset"
        raise InputError(f"unknown {what} '{name}'{nearest(name, found)}; known: {', '.join(found)}")
    return found[name]


def load_module(name: str, packages: tuple[str, ...]) -> ModuleType:
    """The module behind a plugin's name. Raises InputError if there is none, or if it cannot be imported."""
    module = module_of(name, packages)
    try:
        return import_module(module)
    except InputError:
        raise
    except Exception as fault:  # a plug-in's file may hold anything
        text = str(fault).splitlines()[0] if str(fault) else "no message"
        raise InputError(f"'{name}' ({module}) cannot be imported: {type(fault).__name__}: {text}") from fault


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for the known name nearest to a wrong one, or ''."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
