"""The data behind the metrics of a category: image scores, and curves of the pixels.

It is small enough to be kept for every run.
"""

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
"""Name of the file in a cell's folder and among a run's artifacts."""
ARRAYS = ("categories", "counts", "names", "defects", "items", "labels", "scores", "precision_recall", "region_overlap")
CONDITIONS = "conditions"
"""Array of the conditions. Only files of datasets that tell them have it."""


@dataclass(frozen=True)
class Evidence:
    """The scores of a category's N test images in the order of the split, and the curves of its pixels.

    Attributes:
        category: Name of the category.
        names: File name of each image.
        defects: Kind of defect of each image.
        items: The item that each image shows, '' where it is unknown.
        conditions: The condition in which each image was taken, '' where it is unknown.
        labels: (N,) True for defective images.
        scores: (N,) float32, or float64 if the method returned that. Scores may be infinite.
        precision_recall: (2, P) recall and precision of the pixels, NaN where there are no masks.
        region_overlap: (2, P) false positive rate and region overlap of the pixels, NaN where there are no masks.
    """

    category: str
    names: tuple[str, ...]
    defects: tuple[str, ...]
    items: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.floating]
    precision_recall: NDArray[np.float32]
    region_overlap: NDArray[np.float32]
    conditions: tuple[str, ...] = ()


def evidence_of(
    category: str,
    samples: Sequence[Sample],
    scores: NDArray[np.generic],
    curves: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Evidence:
    """Create the evidence of a category.

    Args:
        category: Name of the category.
        samples: Its N test images.
        scores: (N,) image scores.
        curves: Precision-recall curve and region overlap curve, as from `CategoryMetrics.curves`.

    Returns:
        The evidence.
    """
    return Evidence(
        category=category,
        names=tuple(sample.image.name for sample in samples),
        defects=tuple(sample.defect for sample in samples),
        items=tuple(sample.item for sample in samples),
        labels=np.array([sample.anomalous for sample in samples], dtype=np.bool_),
        scores=_at_least_single(scores),
        precision_recall=curves[0].astype(np.float32),
        region_overlap=curves[1].astype(np.float32),
        conditions=tuple(sample.condition for sample in samples),
    )


def save_evidence(evidence: Sequence[Evidence], file: Path) -> None:
    """Write the evidence of all categories as one compressed .npz file of plain arrays.

    Args:
        evidence: Evidence of each category.
        file: The file.
    """

    def texts(field: str) -> NDArray[np.str_]:
        return np.array([text for entry in evidence for text in getattr(entry, field)], dtype=np.str_)

    told = any(any(entry.conditions) for entry in evidence)
    arrays: dict[str, Any] = {CONDITIONS: texts(CONDITIONS)} if told else {}
    np.savez_compressed(
        file,
        **arrays,
        categories=np.array([entry.category for entry in evidence], dtype=np.str_),
        counts=np.array([len(entry.scores) for entry in evidence], dtype=np.int64),
        names=texts("names"),
        defects=texts("defects"),
        items=texts("items"),
        labels=np.concatenate([entry.labels for entry in evidence]),
        scores=np.concatenate([entry.scores for entry in evidence]),
        precision_recall=np.array([entry.precision_recall for entry in evidence]),
        region_overlap=np.array([entry.region_overlap for entry in evidence]),
    )


def load_evidence(file: Path) -> tuple[Evidence, ...]:
    """Read a file of `save_evidence`. No pickled objects are loaded.

    An InputError is raised for a broken file.

    Args:
        file: The file.

    Returns:
        Evidence of each category.
    """
    with refusing(file, "scores", "run the cell again"):
        arrays = read_npz(file, ARRAYS, (CONDITIONS,))
        _check(arrays)
        ends = np.cumsum(arrays["counts"])
        return tuple(
            _entry(arrays, number, slice(int(end - arrays["counts"][number]), int(end)))
            for number, end in enumerate(ends)
        )


def _entry(arrays: dict[str, NDArray[Any]], number: int, images: slice) -> Evidence:
    """Return the evidence of the category with a number, whose images lie at a slice of the arrays."""
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
        conditions=tuple(map(str, arrays[CONDITIONS][images])) if CONDITIONS in arrays else ("",) * len(names),
    )


def _at_least_single(scores: NDArray[Any]) -> NDArray[np.floating]:
    """Keep float64, so that the kept scores give the same metrics; convert all other types to float32."""
    return scores if scores.dtype == np.float64 else scores.astype(np.float32)


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays have the form that `save_evidence` writes."""
    demand("categories", arrays["categories"], "U", (None,))
    categories, counts = arrays["categories"].tolist(), arrays["counts"]
    demand("counts", counts, "i", (len(categories),))
    if not categories or len(set(categories)) < len(categories):
        raise ValueError(f"{len(categories)} categories, {len(set(categories))} of them different")
    if counts.min() < 1:
        raise ValueError(f"a category of {counts.min()} images")
    images = sum(counts.tolist())
    told = [(CONDITIONS, "U")] if CONDITIONS in arrays else []
    for name, kind in (("names", "U"), ("defects", "U"), ("items", "U"), ("labels", "b"), ("scores", "f"), *told):
        demand(name, arrays[name], kind, (images,))
    if np.isnan(arrays["scores"]).any():
        raise ValueError("a score is NaN")
    for name in ("precision_recall", "region_overlap"):
        demand(name, arrays[name], "f", (len(categories), 2, None))
        if not arrays[name].size or np.isinf(arrays[name]).any():
            raise ValueError(f"{name} is empty or infinite")
