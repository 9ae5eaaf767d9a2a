"""Draws the figures of a report, one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mddbench.errors import InputError
from mddbench.progress import Reporter

Draw = Callable[[Path], None]
"""Draws one figure and writes it to a file."""


def draw_all(pictures: Mapping[Path, Draw], out: Path, reporter: Reporter) -> None:
    """Draw each figure below a folder, in place of those of an earlier report.

    A figure that cannot be drawn is reported and left out. The keys of `pictures` are file names, relative to `out`.

    Raises:
        InputError: If the data of a figure cannot be loaded.
        OSError: If a file cannot be written.
    """
    for name in pictures:
        for earlier in (out / name, (out / name).with_suffix(".pdf")):
            earlier.unlink(missing_ok=True)
    with reporter.task("drawing", len(pictures)) as task:
        for name, draw in pictures.items():
            try:
                draw(out / name)
            except (OSError, InputError):
                raise
            except Exception as fault:  # noqa: BLE001 - numbers that no axis can show fail in many ways
                reason = str(fault).splitlines()[0][:120] if str(fault) else "no message"
                reporter.say(f"{name}: not drawn ({type(fault).__name__}: {reason})")
            task.advance(1)
