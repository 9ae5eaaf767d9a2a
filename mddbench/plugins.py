"""Finds methods, datasets and experiments by file name. To add one means to add a file, without editing another.

Files outside this package count, too: those of a folder given by --plugins, and modules of other installed packages.
Such packages name their modules in the entry point groups `mddbench.methods` and `mddbench.datasets`.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from mddbench.errors import InputError

METHODS = ("mddbench.methods", "mddbench.baselines")
DATASETS = ("mddbench.data.datasets",)
FOLDERS = {"methods": "mddbench.baselines", "datasets": "mddbench.data.datasets"}
"""For each folder of Python files in a plug-in folder, the package whose modules these files become.

The other folders are read in their place.
"""
YAML_FOLDERS = ("experiments", "suites")
"""The folders of YAML files in a plug-in folder. experiments/ablation and experiments/search are read, too."""

RENAMED = {"Below": "ImageFolder", "Collected": "SplitFile", "Kind": "SplitName"}
"""Names that plug-ins imported once, and what they are now."""

_added_folders: list[Path] = []


def add_folder(folder: Path) -> None:
    """Add the plug-ins of a folder: methods/*.py, datasets/*.py, experiments/*/*.yaml and suites/*.yaml.

    Args:
        folder: The plug-in folder. A folder that was added before is not added again.

    Raises:
        InputError: If none of these folders exists, or if a file has the name of a known plug-in.
    """
    folder = folder.resolve()
    if folder in _added_folders:
        return
    kinds = [kind for kind in (*FOLDERS, *YAML_FOLDERS) if (folder / kind).is_dir()]
    if not kinds:
        known = ", ".join((*FOLDERS, *YAML_FOLDERS))
        reason = "it has none of them" if folder.is_dir() else "no such folder"
        raise InputError(f"--plugins {folder}: expected one of the folders {known} there; {reason}")
    for kind in FOLDERS:
        known_names = modules(METHODS if kind == "methods" else DATASETS)
        for module in pkgutil.iter_modules([str(folder / kind)]):
            if module.name in known_names:
                raise InputError(f"{folder / kind / module.name}.py: '{module.name}' is known already; rename the file")
    for file in (*(folder / "experiments").glob("*/*.yaml"), *(folder / "suites").glob("*.yaml")):
        name = file.relative_to(folder)
        if any((parent / name).exists() for parent in (Path(__file__).parent, *_added_folders)):
            known = file.stem if file.parent.name == "suites" else f"{file.parent.name}/{file.stem}"
            raise InputError(f"{file}: '{known}' is known already; rename the file")
    for kind, package in FOLDERS.items():
        if kind in kinds:
            import_module(package).__path__.append(str(folder / kind))
    _added_folders.append(folder)


def added_folders() -> list[Path]:
    """Return the plug-in folders that `add_folder` has added."""
    return list(_added_folders)


def unread_in(folder: Path) -> list[str]:
    """List what lies in a plug-in folder and is not read, so that nobody waits for it.

    Args:
        folder: The plug-in folder.

    Returns:
        Names of files and folders, sorted. Hidden ones and texts are left out.
    """
    known = {*FOLDERS, *YAML_FOLDERS, "__pycache__"}
    texts = (".md", ".txt", ".rst")
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name not in known and not entry.name.startswith(".") and entry.suffix.lower() not in texts
    )


def yaml_files(kind: str, packaged_folder: Path, pattern: str) -> dict[str, Path]:
    """Find YAML files of the package and of the added plug-in folders.

    Args:
        kind: One of YAML_FOLDERS.
        packaged_folder: The folder of this kind in the package.
        pattern: Which files, below the folder of their kind.

    Returns:
        Name of a file without its ending -> the file; sorted by name.
    """
    roots = [packaged_folder, *(folder / kind for folder in _added_folders)]
    files = {file.stem: file for root in roots for file in root.glob(pattern)}
    return dict(sorted(files.items()))


def experiment_folders() -> list[Path]:
    """Return the folder `experiments` of each added plug-in folder."""
    return [folder / "experiments" for folder in _added_folders]


def modules(packages: tuple[str, ...]) -> dict[str, str]:
    """Find the modules of some packages and of the matching entry points, without importing them.

    Args:
        packages: METHODS or DATASETS.

    Returns:
        The full module name for each plug-in name, sorted by plug-in name.

    Raises:
        InputError: If an entry point has the name of another plug-in.
    """
    module_names: dict[str, str] = {}
    for package in packages:
        paths = import_module(package).__path__
        module_names.update({module.name: f"{package}.{module.name}" for module in pkgutil.iter_modules(paths)})
    group = "mddbench.methods" if packages == METHODS else "mddbench.datasets"
    for point in _entry_points(group):
        if module_names.setdefault(point.name, point.value) != point.value:
            raise InputError(
                f"entry point {group}: '{point.name}' is both {module_names[point.name]} and {point.value}; rename one"
            )
    return dict(sorted(module_names.items()))


@cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of the installed packages. To look for them takes long, and they stay while a process runs."""
    return tuple(entry_points(group=group))


def module_of(name: str, packages: tuple[str, ...]) -> str:
    """Find the full module name of a plug-in.

    Args:
        name: The plug-in's name.
        packages: METHODS or DATASETS.

    Returns:
        The module name, for `import_module`.

    Raises:
        InputError: If there is no such plug-in. The message suggests the most similar name.
    """
    module_names = modules(packages)
    if name not in module_names:
        kind = "method" if packages == METHODS else "dataset"
        raise InputError(f"unknown {kind} '{name}'{nearest(name, module_names)}; known: {', '.join(module_names)}")
    return module_names[name]


def load_module(name: str, packages: tuple[str, ...]) -> ModuleType:
    """Import the module of a plug-in.

    Args:
        name: The plug-in's name.
        packages: METHODS or DATASETS.

    Returns:
        The imported module.

    Raises:
        InputError: If there is no such plug-in, or if it cannot be imported.
    """
    module_name = module_of(name, packages)
    try:
        return import_module(module_name)
    except InputError:
        raise
    except Exception as fault:  # the file of a plug-in may raise anything
        text = str(fault).splitlines()[0] if str(fault) else "no message"
        hint = _hint(fault, packages) if isinstance(fault, ImportError) else ""
        raise InputError(
            f"'{name}' ({module_name}) cannot be imported: {type(fault).__name__}: {text}{hint}"
        ) from fault


def _hint(fault: ImportError, packages: tuple[str, ...]) -> str:
    """What the author of a plug-in can do if it imports a module or a name of this package that has moved."""
    name = re.search(r"cannot import name '(\w+)'", str(fault))
    if name and name[1] in RENAMED:
        return f"; '{name[1]}' is '{RENAMED[name[1]]}' now"
    api, module = f"mddbench.plugin_api.{'methods' if packages == METHODS else 'datasets'}", fault.name or ""
    own = module.startswith(("mddbench.plugin_api", *FOLDERS.values()))
    if own or module.partition(".")[0] != "mddbench":
        return ""
    return f"; write 'from {api} import ...', which holds what a plug-in needs and stays"


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Suggest a known name in place of an unknown one.

    Args:
        name: The unknown name.
        candidates: The known names.

    Returns:
        " (did you mean 'x'?)" for the most similar candidate, or '' if none is similar.
    """
    matches = get_close_matches(name, list(candidates), n=1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
