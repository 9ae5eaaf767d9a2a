"""The commands `mddbench predict` and `mddbench export-model`, which use the model of a finished cell."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mddbench.cli.ending import reported_interruptions
from mddbench.cli.options import OUT, Device, Json, Out, Plugins, Quiet, TrackingUri, WeightsDir, add_plugins
from mddbench.cli.running import device_of, set_up_process
from mddbench.errors import InputError

if TYPE_CHECKING:
    from mddbench.inference.predict import Prediction
    from mddbench.inference.verdicts import Threshold as Chosen
    from mddbench.progress import Reporter

Threshold = Annotated[
    float | None, typer.Option(help="Images with a higher score are NG, the others OK.", show_default="as stored")
]
FalseAlarms = Annotated[
    int | None,
    typer.Option(
        help="Percent of false alarms whose stored threshold is used: 5 or 1. `run --set calibration=0.2` stores some.",
        show_default="5",
    ),
]
PATIENCE = 0.2
"""Seconds that an image from standard input waits for the next one before it is scored."""
EXAMPLES = "Examples: mddbench predict mini/mddnet photos --to seen · ls new/*.png | mddbench predict mini/rd4ad -"


def predict(
    cell: Annotated[
        str,
        typer.Argument(help="Folder of a finished cell, its experiment as DATASET/METHOD, or a run's id in MLflow."),
    ],
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, patterns, or - for paths from standard input.")
    ],
    to: Annotated[Path | None, typer.Option(help="Folder for the table, the list and the heat maps.")] = None,
    threshold: Threshold = None,
    false_alarms: FalseAlarms = None,
    category: Annotated[
        str | None, typer.Option(help="Category of the images, for models that need to be told.", show_default="none")
    ] = None,
    heat: Annotated[bool, typer.Option(help="Paint heat maps, with --to.")] = True,
    maps: Annotated[
        bool, typer.Option("--maps", help="Write each anomaly map as a NumPy file, too, with --to.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the cell.", show_default="the lowest")] = None,
    out: Out = OUT,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    tracking_uri: TrackingUri = None,
    plugins: Plugins = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score new images with the model of a finished cell.

    The result is a CSV table, or JSON, with a line for each image. An image that cannot be read costs only itself;
    the exit status is then 1. With --to the folder gets the table, the list and a heat map of each image at its own size.
    """  # noqa: DOC501 - the text is the command's help
    add_plugins(plugins)
    progress, target = set_up_process(quiet), device_of(device)
    from mddbench.inference.finished import FinishedModel, find_cell
    from mddbench.inference.predict import predict as score
    from mddbench.inference.sources import STANDARD_INPUT, count_images, find_images, folders_inside
    from mddbench.inference.verdicts import choose_threshold

    if maps and to is None:
        raise InputError("--maps: goes with --to, the folder that gets them")
    if to is not None and (inside := folders_inside(images, to)):
        raise InputError(f"--to {to}: holds {inside[0]}, whose images are read; give another folder")
    folder = find_cell(cell, out, seed, tracking_uri)
    total = count_images(images)
    model = FinishedModel.load(folder, target, weights_dir)
    chosen = choose_threshold(model, threshold, false_alarms, category)
    progress.say(f"threshold: {_words(chosen)}")
    patience = PATIENCE if STANDARD_INPUT in images else None
    predictions = score(model, find_images(images, sys.stdin), category, chosen.value, patience)
    with reported_interruptions(force=True):
        counts = Counter[str]()
        for prediction in _shown(
            _written(predictions, folder, to, heat, maps, as_json, patience is not None), progress, total
        ):
            counts["unreadable" if prediction.fault else prediction.verdict or "scored"] += 1
    _summarise(counts, to, progress)


def _written(
    predictions: Iterable[Prediction], cell: Path, to: Path | None, heat: bool, maps: bool, as_json: bool, at_once: bool
) -> Iterator[Prediction]:
    """Write each prediction to the folder, or to standard output."""
    from mddbench.inference.heat import HeatPainter
    from mddbench.inference.write import MOST_PICTURES, CsvWriter, JsonWriter, PredictionFolder

    if to is not None:
        painter, most_waiting = HeatPainter.of_cell(cell) if heat else None, 0 if at_once else MOST_PICTURES
        yield from PredictionFolder(to, painter, maps, most_waiting).write(predictions)
        return
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    writer = JsonWriter(sys.stdout) if as_json else CsvWriter(sys.stdout)
    try:
        for prediction in predictions:
            writer.add(prediction)
            yield prediction
    finally:
        if isinstance(writer, JsonWriter):
            writer.finish()


