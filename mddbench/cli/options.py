"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mddbench.data.own import CACHE
from mddbench.errors import InputError

OUT = Path("mddbench-out")

DataRoot = Annotated[
    Path | None, typer.Option(help="The dataset's folder, or a folder that holds datasets under their names.")
]
Out = Annotated[Path, typer.Option(help="Where cells, the tracking store and the report go.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Decoded images and the embedded dataset.", envvar="MDDBENCH_CACHE", show_default="<out>/cache"),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store.", show_default="$MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db"),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(help="Folder with methods/, datasets/ or experiments/ of your own.", envvar="MDDBENCH_PLUGINS"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def cache_below(cache_dir: Path | None, out: Path) -> Path:
    """The cache folder: as given, else inside the output folder."""
    return cache_dir or out / CACHE


def add_plugins(folders: list[Path] | None) -> None:
    """Take in plug-in folders before anything is looked up by name."""
    from mddbench.plugins import add_folder

    for folder in folders or []:
        add_folder(folder)


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """The seeds of a comma-separated list, None if there is none. Raises InputError for anything else."""
    if text is None:
        return None
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = (-1,)
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text}: expected different whole numbers from 0 on, as in 0,1,2")
    return seeds
