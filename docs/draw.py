"""Draws docs/pictures/ and fills the tables of docs/metrics.md and docs/datasets.md. Run: python docs/draw.py"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mddbench.cli.inspect import all_settings
from mddbench.data.dataset import load_source, open_dataset, read_dataset
from mddbench.data.samples import SecondHand
from mddbench.execution.holdout import hold_out
from mddbench.metrics import conventions
from mddbench.metrics.exact import ExactPixels
from mddbench.metrics.names import LABELS, PIXEL_LEVEL
from mddbench.metrics.steps import LIMIT
from mddbench.metrics.suite import CategoryMetrics
from mddbench.nn.synthesis import KINDS
from mddbench.plugins import DATASETS, modules
from mddbench.progress import SilentReporter
from mddbench.report.figures.contact import draw_contact_sheet

DOCS = Path(__file__).resolve().parent
sys.path.append(str(DOCS.parent / "tests"))

from references import drawn_maps  # noqa: E402

BEGIN, END = "<!-- table: conventions -->", "<!-- end -->"
OF_DATASETS = "<!-- table: datasets -->"
Case = dict[str, np.ndarray]
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as drawn": lambda maps: maps,
    "exp(2x)": lambda maps: np.exp(2 * maps),
    "one pixel 100 times the highest": lambda maps: np.where(
        np.arange(maps.size).reshape(maps.shape) == 0, 100 * maps.max(), maps
    ),
}
INK, SOFT, FILL = "#1b1b1b", "#8a8a8a", "#cfe0ee"


def case() -> Case:
    """The maps of the table: 60 of 128x128."""
    return drawn_maps(60, 128, seed=1)


def values(drawn: Case, convention: str) -> dict[str, float]:
    """The pixel metrics of maps under one of the names of the table."""
    if convention in ("exact", "histogram"):
        state = CategoryMetrics(convention)  # type: ignore[arg-type]
        state.update(**drawn)
        found = state.compute()
    else:
        found = conventions.evaluate(
            convention, maps=drawn["maps"], masks=drawn["masks"], image_scores=drawn["image_scores"]
        )
    return {key: found[key] for key in PIXEL_LEVEL}


def table() -> list[tuple[str, str, dict[str, float]]]:
    """(scale, convention, metrics) of every row."""
    drawn = case()
    rows = []
    for scale, change in SCALES.items():
        maps = change(drawn["maps"]).astype(np.float32)
        moved = {**drawn, "maps": maps, "image_scores": maps.max(axis=(1, 2))}
        rows += [(scale, name, values(moved, name)) for name in ("exact", "histogram", *conventions.CONVENTIONS)]
    return rows


def as_markdown(rows: list[tuple[str, str, dict[str, float]]]) -> str:
    """The rows as a table, in percent; a metric that is not defined is n/a."""
    lines = [f"| scores | convention | {' | '.join(LABELS[key] for key in PIXEL_LEVEL)} |", "|:--|:--|--:|--:|--:|--:|"]
    for scale, name, found in rows:
        cells = ["n/a" if np.isnan(value) else f"{100 * value:.2f}" for value in found.values()]
        lines.append(f"| {scale} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def dataset_table() -> str:
    """How many images each dataset has, as its file says; second hand in italics."""
    lines = ["| dataset | | categories | training | test, normal | test, defective |", "|:--|:--|--:|--:|--:|--:|"]
    for name in modules(DATASETS):
        source = load_source(name)
        numbers: tuple[int | None, ...] = (None,) * 4
        if source.published is not None:
            numbers = (len(source.published.categories), *source.published.all)
        unknown = "any" if source.published is None else "not known"
        cells = [
            unknown if number is None else f"*{number}*" if isinstance(number, SecondHand) else str(number)
            for number in numbers
        ]
        lines.append(f"| `{name}` | {source.description} | {' | '.join(cells)} |")
    return "\n".join(lines)


def settings_page() -> str:
    """All settings with their defaults and meanings, as `mddbench list settings` prints them."""
    lines = [
        "# Settings",
        "",
        "What a YAML file of an experiment and `--set` may say. `mddbench list settings` prints the same.",
    ]
    for owner, settings in all_settings().items():
        lines += ["", f"## {owner if owner.startswith('every') else f'`{owner}`'}", ""]
        lines += ["| setting | default | meaning |", "|:--|:--|:--|"]
        lines += [f"| `{name}` | {f'`{default}`' if default else ''} | {text} |" for name, default, text in settings]
    return "\n".join(lines) + "\n"


def fill(page: Path, begin: str, table: str) -> None:
    """Put a table between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n{table}\n{END}{after}", encoding="utf-8")


