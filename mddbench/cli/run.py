"""The command `mddbench run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mddbench.cli.ending import reported_interruptions
from mddbench.cli.options import (
    OUT,
    CacheDir,
    DataRoot,
    Device,
    FeatureCache,
    Json,
    Out,
    Plugins,
    Quiet,
    TexturesFolder,
    Tracking,
    TrackingUri,
    WeightsDir,
    add_plugins,
    cache_below,
    parse_seeds,
)
from mddbench.cli.planned import show_plan
from mddbench.cli.running import Logging, device_of, run_cells, set_up_process, store_uri
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.execution.cells import Cell
    from mddbench.execution.plan import RunOptions
    from mddbench.execution.runner import Outcome
    from mddbench.progress import Reporter

EXAMPLES = "Examples: mddbench run --all · mddbench run folder/rd4ad --data-root photos --seeds 0,1,2"
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Experiments as DATASET/METHOD, ablations, or YAML files.", show_default=False),
]
Bootstrap = Annotated[
    int, typer.Option(min=0, max=100_000, help="Number of bootstrap samples for confidence intervals, such as 1000.")
]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out", help="Evaluate on held-out normal training images with drawn defects, to choose settings."
    ),
]
Development = Annotated[
    bool,
    typer.Option("--development", help="Settings are chosen on these test images, so tables say 'development data'."),
]
WithReport = Annotated[bool, typer.Option(help="Render the report of all runs in the store at the end.")]
TestCurve = Annotated[
    int,
    typer.Option(min=0, help="Evaluate on the test split every N epochs, for the selection gap. A diagnostic only."),
]
KeepMaps = Annotated[
    bool,
    typer.Option("--keep-maps", help="Keep all anomaly maps in half precision for `rescore`, also of finished cells."),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the training steps if a training is long enough to gain from it.")
]
JobCount = Annotated[
    int, typer.Option(min=1, help="Number of cells at once, which share the processors. Their records hold no times.")
]
FromCheckpoint = Annotated[
    Path | None,
    typer.Option(help="File of weights that the method's authors trained (RD4AD, UniAD). Nothing is trained."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting, such as optimizer.lr=0.001; may be repeated.")
]


def run(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Run all experiments of the suite.")] = False,
    suite: Annotated[str | None, typer.Option(help="Which suite --all runs.", show_default="quick")] = None,
    data_root: DataRoot = None,
    out: Out = OUT,
    seeds: Annotated[str | None, typer.Option(help="Seeds in place of the experiments' own, such as 0,1,2.")] = None,
    set_: Overrides = None,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    tracking: Tracking = "mlflow",
    tracking_uri: TrackingUri = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its estimated cost.")] = False,
    bootstrap: Bootstrap = 0,
    held_out: HeldOut = False,
    development: Development = False,
    textures: TexturesFolder = None,
    test_curve: TestCurve = 0,
    keep_maps: KeepMaps = False,
    feature_cache: FeatureCache = 2.0,
    plugins: Plugins = None,
    jobs: JobCount = 1,
    compile_: Compile = False,
    from_checkpoint: FromCheckpoint = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    report: WithReport = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate, log to MLflow and render the report.

    Finished cells are skipped, and interrupted ones are resumed. A failed cell does not stop the others.
    """
    add_plugins(plugins)
    logging = Logging(store_uri(tracking, tracking_uri, out), _chosen_suite(names, everything, suite))
    from mddbench.execution.plan import RunOptions  # so that --help is fast

    cells, progress = _cells(names, logging.suite, seeds, set_), set_up_process(quiet)
    options = RunOptions(
        out=out,
        cache=cache_below(cache_dir, out),
        device=device_of(device),
        data_root=data_root,
        weights_dir=weights_dir,
        force=force,
        resamples=bootstrap,
        held_out=held_out,
        development=development,
        textures=textures,
        test_curve=test_curve,
        keep_maps=keep_maps,
        feature_room=feature_cache,
        compiling=compile_,
        from_checkpoint=from_checkpoint,
    )
    if dry_run:
        show_plan(cells, options, progress, as_json)
        return
    _run(names, cells, options, jobs, logging, progress, report, as_json)


