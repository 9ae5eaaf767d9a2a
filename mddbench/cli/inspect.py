"""The commands `mddbench list` and `mddbench check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mddbench.cli.options import Json, Plugins, add_plugins
from mddbench.errors import InputError
from mddbench.plugins import nearest

KINDS = ("methods", "datasets", "experiments", "ablations", "suites", "tables")
SETTINGS = "settings"


def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, datasets, experiments, ablations, suites or tables (all if not given); or settings."
        ),
    ] = "",
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """List methods, datasets, experiments, ablations, suites and tables; or all settings, with defaults and meanings."""
    add_plugins(plugins)
    if kind == SETTINGS:
        _print_settings(as_json)
        return
    kinds = (*KINDS, SETTINGS)
    if kind and kind not in kinds:
        raise InputError(f"list {kind}: unknown{nearest(kind, kinds)}; expected one of {', '.join(kinds)}")
    names = {listed: _names(listed) for listed in ([kind] if kind else KINDS)}
    if as_json:
        print(json.dumps(names if not kind else names[kind], indent=1))
        return
    for heading, members in names.items():
        if not kind:
            print(f"{heading}:")
        for name in members:
            print(name if kind else f"  {name}")


def _print_settings(as_json: bool) -> None:
    """The settings of all experiments, then those of each method."""
    tables = all_settings()
    if as_json:
        rows = {
            owner: [{"name": name, "default": default, "description": text} for name, default, text in settings]
            for owner, settings in tables.items()
        }
        print(json.dumps(rows, indent=1))
        return
    for owner, settings in tables.items():
        print(f"{owner}:")
        for name, default, text in settings:
            print(f"  {name}{f' = {default}' if default else ''}\n      {text}")


def check(as_json: Json = False, plugins: Plugins = None) -> None:
    """Check names, keys and types in all experiments, ablations, suites and table specs, without data and GPU."""
    add_plugins(plugins)
    faults: list[str] = []
    jobs = _checks()
    for file, job in jobs:
        try:
            job()
        except InputError as fault:
            faults.append(str(fault) if str(fault).startswith(file) else f"{file}: {fault}")
    if as_json:
        print(json.dumps({"checked": len(jobs), "faults": faults}, indent=1))
    else:
        for line in faults:
            print(line)
        print(f"{len(jobs)} files checked, {len(faults)} at fault", file=sys.stderr)
    if faults:
        raise typer.Exit(1)


def _checks() -> list[tuple[str, Callable[[], object]]]:
    """Each file, and a function that raises InputError if it is faulty."""
    from mddbench.data.dataset import load_source
    from mddbench.detector import load_method, method_settings
    from mddbench.experiments.ablation import ablation_names, expand, is_ablation, load_ablation
    from mddbench.experiments.catalogue import (
        experiment_names,
        load_experiment,
        load_protocol,
        load_suite,
        protocol_files,
        suite_names,
    )
    from mddbench.experiments.schema import Experiment
    from mddbench.plugins import METHODS, modules
    from mddbench.report.rows.reported import find, load_reported
    from mddbench.report.tables.spec import load_table, table_names
    from mddbench.settings import shown_path, validated

    def check_experiment(loaded: Experiment, file: str) -> None:
        method_settings(load_method(loaded.method), loaded.settings, file)
        load_source(loaded.dataset)
        if (reported := loaded.reported) is not None:
            find(loaded.dataset, reported.method, reported.source, reported.epochs, loaded.setting)

    def experiment(name: str) -> None:
        check_experiment(load_experiment(name), f"experiments/{name}.yaml")

    def ablation(name: str) -> None:
        for variant in expand(load_ablation(name), {})[1]:
            check_experiment(variant, f"experiments/{name}.yaml")

    def suite(name: str) -> None:
        for member in load_suite(name).experiments:
            load_ablation(member) if is_ablation(member) else load_experiment(member)

    def protocol(dataset: str, file: Path) -> None:
        content = {
            "method": next(iter(modules(METHODS))),
            "dataset": dataset,
            "name": dataset,
            **load_protocol(dataset),
        }
        validated(Experiment, content, shown_path(file))

    jobs: list[tuple[str, Callable[[], object]]] = []
    jobs += [(shown_path(file), partial(protocol, dataset, file)) for dataset, file in protocol_files().items()]
    jobs += [(f"experiments/{name}.yaml", partial(experiment, name)) for name in experiment_names()]
    jobs += [(f"experiments/{name}.yaml", partial(ablation, name)) for name in ablation_names()]
    jobs += [("paper_tables/reported.csv", load_reported)]
    jobs += [(f"suites/{name}.yaml", partial(suite, name)) for name in suite_names()]
    return jobs + [(f"paper_tables/{name}.yaml", partial(load_table, name)) for name in table_names()]


def _names(kind: str) -> list[str]:
    from mddbench.experiments.ablation import ablation_names
    from mddbench.experiments.catalogue import experiment_names, suite_names
    from mddbench.plugins import DATASETS, METHODS, modules
    from mddbench.report.tables.spec import table_names

    if kind in ("methods", "datasets"):
        return list(modules(METHODS if kind == "methods" else DATASETS))
    listing = {
        "experiments": experiment_names,
        "ablations": ablation_names,
        "suites": suite_names,
        "tables": table_names,
    }
    return listing[kind]()


def all_settings() -> dict[str, list[tuple[str, str, str]]]:
    """List all settings.

    Returns:
        'every experiment' and each method -> name, default and description of each setting, as `described` gives them.
    """
    from mddbench.detector import load_method
    from mddbench.experiments.schema import Experiment
    from mddbench.plugins import METHODS, modules
    from mddbench.settings import described

    tables = {"every experiment": list(described(Experiment))}
    for name in modules(METHODS):
        tables[name] = list(described(load_method(name).Settings, "settings."))
    return tables