def draw_mini(file: Path) -> None:
    """The contact sheet of the embedded dataset."""
    with TemporaryDirectory() as folder:
        tree = read_dataset("mini", None, Path(folder), 128)
        draw_contact_sheet(tree, load_source("mini").mask_rule, "mini", file)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def curve(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The PRO curve of maps: false-positive rates and mean overlaps, with a point before and after each tie."""
    pixels = ExactPixels()
    pixels.add(maps, masks)
    _, steps = pixels.ranked()
    reached = np.cumsum(steps.overlap)
    rates = np.stack([steps.above, steps.at_least], axis=1).reshape(-1) / steps.negatives
    overlaps = np.stack([reached - steps.overlap, reached], axis=1).reshape(-1)
    return np.append(rates, 1.0), np.append(overlaps, 1.0)


def draw(file: Path) -> None:
    """The PRO integral: on the left all of it, on the right what happens at the limit when scores tie."""
    drawn = case()
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, maps in ((left, drawn["maps"]), (right, np.round(1.6 * drawn["maps"]) / 1.6)):
        rates, overlaps = curve(maps.astype(np.float32), drawn["masks"])
        within = rates <= LIMIT
        shaded = np.append(rates[within], LIMIT), np.append(overlaps[within], np.interp(LIMIT, rates, overlaps))
        axes.fill_between(*shaded, color=FILL, linewidth=0)
        axes.plot(rates, overlaps, color=INK, linewidth=1.4)
        axes.axvline(LIMIT, color=SOFT, linewidth=1, linestyle="--")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("false-positive rate over all normal pixels of the category")
    left.set(xlim=(0, 1), ylabel="mean overlap of ground-truth regions", title="AUPRO = shaded area / 0.3")
    left.text(0.31, 0.05, "limit 0.3", color=SOFT)
    right.set(xlim=(0, 0.6), title="few distinct scores: a tie is one straight piece")
    kept = rates < LIMIT
    right.plot(rates[1::2], overlaps[1::2], "o", color=INK, markersize=4, label="one point for each distinct score")
    right.plot(LIMIT, np.interp(LIMIT, rates, overlaps), "o", markerfacecolor="white", color=INK, markersize=6,
               label="interpolated at the limit")  # fmt: skip
    right.plot([rates[kept][-1]] * 2, [0, overlaps[kept][-1]], color=SOFT, linewidth=1, linestyle=":",
               label="where code ends that drops points from 0.3 on")  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=150, metadata={"Software": None})


def draw_synthesis(file: Path) -> None:
    """Held-out images of the embedded dataset, one of each category: normal, and with each kind of drawn defect, outlined."""
    with TemporaryDirectory() as folder:
        held = hold_out(open_dataset("mini", None, Path(folder), 128, SilentReporter())).test
    kinds = ("normal", *KINDS)
    categories = list(dict.fromkeys(sample.category for sample in held.samples))
    figure = Figure(figsize=(1.25 * len(categories), 1.35 * len(kinds)), layout="constrained")
    for row, kind in enumerate(kinds):
        for column, category in enumerate(categories):
            first = next(index for index, sample in enumerate(held.samples) if sample.category == category)
            axes = figure.add_subplot(len(kinds), len(categories), row * len(categories) + column + 1)
            axes.imshow(held.images[first + row])
            if row:
                axes.contour(held.masks[first + row], levels=[0.5], colors="#e6007e", linewidths=0.8)
            else:
                axes.set_title(category.replace("_", " "), fontsize=7)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if not column:
                axes.set_ylabel(kind, fontsize=8)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def main() -> None:
    """Write all of it."""
    fill(DOCS / "metrics.md", BEGIN, as_markdown(table()))
    fill(DOCS / "datasets.md", OF_DATASETS, dataset_table())
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    draw_mini(DOCS / "pictures" / "mini.png")
    draw(DOCS / "pictures" / "pro.png")
    draw_synthesis(DOCS / "pictures" / "synthesis.png")


if __name__ == "__main__":
    main()
