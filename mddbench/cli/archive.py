"""The command `mddbench server-archive`: hidden test images, scored for the server of a dataset's authors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mddbench.cli.options import OUT, DataRoot, Device, Out, Plugins, Quiet, TrackingUri, WeightsDir, add_plugins
from mddbench.cli.running import device_of, set_up_process
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.data.hidden import HiddenSplit


def server_archive(
    cell: Annotated[
        str,
        typer.Argument(help="Folder of a finished cell, its experiment as DATASET/METHOD, or a run's id in MLflow."),
    ],
    to: Annotated[Path, typer.Option(help="Folder of the archive; DIR.tar.gz beside it is the file to upload.")],
    data_root: DataRoot = None,
    rule: Annotated[
        str, typer.Option(help="Rule of the stored thresholds of pixels: sigma (mean + 3 deviations) or quantile.")
    ] = "sigma",
    check: Annotated[bool, typer.Option("--check", help="Check an archive instead of writing one.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the cell.", show_default="the lowest")] = None,
    out: Out = OUT,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    tracking_uri: TrackingUri = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
) -> None:
    """Score the test images whose labels the authors keep, and write the archive that their server takes (MVTec AD 2).

    The archive holds a map and a binary image for each, at its own size. It is checked by the server's published rules
    when it is written; --check does only that. The model needs thresholds, which `--set calibration=validation` sets.
    """  # noqa: DOC501 - the text is the command's help
    add_plugins(plugins)
    progress, target = set_up_process(quiet), device_of(device)
    from mddbench.inference.finished import FinishedModel, find_cell
    from mddbench.inference.server_archive import archive_faults, demand_images, pack, write_archive
    from mddbench.metrics.thresholds import RULES
    from mddbench.runs.records import RECORD, read_record

    if rule not in RULES:
        raise InputError(f"--rule {rule}: expected one of {', '.join(RULES)}")
    folder = find_cell(cell, out, seed, tracking_uri)
    splits = _hidden_splits(read_record(folder / RECORD).dataset, data_root)
    demand_images(splits)
    if not check:
        write_archive(FinishedModel.load(folder, target, weights_dir), splits, rule, to, progress)
    faults = list(archive_faults(to, splits, progress))
    for line in faults:
        print(line, file=sys.stderr)
    if faults:
        raise typer.Exit(1)
    progress.say(f"{to}: as the server takes it")
    if not check:
        print(pack(to, progress))


def _hidden_splits(dataset: str, data_root: Path | None) -> list[HiddenSplit]:
    """Return the hidden splits of a dataset below the folder that the user gave."""
    from mddbench.data.dataset import load_source, root_of

    root = root_of(dataset, data_root)
    hidden = load_source(dataset).hidden
    if hidden is None:
        raise InputError(f"{dataset}: its authors keep no labels of test images, so there is no archive to write")
    if root is None:
        raise InputError(f"{dataset}: give the dataset's folder by --data-root")
    return hidden(root)
