"""What there is: a name, a line about it, and where it comes from, for each kind of thing that `list` shows."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mddbench.errors import InputError

KINDS = ("methods", "datasets", "experiments", "ablations", "suites", "tables")


@dataclass(frozen=True)
class Listed:
    """A thing that `list` shows.

    Attributes:
        name: Its name.
        summary: A line about it; '' if its file has none.
        origin: The file it comes from if it is not of the package, else ''.
    """

    name: str
    summary: str
    origin: str = ""


def names_of(kind: str) -> list[str]:
    """Return the names of one of KINDS, sorted."""
    return [listed.name for listed in listed_of(kind)]


def listed_of(kind: str) -> list[Listed]:
    """Return all things of a kind, sorted by name.

    Args:
        kind: One of KINDS.

    Returns:
        The things. No plug-in is imported, so that one faulty file does not hide the others.
    """
    listings: dict[str, Callable[[], list[Listed]]] = {
        "methods": lambda: _modules(of_methods=True),
        "datasets": lambda: _modules(of_methods=False),
        "experiments": _experiments,
        "ablations": _ablations,
        "suites": _suites,
        "tables": _tables,
    }
    return listings[kind]()


def _modules(of_methods: bool) -> list[Listed]:
    from mddbench.plugins import DATASETS, METHODS, modules

    found = []
    for name, module in modules(METHODS if of_methods else DATASETS).items():
        file = _source(module)
        found.append(Listed(name, _docstring(file) if file else "", _origin(file) if file else module))
    return found


def _experiments() -> list[Listed]:
    from mddbench.experiments.catalogue import experiment_file, experiment_names

    found = []
    for name in experiment_names():
        file, dataset = experiment_file(name), name.partition("/")[0]
        own = f"{file.parent.name}/{file.stem}"
        summary = _comment(file) if file.parent.name == dataset else f"as {own}"
        found.append(Listed(name, summary, _origin(file)))
    return found


def _ablations() -> list[Listed]:
    from mddbench.experiments.ablation import ablation_files

    return [Listed(name, _comment(file), _origin(file)) for name, file in ablation_files().items()]


def _suites() -> list[Listed]:
    from mddbench.experiments.catalogue import load_suite, suite_files

    found = []
    for name, file in suite_files().items():
        try:
            summary = load_suite(name).description
        except InputError:  # `check` says what is wrong with it
            summary = ""
        found.append(Listed(name, summary, _origin(file)))
    return found


def _tables() -> list[Listed]:
    from mddbench.report.rows.reported import paper_tables
    from mddbench.report.tables.spec import table_names

    return [Listed(name, _comment(paper_tables() / f"{name}.yaml")) for name in table_names()]


def _source(module: str) -> Path | None:
    """Find the file of a module without importing it; of a folder, the file of its detector. None if there is none."""
    try:
        spec = find_spec(module)
    except Exception:  # noqa: BLE001 - finding the module of a package imports the package, which may raise anything
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    return file.with_name("detector.py") if file.name == "__init__.py" else file


def _docstring(file: Path) -> str:
    """Return the first line of a module's docstring; '' if it has none or cannot be read."""
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ""
    return text.partition("\n")[0]


def _comment(file: Path) -> str:
    """Return the comment at the start of a YAML file; '' if it has none or cannot be read."""
    try:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, ValueError):
        return ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _origin(file: Path) -> str:
    """Return the path of a file outside the package; '' for a file of the package."""
    from mddbench.settings import packaged

    roots = (packaged("").resolve(), packaged("").resolve().parent / "baselines")
    return "" if any(file.resolve().is_relative_to(root) for root in roots) else str(file)


def wanted_kinds(kind: str, others: tuple[str, ...]) -> tuple[str, ...]:
    """Return the kinds that `list` shows.

    Args:
        kind: What was asked for; '' for all.
        others: Further words that are known.

    Returns:
        Some of KINDS.

    Raises:
        InputError: If the word is unknown.
    """
    from mddbench.plugins import nearest

    if kind and kind not in KINDS:
        known = (*KINDS, *others)
        raise InputError(f"list {kind}: unknown{nearest(kind, known)}; expected one of {', '.join(known)}")
    return (kind,) if kind else KINDS
