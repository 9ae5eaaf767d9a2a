"""The claim of Divide-and-Assemble as a figure: errors of normal and of defective pixels against the side of a block.

Run: python benchmarks/reconstruction_gap.py OUT FIGURE.png [--epochs 40] [--dataset folder --data-root DIR]

The cells of `ablation/block_size` are run unless they are finished. Each model rebuilds all test images. The error of a
pixel is the mean square over the channels on [-1, 1]. Finer blocks rebuild more of everything, coarser ones less; in between
the gap should be largest. The figure shows the errors, and their ratio.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import mddbench
from mddbench.batch import as_images

AT_ONCE = 32


def errors_of(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Squared errors (N, S, S) of images (N, S, S, 3), rebuilt by the network of a finished cell."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), AT_ONCE):
            signed = as_images(np.array(images[start : start + AT_ONCE]), torch.device("cpu")) * 2 - 1
            found.append((model.finished.detector.rebuilt(signed) - signed).square().mean(dim=1).numpy())
    return np.concatenate(found).astype(np.float64)


def mean_errors(
    errors: NDArray[np.float64], masks: NDArray[np.bool_], defective: NDArray[np.bool_]
) -> tuple[float, float]:
    """Average errors of the pixels of normal images, and of the defects.

    Args:
        errors: (N, S, S).
        masks: (N, S, S), True on defects.
        defective: (N,), True for images with a defect.

    Returns:
        Two means; NaN where there is no such pixel.
    """
    normal, defects = errors[~defective], errors[defective][masks[defective]]
    return (
        float(normal.mean()) if normal.size else float("nan"),
        float(defects.mean()) if defects.size else float("nan"),
    )


def measured(model: Any, data: Any) -> tuple[float, float]:
    """Mean errors of a model over the categories of a dataset, of normal images and of defects."""
    each = []
    for category in data.categories:
        split = data.test.of(category)
        defective = np.array([sample.anomalous for sample in split.samples])
        each.append(mean_errors(errors_of(model, split.images), np.asarray(split.masks), defective))
    normal, defects = np.nanmean(each, axis=0)
    return float(normal), float(defects)


def draw(rows: list[tuple[int, float, float]], file: Path) -> None:
    """Draw errors, and their ratio, against the side of a block; `rows` holds side, error of normal, error of defects."""
    from mddbench.report.figures.canvas import canvas, save
    from mddbench.report.figures.style import TEXT, WIDTH, series

    sides, normal, defects = (np.array(column, dtype=float) for column in zip(*sorted(rows), strict=True))
    figure, axes = canvas((WIDTH, 2.6), (1, 2))
    left, right = np.ravel(axes)
    left.plot(sides, defects, label="defects", marker="s", **series(1))
    left.plot(sides, normal, label="normal images", marker="o", **series(0))
    left.set_ylabel("mean squared error", fontsize=TEXT)
    left.legend(frameon=False, fontsize=TEXT)
    right.plot(sides, defects / normal, marker="o", **series(0))
    right.set_ylabel("defects / normal images", fontsize=TEXT)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sides, [f"{side:g}" for side in sides])
        axis.minorticks_off()
        axis.set_xlabel("side of a block in pixels", fontsize=TEXT)
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    save(figure, file, title="Errors of rebuilt pixels against the side of a block")


def main() -> None:
    """Run what is missing, measure, print a line for each side, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--dataset", default="mini")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    common: dict[str, Any] = {"data_root": arguments.data_root, "out": arguments.out}
    changes = {"epochs": arguments.epochs, "dataset": arguments.dataset}
    records = mddbench.run("ablation/block_size", tracking="none", quiet=False, **changes, **common)
    data = mddbench.dataset(arguments.dataset, image_size=records[0].settings["image_size"], **common)
    rows = []
    for record in records:
        (folder,) = arguments.out.glob(f"cells/*-{record.identity[:8]}")
        side, (normal, defects) = (
            int(record.settings["settings"]["block"]),
            measured(mddbench.load(folder, device="cpu"), data),
        )
        rows.append((side, normal, defects))
        auroc = record.metrics["mean"]["p_auroc"] or float("nan")
        print(f"{side:3d} pixels: normal {normal:.5f}, defects {defects:.5f}, ratio {defects / normal:.2f}", end=", ")
        print(f"P-AUROC {auroc:.3f}", flush=True)
    draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
