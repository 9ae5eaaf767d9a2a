"""False positives of MDD-Net's signals on hard normal texture, at equal recall.

Run: python benchmarks/false_positives.py CELL..., each the folder of a finished mini/mddnet cell (<out>/cells/mini-mddnet-...).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from mddbench.batch import as_images
from mddbench.data.dataset import Dataset, Split, open_dataset
from mddbench.detector import Detector, load_method, method_settings
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.progress import SilentReporter
from mddbench.runs.records import Record, read_record

SIGNALS = {
    "teacher against restoration": ["teacher"],
    "restoration against identity": ["decoders"],
    "both": ["teacher", "decoders"],
}
RECALLS = (0.5, 0.8)
HARD = 0.1
"""The share of normal pixels that counts as hard: those with the strongest texture around them."""


def texture(images: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W): the gradient's length in grey values (N, H, W, 3), averaged over the maps' own smoothing."""
    grey = as_images(images, torch.device("cpu")).mean(dim=1)
    down, across = torch.gradient(grey, dim=(1, 2))
    return gaussian_smooth((down**2 + across**2).sqrt(), 4.0)


def rates(maps: NDArray[np.float32], split: Split, recall: float) -> tuple[float, float]:
    """(among all, among hard normal pixels) of one category the share above the threshold that finds `recall` of the defects'
    pixels.
    """
    masks = np.asarray(split.masks)
    threshold = np.quantile(maps[masks], 1 - recall)
    strength = texture(np.asarray(split.images)).numpy()
    hard = ~masks & (strength > np.quantile(strength[~masks], 1 - HARD))
    return float((maps[~masks] >= threshold).mean()), float((maps[hard] >= threshold).mean())


def study(detector: Detector, dataset: Dataset) -> dict[str, dict[float, tuple[float, float]]]:
    """Signal -> recall -> (all, hard), means over categories."""
    method, raw = type(detector), detector.settings.model_dump(mode="json")
    found: dict[str, dict[float, tuple[float, float]]] = {}
    for name, signals in SIGNALS.items():
        raw["scoring"]["signals"] = signals
        one = method(detector.encoder, method_settings(method, raw, name), detector.categories).eval()
        one.load_learned_state(detector.learned_state())
        pairs: dict[float, list[tuple[float, float]]] = {recall: [] for recall in RECALLS}
        for category in dataset.categories:
            split = dataset.test.of(category)
            with torch.inference_mode():
                parts = as_images(np.asarray(split.images), torch.device("cpu")).split(16)
                maps = torch.cat([one.anomaly_maps(part) for part in parts]).numpy()
            for recall in RECALLS:
                pairs[recall].append(rates(maps, split, recall))
        found[name] = {recall: tuple(np.mean(values, axis=0).tolist()) for recall, values in pairs.items()}
    return found


def trained(cell: Path) -> tuple[Detector, Record]:
    """The detector of a finished cell."""
    record = read_record(cell / "record.json")
    method, settings = load_method(record.method), record.settings
    chosen: Any = settings["encoder"]
    encoder: FrozenEncoder = load_encoder(chosen["name"], tuple(chosen["levels"]), None, chosen["sha256"])
    detector = method(encoder, method_settings(method, settings["settings"], str(cell)), len(record.categories))
    detector.load_learned_state(load_file(cell / "model.safetensors"))
    return detector.eval(), record


def main(cells: list[Path]) -> None:
    """Print a table, the mean and standard deviation over the cells."""
    tables = []
    for cell in cells:
        detector, record = trained(cell)
        dataset = open_dataset("mini", None, cell.parent.parent / "cache", record.card["image_size"], SilentReporter())
        if (
            record.fingerprint != dataset.fingerprint
            or detector.encoder.weights_sha256 != record.card["encoder_sha256"]
        ):
            raise SystemExit(f"{cell}: expected a cell of mini/mddnet with this encoder; found other data or weights")
        tables.append(study(detector, dataset))
    print(
        f"False positives in percent of normal pixels, {len(cells)} seeds; hard: the {100 * HARD:.0f} % with most texture"
    )
    print(
        "| Signal | " + " | ".join(f"{kind}, recall {recall}" for recall in RECALLS for kind in ("all", "hard")) + " |"
    )
    print("|:--|" + "--:|" * 2 * len(RECALLS))
    for name in SIGNALS:
        values = 100 * np.array([[*table[name][RECALLS[0]], *table[name][RECALLS[1]]] for table in tables])
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
        shown = [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in zip(values.mean(axis=0), spread, strict=True)]
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
