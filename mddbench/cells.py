"""A cell is an experiment with a seed. This file says what makes two cells the same, and what a record tells of one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mddbench import records
from mddbench.ablation import is_ablation
from mddbench.compiling import COMPILING_PAYS
from mddbench.config import Experiment, Strict
from mddbench.cost import TIMES, peak_memory, size_and_speed, training_speed
from mddbench.data.dataset import Dataset
from mddbench.data.images import INTERPOLATION
from mddbench.detector import Detector
from mddbench.environment import describe_environment
from mddbench.errors import InputError
from mddbench.evaluate import Evaluation, choose_engine
from mddbench.foreign import OF_TRAINING, UNKNOWN
from mddbench.holdout import is_held_out
from mddbench.metrics.names import METRIC_VERSIONS, Engine
from mddbench.records import LEARNED_WEIGHTS, UNIFIED, UPPER_BOUND, CurvePoint, EpochLog, Record
from mddbench.tracking import CellFacts
from mddbench.train import batches_per_epoch


@dataclass(frozen=True)
class Cell:
    """One thing to run."""

    experiment: Experiment
    seed: int

    @property
    def name(self) -> str:
        """As runs and messages call it: rd4ad/mini/seed0, with the variant of an ablation behind it."""
        plain = f"{self.experiment.method}/{self.experiment.dataset}/seed{self.seed}"
        return f"{plain} ({self.experiment.name})" if is_ablation(self.experiment.name) else plain


def protocol_card(experiment: Experiment, detector: Detector, dataset: Dataset) -> dict[str, Any]:
    """What a reader must know to compare two numbers, the same fields for every method."""
    encoder = detector.encoder
    card = {
        "method_version": detector.version,
        "setting": f"{_models(experiment, dataset)}{_which_images(dataset)}",
        "epochs": experiment.epochs,
        "iterations": experiment.epochs * _steps(experiment, dataset),
        "batch_size": experiment.batch_size,
        "image_size": experiment.image_size,
        "interpolation": INTERPOLATION,
        "mask_rule": dataset.mask_rule,
        "augmentation": "none",
        "textures": str(dataset.textures) if detector.wants_textures(detector.settings) else "none",
        "test_labels": UPPER_BOUND if detector.wants_test_labels else "none",
        "encoder": encoder.name,
        "encoder_levels": list(encoder.levels),
        **({"encoder_padding": f"as for {encoder.padding_for} pixels"} if encoder.padding_for else {}),
        "encoder_weights": encoder.weights_source,
        "encoder_sha256": encoder.weights_sha256,
        **({"network": detector.network} if detector.network else {}),
        "optimizer": "none" if detector.single_pass else experiment.optimizer.model_dump(mode="json"),
        "schedule": "none" if detector.single_pass else experiment.schedule.model_dump(mode="json"),
        "gradient_clip": experiment.gradient_clip,
        "precision": experiment.precision,
        "smoothing": detector.smoothing,
        "image_score": detector.image_score_rule,
        "selection": "last epoch",
        "metrics": METRIC_VERSIONS[metric_engine(experiment, dataset)],
    }
    if detector.learned_from:
        card |= {LEARNED_WEIGHTS: detector.learned_from, **dict.fromkeys(OF_TRAINING, UNKNOWN)}
    return card


def _models(experiment: Experiment, dataset: Dataset) -> str:
    if experiment.setting == "separate":
        return f"a separate model for each of {len(dataset.categories)} categories"
    return f"{UNIFIED} for {len(dataset.categories)} categories"


def _which_images(dataset: Dataset) -> str:
    """What a reader must be told, where they are not the dataset's own."""
    return f"{', held out' if is_held_out(dataset) else ''}{', fabricated images' if dataset.fabricated else ''}"


def _steps(experiment: Experiment, dataset: Dataset) -> int:
    """Of an epoch, of all models together."""
    if experiment.setting == "unified":
        return batches_per_epoch(len(dataset.train), experiment)
    return sum(batches_per_epoch(len(dataset.train.of(category)), experiment) for category in dataset.categories)


