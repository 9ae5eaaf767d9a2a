"""The command `mddbench tune`: the same search for the settings of each method, judged on development data."""

from __future__ import annotations

import json
import sys
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mddbench.cli.ending import reported_interruptions
from mddbench.cli.logfile import logged
from mddbench.cli.options import (
    CacheDir,
    DataRoot,
    Device,
    FeatureCache,
    Json,
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
from mddbench.cli.running import Logging, device_of, report_unlogged, run_cells, set_up_process, store_uri
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.execution.options import RunOptions
    from mddbench.execution.tune import Search
    from mddbench.progress import Reporter
    from mddbench.runs.search import SearchResult

OUT = Path("mddbench-tuning")
EXAMPLES = (
    "Examples: mddbench tune development --data-root photos · mddbench tune folder/rd4ad --data-root photos --trials 6"
)


def tune(
    names: Annotated[
        list[str], typer.Argument(help="A suite, or experiments as DATASET/METHOD or YAML files.", show_default=False)
    ],
    data_root: DataRoot = None,
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Number of points for each method.")] = 12,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Judge on held-out normal training images with drawn defects."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for trials and results.")] = OUT,
    seeds: Annotated[str | None, typer.Option(help="Seeds of each trial, such as 0,1,2.", show_default="0")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of all trials, such as epochs=10.")
    ] = None,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    tracking: Tracking = "mlflow",
    tracking_uri: TrackingUri = None,
    feature_cache: FeatureCache = 2.0,
    textures: TexturesFolder = None,
    plugins: Plugins = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of trials at once, which share the processors.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Run finished trials again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be tried.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try the same number of settings for each method, and say which were best.

    Trials are judged on the test images of a development dataset. Numbers on it must not be shown as test results.
    The search space is experiments/search/EXPERIMENT.yaml, or METHOD.yaml. The first trial is the experiment as it is.
    Finished trials and those in OUT/EXPERIMENT.json are skipped. Results: these files, tuning.md, tuning.png.
    """
    add_plugins(plugins)
    uri = store_uri(tracking, tracking_uri, out)
    from mddbench.execution.options import RunOptions

    searches = _searches(names, trials, seeds, set_ or [])
    _demand_development_data(searches, held_out)
    if dry_run:
        _show_plan(searches, as_json)
        return
    progress = logged(set_up_process(quiet), out)
    options = RunOptions(
        out=out,
        cache=cache_below(cache_dir, out),
        device=device_of(device),
        data_root=data_root,
        weights_dir=weights_dir,
        held_out=held_out,
        development=not held_out,
        force=force,
        textures=textures,
        feature_room=feature_cache,
    )
    with reported_interruptions(force):
        results, unlogged = _run(searches, options, jobs, Logging(uri, "tune", are_trials=True), progress)
        _end(_conclude(searches, results, out, progress, as_json), unlogged, out)


def _searches(names: list[str], trials: int, seeds: str | None, overrides: list[str]) -> list[Search]:
    """Plan the searches of a suite or of named experiments."""
    from mddbench.execution.tune import plan_searches
    from mddbench.experiments.catalogue import suite_names
    from mddbench.experiments.schema import parse_override

    suite = names[0] if len(names) == 1 and names[0] in suite_names() else ""
    changes = dict(map(parse_override, overrides))
    return plan_searches([] if suite else names, suite, trials, parse_seeds(seeds) or (0,), changes)


def _run(
    searches: list[Search], options: RunOptions, jobs: int, logging: Logging, progress: Reporter
) -> tuple[list[SearchResult | None], list[str]]:
    """Run all trials.

    Returns:
        The result of each search, None where the recipe itself failed, and a line for each trial that was not logged.
    """
    from mddbench.execution.plan import open_datasets
    from mddbench.execution.tune import after_earlier, result_of
    from mddbench.runs.search import read_search

    datasets = open_datasets([search.experiment for search in searches], options, progress)
    files = [options.out / search.file_name for search in searches]
    if not options.force:
        searches = [
            after_earlier(search, read_search(file), options, datasets) if file.exists() else search
            for search, file in zip(searches, files, strict=True)
        ]
    cells = [search.cells_to_run() for search in searches]
    outcomes, unlogged = run_cells(list(chain(*cells)), options, jobs, logging, progress) if any(cells) else ([], [])
    ends = list(accumulate(map(len, cells)))
    parts = [outcomes[end - len(own) : end] for own, end in zip(cells, ends, strict=True)]
    pairs = zip(searches, parts, strict=True)
    return [result_of(search, part, datasets, options.held_out) for search, part in pairs], unlogged


def _demand_development_data(searches: list[Search], held_out: bool) -> None:
    """Raise InputError if settings would be chosen on the test images of a benchmark."""
    for search in searches:
        if not held_out and search.experiment.dataset != "folder":
            raise InputError(
                f"tune: {search.experiment.name} would choose settings on the test images of a benchmark; give a "
                f"development dataset (folder/{search.experiment.method} --data-root FOLDER), or --held-out"
            )


def _show_plan(searches: list[Search], as_json: bool) -> None:
    if as_json:
        plans = {search.experiment.name: list(search.points) for search in searches}
        print(json.dumps(plans, indent=1))
        return
    for search in searches:
        print(f"{search.experiment.name}: {len(search.points)} points, {len(search.cells_to_run())} cells")
        for point in search.points:
            print("  " + ", ".join(f"{name} {json.dumps(value)}" for name, value in point.items()))


def _conclude(
    searches: list[Search], results: list[SearchResult | None], out: Path, progress: Reporter, as_json: bool
) -> list[str]:
    """Write and print the results, and return a line for each trial that failed."""
    from mddbench.experiments.search import short_name
    from mddbench.report.figures.tuning import draw_searches
    from mddbench.report.tables.markdown import markdown
    from mddbench.report.tables.tuning import search_table
    from mddbench.runs.search import read_search

    complete = [result for result in results if result is not None]
    for result in complete:
        _keep(result, out / f"{short_name(result.experiment)}.json")
    if complete:
        kept = [read_search(file) for file in sorted(out.glob("*.json"))]
        text = markdown(search_table(kept))
        (out / "tuning.md").write_text(text, encoding="utf-8")
        draw_searches(kept, out / "tuning.png")
        progress.say(f"Results    {out}: a JSON file for each method, tuning.md, tuning.png")
        print(json.dumps([result.model_dump(mode="json") for result in complete], indent=1) if as_json else text)
    failures = [f"{result.experiment} at {point}: {why}" for result in complete for point, why in result.failed.items()]
    failures += [
        f"{search.experiment.name}: the recipe itself failed, so there is no result"
        for search, result in zip(searches, results, strict=True)
        if result is None
    ]
    return failures


def _end(failures: list[str], unlogged: list[str], out: Path) -> None:
    """Name the trials that failed and those that are not logged. The exit status is 1 if there are any."""
    for line in failures:
        print(f"mddbench: {line}", file=sys.stderr)
    report_unlogged(unlogged, out, again="")
    if failures or unlogged:
        raise typer.Exit(1)


def _keep(result: SearchResult, file: Path) -> None:
    """Write a result, unless the file holds one of more trials or on other images, which is an InputError."""
    from mddbench.runs.search import read_search, write_search

    if file.exists():
        earlier = read_search(file)
        if earlier.judged_on.fingerprint != result.judged_on.fingerprint:
            raise InputError(f"{file}: holds a search on other images ({earlier.judged_on}); give another --out")
        if len(earlier.trials) > len(result.trials) and earlier.seeds == result.seeds:
            raise InputError(f"{file}: holds a search of {len(earlier.trials)} trials; give as many by --trials")
    write_search(result, file)
