"""The command `mddbench shift`: finished models on changed test images."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mddbench.cli.chosen import All, ChosenCells, Development, HeldOut, Names, Overrides, Seeds, SuiteName
from mddbench.cli.ending import reported_interruptions
from mddbench.cli.options import (
    EVALUATION,
    OUT,
    CacheDir,
    DataRoot,
    Device,
    Json,
    Out,
    Plugins,
    Quiet,
    TexturesFolder,
    Tracking,
    TrackingUri,
    WeightsDir,
)
from mddbench.cli.running import device_of, set_up_process, store_uri
from mddbench.errors import InputError, TrackingError

if TYPE_CHECKING:
    from mddbench.engine.shift import Point
    from mddbench.execution.shift import Shifted
    from mddbench.progress import Reporter

EXAMPLES = (
    "Examples: mddbench shift --all · mddbench shift folder/rd4ad --data-root photos --set calibration=0.2 · "
    "mddbench shift mini/padim --changes brightness,jpeg --levels 2"
)


def shift(
    names: Names = None,
    everything: All = False,
    suite: SuiteName = None,
    changes: Annotated[
        str | None,
        typer.Option(
            help="Changes, such as brightness,jpeg.",
            show_default="all",
            rich_help_panel=EVALUATION,
        ),
    ] = None,
    levels: Annotated[str, typer.Option(help="Levels, from 1 (weak) to 3.", rich_help_panel=EVALUATION)] = "1,2,3",
    data_root: DataRoot = None,
    out: Out = OUT,
    seeds: Seeds = None,
    set_: Overrides = None,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    held_out: HeldOut = False,
    development: Development = False,
    textures: TexturesFolder = None,
    plugins: Plugins = None,
    tracking: Tracking = "mlflow",
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate finished cells on changed test images: other light, blur, noise, compression, position.

    The model and its threshold stay. What counts is how many normal images become false alarms, and what the metrics
    lose. Cells are named as for `run`, with the same options. Results are kept in shift.json beside the record, and
    `report` shows them. If it is interrupted, the same command goes on. docs/robustness.md says what the changes are.
    """  # noqa: DOC501 - the text is the command's help
    which: dict[str, Any] = {"names": names, "everything": everything, "suite": suite, "seeds": seeds, "set_": set_}
    where: dict[str, Any] = {
        "data_root": data_root,
        "out": out,
        "weights_dir": weights_dir,
        "cache_dir": cache_dir,
        "plugins": plugins,
    }
    how: dict[str, Any] = {"device": device, "held_out": held_out, "development": development, "textures": textures}
    chosen = ChosenCells(**which, **where, **how, quiet=quiet)
    chosen.add_plugins()
    points, uri = points_of(changes, levels), store_uri(tracking, tracking_uri, out)
    progress = set_up_process(quiet)
    with reported_interruptions(force=False):
        results = _shift(chosen, points, progress)
        unlogged = _log(results, uri, out, progress) if uri is not None else ""
    _conclude(results, points, out, as_json)
    if unlogged:
        print(f"mddbench: {unlogged}; the same command logs the results later", file=sys.stderr)
    if unlogged or any(result.status != "shifted" for result in results):
        raise typer.Exit(1)


def points_of(changes: str | None, levels: str) -> list[Point]:
    """Read the options --changes and --levels.

    Args:
        changes: Names of changes, with commas between them; None for all.
        levels: Numbers of levels, with commas between them.

    Returns:
        Each change with each level.

    Raises:
        InputError: If a change or a level is unknown.
    """
    from mddbench.data.changes import CHANGES, LEVELS

    names = list(CHANGES) if changes is None else list(dict.fromkeys(word.strip() for word in changes.split(",")))
    unknown = [name for name in names if name not in CHANGES]
    if unknown:
        raise InputError(f"--changes {changes}: '{unknown[0]}' is unknown; expected some of {', '.join(CHANGES)}")
    words = list(dict.fromkeys(word.strip() for word in levels.split(",")))
    if any(word not in map(str, LEVELS) for word in words):
        raise InputError(f"--levels {levels}: expected some of {', '.join(map(str, LEVELS))}, as in 1,3")
    return [(name, level) for name in CHANGES if name in names for level in LEVELS if str(level) in words]


