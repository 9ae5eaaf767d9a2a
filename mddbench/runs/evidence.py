"""What lies behind the metrics of a category, small enough to be kept of every run: image scores, and curves of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.arrays import demand, read_npz, refusing
from mddbench.data.samples import Sample

EVIDENCE = "scores.npz"
"""Its file, in a cell's folder and among a run's artifacts."""
ARRAYS = ("categories", "counts", "names", "defects", "items", "labels", "scores", "precision_recall", "region_overlap")


@dataclass(frozen=True)
class Evidence:
    """A category's test images in the order of the split, and its pixels' curves.

    names: of the images' files; defects: their kinds; items: what each shows, '' where that is not known; labels: (N,) True for
    defective; scores: (N,) float32, or float64 if the method gave that, which may be infinite; precision_recall,
    region_overlap: (2, P) x and y, NaN where there are no masks.
    """

    category: str
    names: tuple[str, ...]
    defects: tuple[str, ...]
    items: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.floating]
    precision_recall: NDArray[np.float32]
    region_overlap: NDArray[np.float32]


def evidence_of(
    category: str,
    samples: Sequence[Sample],
    scores: NDArray[np.generic],
    curves: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Evidence:
    """The evidence of a category's samples. scores: (N,); curves: as `CategoryMetrics.curves` gives them."""
    return Evidence(
        category=category,
        names=tuple(sample.image.name for sample in samples),
        defects=tuple(sample.defect for sample in samples),
        items=tuple(sample.item for sample in samples),
        labels=np.array([sample.anomalous for sample in samples], dtype=np.bool_),
        scores=_at_least_single(scores),
        precision_recall=curves[0].astype(np.float32),
        region_overlap=curves[1].astype(np.float32),
    )


def save_evidence(evidence: Sequence[Evidence], file: Path) -> None:
    """Write the evidence of all categories as one compressed .npz of plain arrays."""

    def texts(field: str) -> NDArray[np.str_]:
        return np.array([text for part in evidence for text in getattr(part, field)], dtype=np.str_)

    np.savez_compressed(
        file,
        categories=np.array([part.category for part in evidence], dtype=np.str_),
        counts=np.array([len(part.scores) for part in evidence], dtype=np.int64),
        names=texts("names"),
        defects=texts("defects"),
        items=texts("items"),
        labels=np.concatenate([part.labels for part in evidence]),
        scores=np.concatenate([part.scores for part in evidence]),
        precision_recall=np.array([part.precision_recall for part in evidence]),
        region_overlap=np.array([part.region_overlap for part in evidence]),
    )


def load_evidence(file: Path) -> tuple[Evidence, ...]:
    """Read what `save_evidence` wrote; no pickle is loaded. Raises InputError for a broken file."""
    with refusing(file, "scores", "run the cell again"):
        arrays = read_npz(file, ARRAYS)
        _check(arrays)
        ends = np.cumsum(arrays["counts"])
        return tuple(
            _part(arrays, number, slice(int(end - arrays["counts"][number]), int(end)))
            for number, end in enumerate(ends)
        )


def _part(arrays: dict[str, NDArray[Any]], number: int, images: slice) -> Evidence:
    names, defects, items = (tuple(map(str, arrays[name][images])) for name in ("names", "defects", "items"))
    return Evidence(
        category=str(arrays["categories"][number]),
        names=names,
        defects=defects,
        items=items,
        labels=arrays["labels"][images],
        scores=_at_least_single(arrays["scores"][images]),
        precision_recall=arrays["precision_recall"][number].astype(np.float32),
        region_overlap=arrays["region_overlap"][number].astype(np.float32),
    )


def _at_least_single(scores: NDArray[Any]) -> NDArray[np.floating]:
    """float64 as it is, for metrics to follow from what is kept; all else as float32."""
    return scores if scores.dtype == np.float64 else scores.astype(np.float32)


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays are such as `save_evidence` writes."""
    demand("categories", arrays["categories"], "U", (None,))
    categories, counts = arrays["categories"].tolist(), arrays["counts"]
    demand("counts", counts, "i", (len(categories),))
    if not categories or len(set(categories)) < len(categories):
        raise ValueError(f"{len(categories)} categories, {len(set(categories))} of them different")
    if counts.min() < 1:
        raise ValueError(f"a category of {counts.min()} images")
    images = sum(counts.tolist())
    for name, kind in (("names", "U"), ("defects", "U"), ("items", "U"), ("labels", "b"), ("scores", "f")):
        demand(name, arrays[name], kind, (images,))
    if np.isnan(arrays["scores"]).any():
        raise ValueError("a score is NaN")
    for name in ("precision_recall", "region_overlap"):
        demand(name, arrays[name], "f", (len(categories), 2, None))
        if not arrays[name].size or np.isinf(arrays[name]).any():
            raise ValueError(f"{name} is empty or infinite")
