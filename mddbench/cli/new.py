"""The command `mddbench new`: it writes the commented file of a method or a dataset to begin with."""

from __future__ import annotations

import keyword
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from mddbench.errors import InputError
from mddbench.plugins import DATASETS, METHODS, modules, nearest

NAME = re.compile(r"[a-z][a-z0-9_]*")
KINDS = {"method": METHODS, "dataset": DATASETS}


def new(
    kind: Annotated[str, typer.Argument(help="method or dataset.")],
    name: Annotated[str, typer.Argument(help="Its name in commands and files, such as patch_bank.")],
    to: Annotated[Path, typer.Option(help="Plug-in folder, which is made if it does not exist.")],
) -> None:
    """Write the file of a new method or dataset. It runs as it is: change it step by step.

    The folder is a plug-in folder: commands take it by --plugins.
    """
    file = write_template(kind, name, to)
    print(file)
    folder = shlex.quote(str(to))
    follow = {
        "method": f"mddbench run mini/{name} --plugins {folder}",
        "dataset": f"mddbench data fabricate {name} drawn --plugins {folder}",
    }
    checked = f"mddbench check --methods {name}" if kind == "method" else "mddbench check"
    for command in (f"{checked} --plugins {folder}", follow[kind]):
        typer.echo(f"next: {command}", err=True)


def write_template(kind: str, name: str, to: Path) -> Path:
    """Write the file of a new method or dataset.

    Args:
        kind: One of KINDS.
        name: Its name.
        to: Plug-in folder.

    Returns:
        The file.

    Raises:
        InputError: If the kind is unknown, the name is none for a Python file, or it is taken.
    """
    if kind not in KINDS:
        raise InputError(f"new {kind}: unknown{nearest(kind, KINDS)}; expected one of {', '.join(KINDS)}")
    class_name = "".join(map(str.capitalize, name.split("_")))
    if not NAME.fullmatch(name) or keyword.iskeyword(name) or keyword.iskeyword(class_name):
        raise InputError(f"{name}: expected a name of small letters, digits and '_', as in patch_bank")
    file = to / f"{kind}s" / f"{name}.py"
    if name in modules(KINDS[kind]) or file.exists():
        raise InputError(f"{name}: there is a {kind} of this name already; choose another name")
    template = (files("mddbench.plugin_api") / "templates" / f"{kind}.py.txt").read_text(encoding="utf-8")
    words = name.split("_")
    text = template.format(label=" ".join(words).capitalize(), class_name=class_name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise InputError(f"{file}: cannot be written ({fault.strerror})") from None
    return file