def _run(
    names: list[str] | None,
    cells: list[Cell],
    options: RunOptions,
    jobs: int,
    logging: Logging,
    progress: Reporter,
    report: bool,
    as_json: bool,
) -> None:
    """Run all cells, keep the user's own ablations, and conclude. A report that could not be written is an error at once."""
    keep = partial(_keep_ablations, names, options.out)
    with reported_interruptions(options.force):
        if report:
            _check_report_folder(options.out / "report")
        outcomes, _ = run_cells(cells, options, jobs, logging, progress, keep)
        _conclude(outcomes, partial(_render, outcomes, options, logging.uri, progress) if report else list, as_json)


def _check_report_folder(folder: Path) -> None:
    """Raise InputError before hours of training if the report cannot be written at their end."""
    from mddbench.report.manifest import Manifest

    if folder.is_dir():
        Manifest(folder).refuse_others()


def _cells(names: list[str] | None, suite: str, seeds: str | None, overrides: list[str] | None) -> list[Cell]:
    from mddbench.execution.plan import plan
    from mddbench.experiments.schema import parse_override

    return plan(names or [], suite, parse_seeds(seeds), dict(map(parse_override, overrides or [])))


def _keep_ablations(names: list[str] | None, out: Path) -> None:
    """Copy a user's own ablation files beside their cells, so that the report finds them."""
    from mddbench.experiments.ablation import is_ablation, is_path, keep_ablations

    keep_ablations([name for name in names or [] if is_path(name) and is_ablation(name)], out)


def _conclude(outcomes: list[Outcome], render: Callable[[], list[str]], as_json: bool) -> None:
    """Render the report, print its tables or the outcome of each cell, and name the failed cells (exit status 1)."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    tables: list[str] = []
    try:
        tables = render()
    finally:  # outcomes are printed even if the report fails
        if as_json:
            print(json.dumps([_as_dict(outcome) for outcome in outcomes], indent=1))
        elif tables:
            print("\n".join(tables))
        for outcome in failed:
            print(f"mddbench: {outcome.cell.name} failed: {outcome.message}", file=sys.stderr)
        if failed:
            print(f"mddbench: {len(failed)} of {len(outcomes)} cells failed", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _chosen_suite(names: list[str] | None, everything: bool, suite: str | None) -> str:
    """The suite to run, or 'named' for experiments that the user named."""
    if everything == bool(names):
        raise InputError("run: name experiments (as in mini/rd4ad) or give --all, and not both; see `mddbench list`")
    if names and suite:
        raise InputError(f"run: --suite {suite} goes with --all; name experiments, or run a suite")
    return (suite or "quick") if everything else "named"


def _render(outcomes: list[Outcome], options: RunOptions, uri: str | None, progress: Reporter) -> list[str]:
    """Write the report of all runs in the store, and return its main tables; write nothing if all cells failed."""
    from mddbench.cli.entries import entries_from_folders, entries_from_store
    from mddbench.experiments.ablation import all_ablations
    from mddbench.report.build import PAGE, build_report
    from mddbench.report.write import write_report
    from mddbench.runs.addresses import store_address

    if all(outcome.status == "failed" for outcome in outcomes):
        return []
    folder = options.out / "report"
    if uri is None:
        entries = entries_from_folders([options.out], folder, progress.say)
    else:
        entries = entries_from_store(uri or None, options.out, folder, progress.say)
    report = build_report(entries, all_ablations(options.out, (), progress.say))
    for line in report.refused:
        progress.say(line)
    write_report(report, folder, progress)
    main = [file for file in report.texts if file.name == "main.md" or file.match("ablation-*.md")]
    progress.say("\n".join(f"Table      {folder / file}" for file in main))
    progress.say(f"Pictures   below {folder}, each as PNG and PDF")
    progress.say(f"Page       {folder / PAGE}: all tables, plots and heat maps in one file")
    if uri is not None:
        address, _ = store_address(uri or None, options.out)
        progress.say(f"MLflow     {address}")
        if not address.startswith("http"):  # the address of a server is that of its page
            installed = Path(sys.argv[0]).with_name("mlflow")
            command = installed if installed.exists() and installed.parent != Path() else "mlflow"
            progress.say(f"           open its page with: {command} ui --backend-store-uri {shlex.quote(address)}")
    progress.say(f"Everything {options.out}")
    return list(report.main.values())


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    from mddbench.runs.records import RECORD

    record = outcome.folder / RECORD if outcome.folder else None
    return {
        "cell": outcome.cell.name,
        "experiment": outcome.cell.experiment.name,
        "seed": outcome.cell.seed,
        "status": outcome.status,
        "message": outcome.message,
        "record": str(record) if record and record.exists() else None,
    }
