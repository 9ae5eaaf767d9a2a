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
Out = Annotated[Path, typer.Option(help="Folder for cells, the tracking store and the report.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for decoded images and the embedded dataset.", envvar="MDDBENCH_CACHE", show_default="<out>/cache"
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store.", show_default="$MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db"),
]
Tracking = Annotated[str, typer.Option(help="mlflow or none.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
WeightsDir = Annotated[Path | None, typer.Option(help="Folder with encoder weights, or their file.")]
FeatureCache = Annotated[
    float,
    typer.Option(
        min=0, help="GiB for cached features of the frozen teacher, which all epochs then share; 0 for no cache."
    ),
]
TexturesFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of pictures to draw defects with, such as DTD's images/, for textures 'folder'."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(help="Folder with methods/, datasets/ or experiments/ of your own.", envvar="MDDBENCH_PLUGINS"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def cache_below(cache_dir: Path | None, out: Path) -> Path:
    """Choose the cache folder.

    Args:
        cache_dir: The folder from the command line; None if it was not given.
        out: Output folder.

    Returns:
        The given folder, or the usual one in the output folder.
    """
    return cache_dir or out / CACHE


def add_plugins(folders: list[Path] | None) -> None:
    """Add plug-in folders. This must happen before any name is looked up.

    Args:
        folders: The folders; None if there are none.
    """
    from mddbench.plugins import add_folder

    for folder in folders or []:
        add_folder(folder)


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """Read a comma-separated list of seeds.

    Args:
        text: The list, such as '0,1,2'; None if it was not given.

    Returns:
        The seeds; None without a list.

    Raises:
        InputError: If the text is not a list of different whole numbers from 0.
    """
    if text is None:
        return None
    try:
        seeds = tuple(int(seed) for seed in text.split(","))
    except ValueError:
        seeds = (-1,)
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text}: expected different whole numbers from 0 on, as in 0,1,2")
    return seeds
