"""`mddbench list` and `mddbench check`: what there is, and whether it fits together."""

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


def list_names(
    what: Annotated[
        str, typer.Argument(help="methods, datasets, experiments, ablations, suites or tables; all if not given.")
    ] = "",
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """List methods, datasets, experiments, ablations, suites and tables."""
    add_plugins(plugins)
    if what and what not in KINDS:
        raise InputError(f"list {what}: unknown{nearest(what, KINDS)}; expected one of {', '.join(KINDS)}")
    found = {kind: _names(kind) for kind in ([what] if what else KINDS)}
    if as_json:
        print(json.dumps(found if not what else found[what], indent=1))
        return
    for kind, names in found.items():
        if not what:
            print(f"{kind}:")
        for name in names:
            print(name if what else f"  {name}")


def check(as_json: Json = False, plugins: Plugins = None) -> None:
    """Check every experiment, ablation, suite and table spec: names, keys, types. Needs no data and no GPU."""
    add_plugins(plugins)
    faults: list[str] = []
    jobs = _checks()
    for where, job in jobs:
        try:
            job()
        except InputError as error:
            faults.append(str(error) if str(error).startswith(where) else f"{where}: {error}")
    if as_json:
        print(json.dumps({"checked": len(jobs), "faults": faults}, indent=1))
    else:
        for fault in faults:
            print(fault)
        print(f"{len(jobs)} files checked, {len(faults)} at fault", file=sys.stderr)
    if faults:
        raise typer.Exit(1)


def _checks() -> list[tuple[str, Callable[[], object]]]:
    """Each file and what raises InputError if it is at fault."""
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

    def sound(loaded: Experiment, where: str) -> None:
        method_settings(load_method(loaded.method), loaded.settings, where)
        load_source(loaded.dataset)
        if (told := loaded.reported) is not None:
            find(loaded.dataset, told.method, told.source, told.epochs, loaded.setting)

    def experiment(name: str) -> None:
        sound(load_experiment(name), f"experiments/{name}.yaml")

    def ablation(name: str) -> None:
        for variant in expand(load_ablation(name), {})[1]:
            sound(variant, f"experiments/{name}.yaml")

    def suite(name: str) -> None:
        for each in load_suite(name).experiments:
            load_ablation(each) if is_ablation(each) else load_experiment(each)

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
    named = {"experiments": experiment_names, "ablations": ablation_names, "suites": suite_names, "tables": table_names}
    return named[kind]()