def _fewest_steps(experiment: Experiment, dataset: Dataset) -> int:
    """Of a training: of the shortest one, if there are several."""
    if experiment.setting == "unified":
        return experiment.epochs * batches_per_epoch(len(dataset.train), experiment)
    images = min(len(dataset.train.of(category)) for category in dataset.categories)
    return experiment.epochs * batches_per_epoch(images, experiment)


def metric_engine(experiment: Experiment, dataset: Dataset) -> Engine:
    """The engine of the pixel metrics: what the experiment says, or else what suits the largest category."""
    if experiment.metrics != "auto":
        return experiment.metrics
    counts = Counter(sample.category for sample in dataset.test.samples)
    return choose_engine(max(counts.values()), experiment.image_size)


def resolved_settings(experiment: Experiment, method_settings: Strict) -> dict[str, Any]:
    """All settings of an experiment, the method's defaults filled in; without its seeds, which the cell chooses, and without
    the setting, which the protocol card says.
    """
    settings: dict[str, Any] = experiment.model_dump(
        mode="json", exclude={"seeds", "name", "overrides", "setting", "reported"}
    )
    settings["settings"] = method_settings.model_dump(mode="json")
    return settings


def identities(
    settings: dict[str, Any], card: dict[str, Any], version: int, seed: int, fingerprint: str
) -> tuple[str, str]:
    """(identity of the cell, identity of its protocol): hashes over all that decides the numbers.

    What of the card follows from the rest, or says where the encoder's weights came from, does not count.
    """
    card = {key: value for key, value in card.items() if key not in FOLLOWING}
    decisive = {"settings": settings, "card": card, "version": version, "fingerprint": fingerprint}
    text = json.dumps(decisive, sort_keys=True)
    protocol = hashlib.sha256(text.encode()).hexdigest()[:16]
    return hashlib.sha256(f"{protocol}/{seed}".encode()).hexdigest()[:16], protocol


FOLLOWING = ("encoder_weights", "iterations", "smoothing")
"""What of a card does not make a protocol another."""

EVALUATION = ("image_score", "test_labels", "metrics")
"""What of a card concerns evaluation only."""


