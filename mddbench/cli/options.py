"""Options that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mddbench.data.own import CACHE
from mddbench.errors import InputError

OUT = Path("mddbench-out")
CELLS, DATA, EVALUATION = "Which cells", "Data and weights", "Evaluation"
MACHINE, OUTPUT = "Machine and speed", "Output"
"""Headings of the options in `--help`."""

DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="The dataset's folder, or a folder that holds datasets under their names.",
        rich_help_panel=DATA,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="Folder for cells, the tracking store and the report.",
        rich_help_panel=OUTPUT,
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for decoded images and the embedded dataset.",
        envvar="MDDBENCH_CACHE",
        show_default="<out>/cache",
        rich_help_panel=DATA,
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="MLflow store.",
        show_default="$MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db",
        rich_help_panel=OUTPUT,
    ),
]
Tracking = Annotated[
    str,
    typer.Option(
        help="mlflow or none.",
        rich_help_panel=OUTPUT,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda or cuda:1.",
        rich_help_panel=MACHINE,
    ),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with encoder weights, or their file.",
        rich_help_panel=DATA,
    ),
]
FeatureCache = Annotated[
    float,
    typer.Option(
        min=0,
        help="GiB for cached features of the frozen teacher, which all epochs then share; 0 for no cache.",
        rich_help_panel=MACHINE,
    ),
]
TexturesFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures to draw defects with, such as DTD's images/, for textures 'folder'.",
        rich_help_panel=DATA,
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder with methods/, datasets/, experiments/ or suites/ of your own.",
        envvar="MDDBENCH_PLUGINS",
        rich_help_panel=DATA,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Show no progress.",
        rich_help_panel=OUTPUT,
    ),
]


def command_line() -> str:
    """Return the command of this process as a shell takes it, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


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
    from mddbench.plugins import FOLDERS, YAML_FOLDERS, add_folder, unread_in

    for folder in folders or []:
        add_folder(folder)
        if unread := unread_in(folder):
            print(
                f"mddbench: --plugins {folder}: not read: {', '.join(unread)}; "
                f"read are {', '.join((*FOLDERS, *YAML_FOLDERS))}",
                file=sys.stderr,
            )


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
