"""What each of MDD-Net's signals finds, and how many false positives it has on hard normal texture at equal recall.

Run: python benchmarks/false_positives.py [--data-root FOLDER] CELL..., each the folder of a finished cell of MDD-Net, with a
bank or without (<out>/cells/mini-mddnet-...). Cells are seeds of one experiment. Nothing is trained: only the scoring changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.batch import as_images
from mddbench.data.dataset import Dataset, Split, open_dataset, root_of
from mddbench.detector import Detector, method_settings
from mddbench.inference.finished import FinishedModel
from mddbench.metrics.names import LABELS
from mddbench.metrics.suite import evaluate, mean_over_categories
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.progress import SilentReporter

CPU = torch.device("cpu")
SCORINGS: dict[str, dict[str, Any]] = {
    "teacher against restoration": {"signals": ["teacher"]},
    "restoration against identity": {"signals": ["decoders"]},
    "both": {"signals": ["teacher", "decoders"]},
}
WITH_BANK: dict[str, dict[str, Any]] = {
    "bank": {"signals": ["bank"]},
    "teacher and bank": {"signals": ["teacher", "bank"]},
    "decoders and bank": {"signals": ["decoders", "bank"]},
    "all three": {"signals": ["teacher", "decoders", "bank"]},
    "all three, product": {"signals": ["teacher", "decoders", "bank"], "fusion": "product"},
    "all three, images by the bank": {"signals": ["teacher", "decoders", "bank"], "image": "bank"},
    "agreement": {"signals": ["teacher", "decoders", "bank"], "fusion": "agreement"},
    "agreement, images by the bank": {
        "signals": ["teacher", "decoders", "bank"],
        "fusion": "agreement",
        "image": "bank",
    },
}
"""What can be asked of a model with a bank only. Its signals are calibrated if the cell's are."""
KEYS = ("mad", "i_auroc", "p_ap", "aupro")
RECALLS = (0.5, 0.8)
HARD = 0.1
"""The share of normal pixels that counts as hard: those with the strongest texture around them."""


def texture(images: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W): the gradient's length in grey values (N, H, W, 3), averaged over the maps' own smoothing."""
    grey = as_images(images, CPU).mean(dim=1)
    down, across = torch.gradient(grey, dim=(1, 2))
    return gaussian_smooth((down**2 + across**2).sqrt(), 4.0)


def hard_pixels(split: Split) -> NDArray[np.bool_]:
    """(N, H, W): the hard normal pixels of one category."""
    masks, strength = np.asarray(split.masks), texture(np.asarray(split.images)).numpy()
    hard: NDArray[np.bool_] = ~masks & (strength > np.quantile(strength[~masks], 1 - HARD))
    return hard


def rates(
    maps: NDArray[np.float32], masks: NDArray[np.bool_], hard: NDArray[np.bool_], recall: float
) -> tuple[float, float]:
    """The shares of all and of hard normal pixels of one category above the threshold that finds `recall` of the defects'."""
    threshold = np.quantile(maps[masks], 1 - recall)
    return float((maps[~masks] >= threshold).mean()), float((maps[hard] >= threshold).mean())


def rescored(detector: Detector, scoring: dict[str, Any]) -> Detector:
    """The model with another scoring, which no weight depends on."""
    method, raw = type(detector), detector.settings.model_dump(mode="json")
    raw["scoring"] = {**raw["scoring"], "image": "max", "fusion": "sum", **scoring}
    one = method(detector.encoder, method_settings(method, raw, "another scoring"), detector.categories)
    one.load_learned_state(detector.learned_state())
    return one.eval()


def study(detector: Detector, dataset: Dataset) -> dict[str, list[float]]:
    """Signals in words -> what `measured` gives."""
    has_bank = getattr(detector, "bank", None) is not None
    scorings = SCORINGS | (WITH_BANK if has_bank else {})
    hard = {category: hard_pixels(dataset.test.of(category)) for category in dataset.categories}
    return {words: measured(rescored(detector, scoring), dataset, hard) for words, scoring in scorings.items()}


def measured(detector: Detector, dataset: Dataset, hard: dict[str, NDArray[np.bool_]]) -> list[float]:
    """Means over categories: the metrics of KEYS, then for each recall the two rates."""
    metrics, alarms = {}, []
    for category in dataset.categories:
        split = dataset.test.of(category)
        with torch.inference_mode():
            parts = [detector.maps_and_scores(part) for part in as_images(np.asarray(split.images), CPU).split(16)]
        maps, scores = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
        labels = np.array([sample.anomalous for sample in split.samples])
        masks = np.asarray(split.masks)
        metrics[category] = evaluate(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
        alarms.append([rate for recall in RECALLS for rate in rates(maps, masks, hard[category], recall)])
    means = mean_over_categories(metrics)
    return [*(means[key] for key in KEYS), *np.mean(alarms, axis=0)]


def main(cells: list[Path], data_root: Path | None) -> None:
    """Print a table, the mean and standard deviation over the cells."""
    tables: dict[str, list[list[float]]] = {}
    for cell in cells:
        model = FinishedModel.load(cell, CPU)
        if model.record.method != "mddnet" or model.needs_category:
            raise SystemExit(f"{cell}: expected one model of MDD-Net for all categories; found {model.record.label}")
        name, cache = model.record.dataset, cell.parent.parent / "cache"
        dataset = open_dataset(name, root_of(name, data_root), cache, model.image_size, SilentReporter())
        if dataset.fingerprint != model.record.fingerprint:
            raise SystemExit(f"{cell}: was judged on other images than those of {name}; expected the same")
        for words, row in study(model.detector, dataset).items():
            tables.setdefault(words, []).append(row)
    columns = [*(LABELS[key] for key in KEYS), *(f"{k}, recall {r}" for r in RECALLS for k in ("FPR", "hard"))]
    print(f"Percent, {len(cells)} seeds. FPR: normal pixels; hard: the {100 * HARD:.0f} % of them with most texture")
    print(f"| Signal | {' | '.join(columns)} |\n|:--|{'--:|' * len(columns)}")
    for words, rows in tables.items():
        values = 100 * np.array(rows)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
        shown = [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in zip(values.mean(axis=0), spread, strict=True)]
        print(f"| {words} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cells", nargs="+", type=Path, metavar="CELL", help="folder of a finished cell")
    parser.add_argument("--data-root", type=Path, help="folder of the images; not for embedded datasets")
    arguments = parser.parse_args()
    main(arguments.cells, arguments.data_root)