@dataclass(frozen=True)
class Prepared:
    """A cell that could start: its model, its data and its identity."""

    cell: Cell
    detector: Detector
    dataset: Dataset
    card: dict[str, Any]
    settings: dict[str, Any]
    identity: str
    protocol: str
    sharing: int
    compiled: bool

    @classmethod
    def of(
        cls, cell: Cell, detector: Detector, dataset: Dataset, sharing: int = 1, compiling: bool = False
    ) -> Prepared:
        """sharing: how many cells run on its device at once; compiling: whether to compile, if the training is long enough."""
        card = protocol_card(cell.experiment, detector, dataset)
        settings = resolved_settings(cell.experiment, detector.settings)
        compiled = compiling and _fewest_steps(cell.experiment, dataset) >= COMPILING_PAYS
        identity, protocol = identities(settings, card, detector.version, cell.seed, dataset.fingerprint)
        return cls(cell, detector, dataset, card, settings, identity, protocol, sharing, compiled)

    @property
    def training_identity(self) -> str:
        """A hash over all that decides the trained weights: equal for cells that differ in evaluation only."""
        card = {key: value for key, value in self.card.items() if key not in EVALUATION}
        own = self.detector.training_settings(self.detector.settings)
        settings = {**self.settings, "settings": own, "metrics": None}
        return identities(settings, card, self.detector.version, self.cell.seed, self.dataset.fingerprint)[0]

    @property
    def uses_textures(self) -> bool:
        """Whether the method draws defects with pictures from a folder."""
        return self.detector.wants_textures(self.detector.settings)

    def folder(self, out: Path) -> Path:
        """Where the cell keeps its checkpoint, model, panels and record."""
        experiment = self.cell.experiment
        return out / "cells" / f"{experiment.dataset}-{experiment.method}-seed{self.cell.seed}-{self.identity[:8]}"

    def facts(self) -> CellFacts:
        """What the tracking store is told before training."""
        environment = self._environment()
        splits = {"train": len(self.dataset.train), "test": len(self.dataset.test), "files": self.dataset.files}
        return CellFacts(
            name=self.cell.name,
            dataset=self.dataset.name,
            identity=self.identity,
            fingerprint=self.dataset.fingerprint,
            profile=splits,
            params={"seed": str(self.cell.seed), **_flat(self.settings)},
            tags=_tags(self.card, environment, self.protocol, self.cell.experiment.name),
        )

    def _environment(self) -> dict[str, Any]:
        machine = describe_environment(next(self.detector.parameters()).device)
        return machine | {"cells_on_device": self.sharing, "compiled": self.compiled}

    def record(
        self,
        history: list[EpochLog],
        evaluation: Evaluation,
        model_sha256: str,
        donor: Record | None = None,
        test_curve: list[CurvePoint] | None = None,
    ) -> Record:
        """The record of the finished cell; donor: of the cell that was trained in its place, whose cost of training counts.

        A cell that shared its device has no times: they would be the others' as well.
        """
        device = next(self.detector.parameters()).device
        experiment = self.cell.experiment
        cost = {
            **training_speed(history),
            "metric_seconds": evaluation.metric_seconds,
            **peak_memory(device),  # before the next line, which is no part of the cell's work
            **size_and_speed(self.detector, experiment.image_size, experiment.precision),
        }
        if self.sharing > 1:
            cost |= dict.fromkeys(TIMES)
        environment = self._environment()
        if donor is not None:
            cost |= {key: value for key, value in donor.cost.items() if key.startswith(("train_", "peak_"))}
            environment["trained_as"] = donor.identity
        return Record(
            identity=self.identity,
            protocol=self.protocol,
            status="finished",
            method=self.cell.experiment.method,
            label=self.detector.label + (" (weights from a file)" if self.detector.learned_from else ""),
            dataset=self.dataset.name,
            experiment=self.cell.experiment.name,
            seed=self.cell.seed,
            fingerprint=self.dataset.fingerprint,
            metrics=records.nullable(evaluation.metrics),
            bounds=records.nullable_pairs(evaluation.bounds),
            confidence=records.nullable_pairs(evaluation.confidence),
            card=self.card,
            settings={**self.settings, "overrides": dict(self.cell.experiment.overrides)},
            model_sha256=model_sha256,
            cost=cost,
            environment=environment,
            history=history,
            test_curve=test_curve or [],
        )


def choose_device(name: str) -> torch.device:
    """'auto' takes a GPU if there is one. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("expected auto, cpu, cuda or mps")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as fault:
        raise InputError(f"--device {name}: not usable here ({str(fault).splitlines()[0]}); use auto or cpu") from None
    return device


def facts_of(record: Record) -> CellFacts:
    """What a tracking store is told of a cell that finished elsewhere."""
    return CellFacts(
        name=f"{record.method}/{record.dataset}/seed{record.seed}"
        + (f" ({record.experiment})" if is_ablation(record.experiment) else ""),
        dataset=record.dataset,
        identity=record.identity,
        fingerprint=record.fingerprint,
        profile={"categories": len(record.categories)},
        params={"seed": str(record.seed), **_flat(record.settings)},
        tags=_tags(record.card, record.environment, record.protocol, record.experiment),
    )


def _tags(card: dict[str, Any], environment: Mapping[str, Any], protocol: str, experiment: str) -> dict[str, str]:
    tags = {f"mddbench.card.{key}": _text(value) for key, value in card.items()}
    tags |= {f"mddbench.environment.{key}": _text(value) for key, value in environment.items()}
    return tags | {"mddbench.protocol": protocol, "mddbench.experiment": experiment, "mddbench.status": "running"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as 'optimizer.lr' -> '0.005'."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat
