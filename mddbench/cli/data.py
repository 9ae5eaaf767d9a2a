"""The commands `mddbench data ...`: they check, show and fabricate datasets."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mddbench.cli.options import OUT, CacheDir, DataRoot, Json, Out, Plugins, Quiet, add_plugins, cache_below
from mddbench.errors import InputError
from mddbench.sizes import ImageSize, demand_size

if TYPE_CHECKING:
    from mddbench.data.samples import KnownCounts, Tree

app = typer.Typer(help="Look at datasets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name from `mddbench list datasets`.")]
Size = Annotated[
    str, typer.Option(help="Side in pixels, or height and width as in 192x320, for a dataset with several image sizes.")
]
PICTURES = (".png", ".pdf", ".svg", ".jpg")
COLUMNS = ("train", "test_good", "test_defective")


@app.command("check")
def check(
    dataset: Name,
    data_root: DataRoot = None,
    image_size: Size = "256",
    manifest: Annotated[
        Path | None, typer.Option(help="Write path, size and SHA-256 of every file to this file.")
    ] = None,
    out: Out = OUT,
    cache_dir: CacheDir = None,
    plugins: Plugins = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read a dataset with all its images, as a run does, and list its categories and all faults.

    Numbers that differ from the published ones are shown as found/expected. Faults stop a run, and warnings do not. The
    exit status is 2 if there is a fault.
    """  # noqa: DOC501 - the text is the command's help
    add_plugins(plugins)
    from mddbench.data.cache import decode_faults
    from mddbench.data.counts import expected_counts, fabricated_mark
    from mddbench.data.dataset import copies, dataset_manifest, load_source, read_dataset, root_of
    from mddbench.data.files import readable
    from mddbench.progress import reporter

    size, source, root = _size(image_size), load_source(dataset), root_of(dataset, data_root)
    cache, progress = cache_below(cache_dir, out), reporter(quiet)
    tree = read_dataset(dataset, root, cache, size)
    faults, warnings = list(tree.faults), list(tree.warnings)
    for line, stops in decode_faults(readable(tree), size, source.mask_rule, progress):
        (faults if stops else warnings).append(line)
    files = None if faults else dataset_manifest(tree, cache, progress)
    if files is not None:
        warnings += copies(tree, files)
        if manifest is not None:
            manifest.write_text(files.text(), encoding="utf-8")
    fabricated = root is not None and fabricated_mark(root) is not None
    published = expected_counts(source, root)
    rows = _rows(tree, published.categories if published else {})
    conditions = _conditions(tree)
    if as_json:
        content = {"dataset": dataset, "root": str(tree.root), "fabricated": fabricated, "categories": rows}
        content |= {"conditions": conditions} if conditions else {}
        digest = {"fingerprint": files.fingerprint, "files": len(files.entries)} if files else {"fingerprint": None}
        print(json.dumps({**content, **digest, "warnings": warnings, "faults": faults}, indent=1))
    else:
        _print(rows)
        if conditions:
            print(f"test images by condition: {', '.join(f'{name} {count}' for name, count in conditions.items())}")
        if files is not None:
            print(f"{len(files.entries)} files, fingerprint {files.fingerprint}")
        if source.terms:
            print(source.terms)
        _report(dataset, faults, warnings)
        if faults and source.layout:
            print(f"{dataset} is expected as\n{source.layout.rstrip()}", file=sys.stderr)
    if faults:
        raise typer.Exit(2)


@app.command("show")
def show(
    dataset: Name,
    data_root: DataRoot = None,
    file: Annotated[Path | None, typer.Option(help="The picture.", show_default="<out>/<dataset>.png")] = None,
    image_size: Size = "256",
    out: Out = OUT,
    cache_dir: CacheDir = None,
    plugins: Plugins = None,
) -> None:
    """Draw normal images and defects of each category, with the outlines of their masks, into one picture.

    Of a faulty dataset, the images that can be read are shown.
    """  # noqa: DOC501 - the text is the command's help
    add_plugins(plugins)
    from dataclasses import replace

    from mddbench.data.dataset import load_source, read_dataset, root_of
    from mddbench.data.files import readable
    from mddbench.report.figures.contact import draw_contact_sheet

    picture = file or out / f"{dataset}.png"
    if picture.suffix.lower() not in PICTURES:
        raise InputError(f"--file {picture}: expected a picture's name, ending in {', '.join(PICTURES)}")
    tree = read_dataset(dataset, root_of(dataset, data_root), cache_below(cache_dir, out), _size(image_size))
    _report(dataset, list(tree.faults), list(tree.warnings))
    tree = replace(tree, samples=readable(tree))
    if not tree.samples:
        raise InputError(f"{dataset}: there is nothing to show of it")
    title = f"{dataset}: {len(tree.categories)} categories, {len(tree.samples)} images"
    _report(dataset, draw_contact_sheet(tree, load_source(dataset).mask_rule, title, picture), [])
    print(picture, file=sys.stderr)


@app.command("fabricate")
def fabricate(
    dataset: Name,
    folder: Annotated[Path, typer.Argument(help="An empty folder. It is created if it does not exist.")],
    full: Annotated[bool, typer.Option("--full", help="As many images as the dataset has, but small.")] = False,
    plugins: Plugins = None,
) -> None:
    """Write drawn images in the layout of a dataset, to try a disk or a cluster without the real images.

    Results on them are marked as fabricated and never share a table with others.
    """
    add_plugins(plugins)
    from mddbench.data.dataset import load_source
    from mddbench.data.fabricate import fabricate as write

    print(f"drawing images in the layout of {dataset}", file=sys.stderr)
    counts = write(dataset, load_source(dataset), folder, full)
    images = sum(map(sum, counts.values()))
    print(f"{images} drawn images of {len(counts)} categories in {folder}", file=sys.stderr)
    print(f"try: mddbench data check {dataset} --data-root {folder}", file=sys.stderr)


def _size(text: str) -> ImageSize:
    """The size that the option gives. An InputError is raised if it gives none."""
    return demand_size(text, f"--image-size {text}")


def _conditions(tree: Tree) -> dict[str, int]:
    """Count the test images by the condition in which they were taken; none if no image tells it."""
    told = [sample.condition for sample in tree.select("test")]
    return dict(sorted(Counter(name or "not told" for name in told).items())) if any(told) else {}


def _report(dataset: str, faults: list[str], warnings: list[str]) -> None:
    for line in (*(f"{dataset}: warning: {line}" for line in warnings), *(f"{dataset}: {line}" for line in faults)):
        print(line, file=sys.stderr)


def _rows(tree: Tree, expected: dict[str, KnownCounts]) -> list[dict[str, Any]]:
    """The counts, the expected counts and the second-hand ones of each category that exists or is expected."""
    from mddbench.data.samples import SecondHand

    rows: dict[str, dict[str, Any]] = {}
    for category in sorted({*tree.categories, *expected}):
        counts = dict(zip(COLUMNS, tree.counts.get(category, (0, 0, 0)), strict=True))
        wanted = dict(zip(COLUMNS, expected.get(category, (None,) * 3), strict=True))
        unsure = [key for key, number in wanted.items() if isinstance(number, SecondHand)]
        rows[category] = {"category": category, **counts, "expected": wanted, "second_hand": unsure}
        rows[category] |= {"masks": 0, "defects": set()}
    for sample in tree.samples:
        rows[sample.category]["masks"] += bool(sample.masks)
        if sample.anomalous:
            rows[sample.category]["defects"].add(sample.defect)
    return [{**row, "defects": sorted(row["defects"])} for row in rows.values()]


def _print(rows: list[dict[str, Any]]) -> None:
    from mddbench.data.names import shown

    names = [shown(row["category"]) for row in rows]
    width = max(map(len, ("category", *names)))
    print(f"{'category':<{width}} {'train':>11} {'good':>11} {'defective':>11} {'masks':>6}  defects")
    for name, row in zip(names, rows, strict=True):
        numbers = " ".join(f"{_against(row[key], row['expected'][key]):>11}" for key in COLUMNS)
        defects = ", ".join(map(shown, row["defects"]))
        print(f"{name:<{width}} {numbers} {row['masks']:>6}  {defects}")


def _against(count: int, expected: int | None) -> str:
    return str(count) if expected in (None, count) else f"{count}/{expected}"