def _shown(predictions: Iterable[Prediction], progress: Reporter, total: int | None) -> Iterator[Prediction]:
    """Show the progress, and a line for each image that cannot be read."""
    with progress.task("predicting", total) as task:
        for prediction in predictions:
            if prediction.fault:
                progress.say(prediction.fault)
            task.advance()
            yield prediction


def _summarise(counts: Counter[str], to: Path | None, progress: Reporter) -> None:
    """Print how many images there were of each kind. The exit status is 1 if some could not be read."""
    from mddbench.inference.write import CSV_FILE, JSON_FILE

    parts = ", ".join(f"{counts[kind]} {kind}" for kind in ("scored", "OK", "NG", "unreadable") if counts[kind])
    progress.say(f"{counts.total()} images: {parts}")
    if to is not None:
        print(to / CSV_FILE)
        print(to / JSON_FILE)
    if counts["unreadable"]:
        raise typer.Exit(1)


def _words(threshold: Chosen) -> str:
    return threshold.origin if threshold.value is None else f"{threshold.value:g} ({threshold.origin})"


def export_model(
    cell: Annotated[
        str,
        typer.Argument(help="Folder of a finished cell, its experiment as DATASET/METHOD, or a run's id in MLflow."),
    ],
    file: Annotated[Path, typer.Argument(help="The file: NAME.onnx for ONNX, NAME.pt2 for a program of torch.")],
    threshold: Threshold = None,
    false_alarms: FalseAlarms = None,
    category: Annotated[
        str | None, typer.Option(help="Category of the images, for models that need to be told.", show_default="none")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the cell.", show_default="the lowest")] = None,
    out: Out = OUT,
    weights_dir: WeightsDir = None,
    tracking_uri: TrackingUri = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
) -> None:
    """Export the model of a finished cell as one file that needs no mddbench, with a card beside it.

    The file takes pixels and gives scores and maps. Its scores are compared with the suite's before it is kept.
    """
    add_plugins(plugins)
    progress, cpu = set_up_process(quiet), device_of("cpu")
    from mddbench.inference.export import export_model as write
    from mddbench.inference.finished import FinishedModel, find_cell
    from mddbench.inference.model_card import model_card
    from mddbench.inference.verdicts import choose_threshold

    model = FinishedModel.load(find_cell(cell, out, seed, tracking_uri), cpu, weights_dir)
    chosen = choose_threshold(model, threshold, false_alarms, category)
    progress.say(f"threshold: {_words(chosen)}")
    with progress.task(f"exporting {model.record.label}", 1) as task:
        exported = write(model, file, category, chosen.value)
        task.advance()
    card = file.with_name(f"{file.name}.md")
    card.write_text(model_card(model, exported, category, chosen), encoding="utf-8")
    batch = "any number of images" if exported.batch is None else "one image"
    progress.say(
        f"it takes {batch} at once; scores differ by {exported.difference:.1e} at most on {exported.probes} images"
    )
    print(file)
    print(card)


def log_model(
    cell: Annotated[
        str,
        typer.Argument(help="Folder of a finished cell, its experiment as DATASET/METHOD, or a run's id in MLflow."),
    ],
    seed: Annotated[int | None, typer.Option(help="Seed of the cell.", show_default="the lowest")] = None,
    out: Out = OUT,
    weights_dir: WeightsDir = None,
    tracking_uri: TrackingUri = None,
    plugins: Plugins = None,
) -> None:
    """Log the model of a finished cell to its run in MLflow, with a signature: pixels in, scores and maps out."""
    add_plugins(plugins)
    set_up_process(quiet=True)
    from mddbench.inference.finished import FinishedModel, find_cell
    from mddbench.inference.tracked import log_model as log
    from mddbench.runs.store import existing_store

    store = existing_store(tracking_uri, out)
    model = FinishedModel.load(find_cell(cell, out, seed, tracking_uri), device_of("cpu"), weights_dir)
    print(log(model, store))
