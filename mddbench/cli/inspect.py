"""The commands `mddbench list`, `mddbench show` and `mddbench check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mddbench.cli.listing import Listed, listed_of, names_of, wanted_kinds
from mddbench.cli.options import Json, Plugins, add_plugins
from mddbench.errors import InputError

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
    kinds = wanted_kinds(kind, (SETTINGS,))
    if as_json:
        names = {listed: names_of(listed) for listed in kinds}
        print(json.dumps(names if not kind else names[kind], indent=1))
        return
    for heading in kinds:
        _print_listed(listed_of(heading), "" if kind else f"{heading}:")


def _print_listed(things: list[Listed], heading: str) -> None:
    """Print a line for each thing: its name, what it is, and where it comes from unless that is the package."""
    if heading:
        print(heading)
    indent = "  " if heading else ""
    width = max((len(thing.name) for thing in things), default=0)
    for thing in things:
        origin = f" ({thing.origin})" if thing.origin else ""
        print(f"{indent}{thing.name:<{width}}  {thing.summary}{origin}".rstrip())


def show(
    name: Annotated[str, typer.Argument(help="An experiment as DATASET/METHOD, an ablation, a suite, or a YAML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as optimizer.lr=0.001; may be repeated.")
    ] = None,
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """Show what a name stands for, with all settings and defaults: an experiment, the variants of an ablation, a suite."""
    add_plugins(plugins)
    from mddbench.experiments.schema import parse_override
    from mddbench.settings import dump_yaml

    content = resolved(name, dict(map(parse_override, set_ or [])))
    print(json.dumps(content, indent=1) if as_json else dump_yaml(content), end="\n" if as_json else "")


def resolved(name: str, overrides: dict[str, object]) -> dict[str, object]:
    """Resolve a name as `run` does.

    Args:
        name: An experiment, an ablation, a suite, or a YAML file.
        overrides: Dotted setting -> value.

    Returns:
        JSON values: all settings of an experiment; base and variants of an ablation; the members of a suite.

    Raises:
        InputError: If the name is unknown, a setting is not allowed, or settings are given for a suite.
    """
    from mddbench.detector import load_method, method_settings
    from mddbench.execution.protocol import resolved_settings
    from mddbench.experiments.ablation import expand, is_ablation, load_ablation
    from mddbench.experiments.catalogue import load_experiment, load_suite, suite_names
    from mddbench.experiments.schema import Experiment

    def settings_of(experiment: Experiment) -> dict[str, object]:
        own = method_settings(load_method(experiment.method), experiment.settings, experiment.name)
        return {"seeds": list(experiment.seeds), "setting": experiment.setting, **resolved_settings(experiment, own)}

    if name in suite_names():
        if overrides:
            raise InputError(f"show {name}: --set changes an experiment or an ablation, and '{name}' is a suite")
        return load_suite(name).model_dump(mode="json")
    if is_ablation(name):
        ablation = load_ablation(name)
        base, _ = expand(ablation, overrides)
        return {"title": ablation.title, "variants": ablation.variants, "base": settings_of(base)}
    return settings_of(load_experiment(name, overrides))


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


def check(
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Check what this method does instead, or that of an experiment of mini; may be repeated."),
    ] = None,
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """Check names, keys and types in all experiments, ablations, suites and table specs, without data and GPU.

    --methods NAME checks a method as the suite's own tests do: losses, maps, flat images, interruptions, seeds. It takes
    seconds to a minute.
    """  # noqa: DOC501 - the text is the command's help
    add_plugins(plugins)
    if methods:
        _check_methods(methods, as_json)
        return
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


def _check_methods(names: list[str], as_json: bool) -> None:
    """Print what each method must do, and what is wrong. The exit status is 1 if anything is."""
    from mddbench.cli.running import set_up_process
    from mddbench.engine.conformance import CHECKS, faults_of
    from mddbench.engine.subject import Subject

    progress = set_up_process(quiet=as_json)
    found: dict[str, dict[str, str | None]] = {}
    subjects = {name: Subject.of(name) for name in names}
    for name, subject in subjects.items():
        results = dict[str, str | None]()
        with progress.task(f"checking {name}", len(CHECKS)) as task:
            for what, fault in faults_of(subject):
                results[what] = fault
                task.advance()
                if not as_json:
                    print(f"{name}: {what}: {'yes' if fault is None else f'no: {fault}'}")
        found[name] = results
    faults = sum(fault is not None for results in found.values() for fault in results.values())
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        checked = "1 method" if len(subjects) == 1 else f"{len(subjects)} methods"
        print(f"{checked} checked, {faults} at fault", file=sys.stderr)
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
    from mddbench.plugins import DATASETS, METHODS, modules
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
    jobs += [(f"method '{name}'", partial(load_method, name)) for name in modules(METHODS)]
    jobs += [(f"dataset '{name}'", partial(load_source, name)) for name in modules(DATASETS)]
    jobs += [("paper_tables/reported.csv", load_reported)]
    jobs += [(f"suites/{name}.yaml", partial(suite, name)) for name in suite_names()]
    return jobs + [(f"paper_tables/{name}.yaml", partial(load_table, name)) for name in table_names()]


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
