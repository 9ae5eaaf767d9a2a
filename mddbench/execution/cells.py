"""Cells. A cell is an experiment with a seed.

This module prepares a cell and makes its record. `protocol.py` defines when two cells are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mddbench.data.dataset import Dataset
from mddbench.detector import Detector
from mddbench.engine.compiling import COMPILING_PAYS
from mddbench.engine.cost import TIMES, energy, peak_memory, size_and_speed, training_speed
from mddbench.engine.energy import EnergyCounter
from mddbench.engine.evaluate import Evaluation
from mddbench.engine.latency import latency
from mddbench.execution.protocol import fewest_steps, identities, protocol_card, resolved_settings, training_settings
from mddbench.experiments.ablation import is_ablation
from mddbench.experiments.schema import Experiment
from mddbench.runs import records
from mddbench.runs.bounds import LONGEST_NAME
from mddbench.runs.card import ProtocolCard
from mddbench.runs.environment import describe_environment, source_commit
from mddbench.runs.facts import CellFacts, describe, flat_settings
from mddbench.runs.records import IMAGES, CurvePoint, EpochLog, Record


@dataclass(frozen=True)
class Cell:
    """An experiment with a seed.

    Attributes:
        experiment: The experiment.
        seed: The seed.
    """

    experiment: Experiment
    seed: int

    @property
    def name(self) -> str:
        """Name in runs and messages, as in rd4ad/mini/seed0. The name of an ablation's variant follows in brackets."""
        plain = f"{self.experiment.method}/{self.experiment.dataset}/seed{self.seed}"
        return f"{plain} ({self.experiment.name})" if is_ablation(self.experiment.name) else plain


@dataclass(frozen=True)
class Prepared:
    """A cell that is ready to run.

    Attributes:
        cell: The cell.
        detector: Its model, untrained.
        dataset: Its opened dataset.
        card: Its protocol card.
        settings: All its settings, see `resolved_settings`.
        identity: Hash over all that decides its numbers.
        protocol: The same hash without the seed.
        sharing: Number of cells that run on its device at the same time.
        compiled: True if its training steps are compiled.
        graphs: True if the kernels of its training steps are recorded as CUDA graphs.
    """

    cell: Cell
    detector: Detector
    dataset: Dataset
    card: ProtocolCard
    settings: dict[str, Any]
    identity: str
    protocol: str
    sharing: int
    compiled: bool
    graphs: bool

    @classmethod
    def of(
        cls,
        cell: Cell,
        detector: Detector,
        dataset: Dataset,
        sharing: int = 1,
        compiling: bool = False,
        graphs: bool = False,
    ) -> Prepared:
        """Prepare a cell.

        Args:
            cell: The cell.
            detector: Its model, untrained.
            dataset: Its opened dataset.
            sharing: Number of cells that run on its device at the same time.
            compiling: True to compile the training steps if the training is long enough.
            graphs: True to record the kernels of training steps as CUDA graphs.

        Returns:
            The prepared cell.
        """
        card = protocol_card(cell.experiment, detector, dataset)
        settings = resolved_settings(cell.experiment, detector.settings)
        compiled = compiling and fewest_steps(cell.experiment, dataset) >= COMPILING_PAYS
        identity, protocol = identities(settings, card.decisive(), detector.version, cell.seed, dataset.fingerprint)
        return cls(cell, detector, dataset, card, settings, identity, protocol, sharing, compiled, graphs)

    @property
    def training_identity(self) -> str:
        """Hash over all that decides the trained weights. Cells that differ only in their evaluation share it."""
        card = self.card.decisive(training_only=True)
        settings = training_settings(self.settings, type(self.detector), self.detector.settings)
        return identities(settings, card, self.detector.version, self.cell.seed, self.dataset.fingerprint)[0]

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return self.detector.label + (" (weights from a file)" if self.detector.learned_from else "")

    @property
    def uses_textures(self) -> bool:
        """True if the method draws defects with pictures from a folder."""
        return self.detector.wants_textures(self.detector.settings)

    def folder(self, out: Path) -> Path:
        """Return the folder of the cell's checkpoint, model, panels and record.

        Args:
            out: Output folder of the run.

        Returns:
            The folder, whose name holds the start of the cell's identity.
        """
        experiment = self.cell.experiment
        return out / "cells" / f"{experiment.dataset}-{experiment.method}-seed{self.cell.seed}-{self.identity[:8]}"

    def facts(self) -> CellFacts:
        """Collect what the tracking store gets before the training.

        Returns:
            The facts of the cell, with its settings.
        """
        splits = {"train": len(self.dataset.train), "test": len(self.dataset.test), "files": self.dataset.files}
        return CellFacts(
            name=self.cell.name,
            dataset=self.dataset.name,
            identity=self.identity,
            protocol=self.protocol,
            experiment=self.cell.experiment.name,
            about=describe(self.label, self.dataset.name, self.cell.seed, self.card),
            fingerprint=self.dataset.fingerprint,
            profile=splits,
            params={"seed": str(self.cell.seed), **flat_settings(self.settings)},
            commit=source_commit()[0] or "",
        )

    def _environment(self) -> dict[str, Any]:
        """Describe the machine and the conditions of the cell."""
        machine = describe_environment(next(self.detector.parameters()).device)
        own = {IMAGES: self.dataset.own_name[:LONGEST_NAME]} if self.dataset.own_name else {}
        graphs = {"cuda_graphs": True} if self.graphs else {}
        return machine | own | {"cells_on_device": self.sharing, "compiled": self.compiled} | graphs

    def _cost(self, history: list[EpochLog], evaluation: Evaluation, measure_latency: bool) -> dict[str, float | None]:
        """Measure what the cell costs. A cell that shared its device has no times."""
        experiment, device = self.cell.experiment, next(self.detector.parameters()).device
        cost: dict[str, float | None] = {
            **training_speed(history),
            "metric_seconds": evaluation.metric_seconds,
            **peak_memory(device),  # before the next line, because that measurement is not part of the cell's work
            **size_and_speed(self.detector, experiment.image_size, experiment.precision),
        }
        if self.sharing > 1:
            return cost | dict.fromkeys(key for key in TIMES if key in cost)
        counter = EnergyCounter.of(device)
        cost |= energy(self.detector, experiment.image_size, experiment.precision, history, counter)
        if measure_latency:
            cost |= latency(self.detector, self.dataset.test, experiment.precision)
        return cost

    def record(
        self,
        history: list[EpochLog],
        evaluation: Evaluation,
        model_sha256: str,
        donor: Record | None = None,
        test_curve: list[CurvePoint] | None = None,
        measure_latency: bool = False,
    ) -> Record:
        """Create the record of the finished cell.

        A cell that shared its device has no times, because the other cells would influence them.

        Args:
            history: One entry for each epoch.
            evaluation: The results of the evaluation.
            model_sha256: Hash of the learned tensors.
            donor: Record of the cell whose trained model was used. Its cost of training counts. None if there is none.
            test_curve: Metrics of the test split after some epochs, if they were requested.
            measure_latency: True to measure latency and throughput. A cell that shares its device has none.

        Returns:
            The record.
        """
        cost = self._cost(history, evaluation, measure_latency)
        environment = self._environment()
        if donor is not None:
            cost |= {key: value for key, value in donor.cost.items() if key.startswith(("train_", "peak_"))}
            environment["trained_as"] = donor.identity
        return Record(
            identity=self.identity,
            protocol=self.protocol,
            status="finished",
            method=self.cell.experiment.method,
            label=self.label,
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
            further=records.nullable(evaluation.further),
            thresholds=evaluation.thresholds,
        )