def _shift(chosen: ChosenCells, points: list[Point], progress: Reporter) -> list[Shifted]:
    """Find the cells and evaluate those that are finished. InputError if none is."""
    from mddbench.execution.plan import distinct_experiments, open_datasets
    from mddbench.execution.runner import Runner
    from mddbench.execution.shift import shift_cells

    _ = chosen.suite_name  # says what is wrong with the names
    cells = chosen.cells()
    if not (chosen.out / "cells").is_dir():
        raise InputError(
            f"{chosen.out}: no finished cell there; `mddbench run` makes some, or give its folder by --out"
        )
    options = chosen.options(device_of(chosen.device))
    datasets = open_datasets(distinct_experiments(cells), options, progress)
    results = shift_cells(cells, Runner(options, datasets, progress), points, progress)
    if all(result.status == "unfinished" for result in results):
        raise InputError(
            f"{chosen.out}: none of the {len(cells)} named cells is finished there ({cells[0].name} for one); run them "
            "first, with the same --set, --seeds and --data-root"
        )
    return results


def _log(results: list[Shifted], uri: str, out: Path, progress: Reporter) -> str:
    """Add the results to the runs in the tracking store. Return why that failed; '' if it did not."""
    from mddbench.runs.addresses import sqlite_file, store_address
    from mddbench.runs.shift import SHIFT
    from mddbench.runs.store import MlflowStore
    from mddbench.runs.tracking import MlflowTracker

    done = [result for result in results if result.status == "shifted" and result.folder is not None]
    address, artifacts = store_address(uri or None, out)
    file = sqlite_file(address)
    if not done or (file is not None and not file.exists()):
        return ""
    try:
        tracker = MlflowTracker(MlflowStore(address, artifacts), "named", "shift", progress.say)
        for result in done:
            assert result.folder is not None
            if tracker.has(result.identity, result.folder):
                tracker.add(result.identity, [result.folder / SHIFT])
    except (TrackingError, InputError) as fault:
        return str(fault)
    return ""


def _conclude(results: list[Shifted], points: list[Point], out: Path, as_json: bool) -> None:
    """Print a line for each cell, and what became of the others."""
    from mddbench.experiments.ablation import is_ablation

    if as_json:
        print(json.dumps([_as_dict(result, points) for result in results], indent=1))
    else:
        done = [result for result in results if result.shifts is not None]
        if done:
            print(f"means over {len(points)} changes and levels, in percent")
            width = max(len(result.cell.name) for result in done)
            heads = ("clean", "changed", "FPR clean", "FPR changed")
            print(f"  {'':<{width}}{''.join(f'{head:>13}' for head in heads)}")
            for result in done:
                values = _summary(result, points)
                print(f"  {result.cell.name:<{width}}{''.join(f'{_percent(value):>13}' for value in values.values())}")
        if any(not is_ablation(result.cell.experiment.name) for result in done):
            print(f"`mddbench report --out {out}` shows each change", file=sys.stderr)
    for result in results:
        if result.status == "unfinished":
            print(f"mddbench: {result.cell.name} is not finished in {out}; run it first", file=sys.stderr)
        elif result.status == "failed":
            print(f"mddbench: {result.cell.name} failed: {result.message}", file=sys.stderr)


def _summary(result: Shifted, points: list[Point]) -> dict[str, float]:
    """The metric that stands for quality and the rate of false alarms, on clean and on changed images."""
    from mddbench.metrics.names import MAD

    assert result.shifts is not None
    shifts, values = result.shifts, {}
    key = "i_auroc" if math.isnan(shifts.value(None, MAD.key)) else MAD.key
    for name, metric in ((key, key), ("fpr", "fpr_05_one")):
        values[f"{name}_clean"] = shifts.value(None, metric)
        values[f"{name}_changed"] = sum(shifts.value(point, metric) for point in points) / len(points)
    return values


def _as_dict(result: Shifted, points: list[Point]) -> dict[str, Any]:
    cell = result.cell
    names = {"cell": cell.name, "experiment": cell.experiment.name, "seed": cell.seed, "status": result.status}
    if result.shifts is None:
        return {**names, "message": result.message}
    means = {key: None if math.isnan(value) else value for key, value in _summary(result, points).items()}
    return {**names, "means": means, "results": result.shifts.model_dump()}


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"
