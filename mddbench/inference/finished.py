"""A finished cell as a model that scores new images: it is found by its name and loaded from its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.foreign import ALL_CATEGORIES
from mddbench.engine.inference import infer
from mddbench.errors import InputError
from mddbench.execution.grouping import Models, divided, model_of, per_model
from mddbench.execution.model_file import MODEL, State, read_model, state_of
from mddbench.experiments.schema import EncoderSettings
from mddbench.nn.encoder import load_encoder
from mddbench.runs.records import RECORD, Record, read_record
from mddbench.settings import validated
from mddbench.sizes import ImageSize, demand_size

RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_cell(name: str, out: Path, seed: int | None = None, tracking_uri: str | None = None) -> Path:
    """Find the folder of a finished cell.

    Args:
        name: The folder itself, an experiment's name such as 'mini/rd4ad', or the id of a run in MLflow.
        out: Output folder of the runs.
        seed: Seed of the cell. Without it the lowest seed of the experiment is taken.
        tracking_uri: The tracking store, for the id of a run; None for the default one.

    Returns:
        The folder.

    Raises:
        InputError: If there is no such cell, or several differ in more than their seed.
    """
    if (Path(name) / RECORD).is_file():
        return Path(name)
    if Path(name).is_dir():
        raise InputError(f"{name}: no finished cell, since it holds no {RECORD}; give a folder below OUT/cells")
    cells, faults = _readable_cells(out)
    left_out = f"; left out: {faults[0]}" + (f", and {len(faults) - 1} more" if faults[1:] else "") if faults else ""
    if RUN_ID.fullmatch(name):
        identity = _identity_of_run(name, out, tracking_uri)
        found = {folder: record for folder, record in cells.items() if record.identity == identity}
        if not found:
            raise InputError(
                f"run {name}: its cell is not in {out / 'cells'}; give the folder of its run by --out{left_out}"
            )
    else:
        found = {folder: record for folder, record in cells.items() if record.experiment == name}
        if not found:
            known = sorted({record.experiment for record in cells.values()})
            held = f"; there are {', '.join(known)}" if known else "; `mddbench run` makes some"
            raise InputError(f"{name}: no finished cell of that name in {out / 'cells'}{held}{left_out}")
    wanted = min(record.seed for record in found.values()) if seed is None else seed
    chosen = [folder for folder, record in found.items() if record.seed == wanted]
    if not chosen:
        seeds = ", ".join(str(record.seed) for record in found.values())
        raise InputError(
            f"{name}: no finished cell with seed {wanted} in {out / 'cells'}; seeds there: {seeds}{left_out}"
        )
    if len(chosen) > 1:
        raise InputError(
            f"{name}: {len(chosen)} cells with seed {wanted} differ in their settings; give the folder of one: "
            f"{', '.join(map(str, chosen))}"
        )
    return chosen[0]


@dataclass(frozen=True)
class FinishedModel:
    """The trained model of a finished cell, or its models for each category.

    Attributes:
        folder: Folder of the cell.
        record: Record of the cell.
        detector: The network, in evaluation mode.
        states: Category -> learned state of its model, for several models; empty if one model serves all categories.
        loaded: The category whose state the network has; empty at first. It changes with the images.
    """

    folder: Path
    record: Record
    detector: Detector
    states: dict[str, State]
    loaded: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path, device: torch.device, weights_dir: Path | None = None) -> FinishedModel:
        """Load the model of a finished cell. No code in a file is executed.

        Args:
            folder: Folder of the cell.
            device: Device of the model.
            weights_dir: Folder of encoder weights, or their file; None for a package or timm's hub.

        Returns:
            The model.

        Raises:
            InputError: If a file is missing or damaged, or the encoder's weights are not those of the record.
        """
        record = read_record(folder / RECORD)
        detector = _network(record, folder, weights_dir).to(device).to(memory_format=torch.channels_last)
        flat, fault = read_model(folder / MODEL, record)
        if flat is None:
            raise InputError(f"{folder / MODEL}: {fault}; run the cell again with --force")
        models, unified = _models(record), record.card.unified
        states = {} if unified else {category: state_of(flat, name) for category, name in model_of(models).items()}
        if unified:
            _load_state(detector, state_of(flat, ALL_CATEGORIES), folder)
        detector.eval()
        return cls(folder, record, detector, states)

    @property
    def image_size(self) -> ImageSize:
        """The size of its images."""
        return demand_size(self.record.settings["image_size"], f"{self.folder / RECORD}: image_size")

    @property
    def needs_category(self) -> bool:
        """True if the model can score an image only if it is told its category."""
        return bool(self.states) or self.detector.wants_test_labels

    def choose(self, category: str | None) -> int:
        """Return the index of a category.

        Args:
            category: Name of the category; None if it is not known.

        Returns:
            Index of the category; 0 if it is not known.

        Raises:
            InputError: If the category is unknown, or not told to a model that needs it.
        """
        if category is None:
            if self.needs_category:
                alone = per_model(_models(self.record)) == 1
                several = "separate models for each category" if alone else "several models"
                reason = several if self.states else "a method that is told the category"
                raise InputError(f"{self.folder}: {reason}, so give --category, one of {self._known}")
            return 0
        if category not in self.record.categories:
            raise InputError(f"category '{category}': expected one of {self._known}")
        return self.record.categories.index(category)

    def score(self, pixels: NDArray[np.uint8], category: int = 0) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Score decoded images.

        Args:
            pixels: (B, H, W, 3) uint8, RGB, of the model's image size.
            category: Index from `choose`.

        Returns:
            Anomaly maps (B, H, W) and image scores (B,).
        """
        if self.states and self.loaded != [name := self.record.categories[category]]:
            _load_state(self.detector, self.states[name], self.folder)
            self.loaded[:] = [name]
        within_model = category % per_model(_models(self.record))
        return infer(self.detector, pixels, str(self.record.settings["precision"]), within_model).wait()

    @property
    def _known(self) -> str:
        return ", ".join(self.record.categories)


def _readable_cells(out: Path) -> tuple[dict[Path, Record], list[str]]:
    """Return folder -> record of all finished cells, and a line for each record that cannot be read."""
    cells, faults = dict[Path, Record](), list[str]()
    for file in sorted((out / "cells").glob(f"*/{RECORD}")):
        try:
            cells[file.parent] = read_record(file)
        except InputError as fault:
            faults.append(str(fault))
    return cells, faults


def _network(record: Record, folder: Path, weights_dir: Path | None) -> Detector:
    """Build the network of a record, with the weights of its encoder."""
    source = str(folder / RECORD)
    method = load_method(record.method)
    if record.card.method_version != method.version:
        raise InputError(
            f"{source}: made by version {record.card.method_version} of {record.method}, here is version "
            f"{method.version}, which may score differently; run the cell again"
        )
    settings = method_settings(method, record.settings["settings"], source)
    teacher = validated(EncoderSettings, record.settings["encoder"], f"{source}: encoder")
    sha256 = record.card.encoder_sha256 or teacher.sha256
    encoder = load_encoder(teacher.name, teacher.levels, weights_dir, sha256, **teacher.options)
    return method(encoder, settings, per_model(_models(record)))


def _models(record: Record) -> Models:
    """Return the models of a record and their categories."""
    setting = "unified" if record.card.unified else "separate"
    return divided(record.categories, setting, record.settings.get("categories_per_model"))


def _load_state(detector: Detector, state: State, folder: Path) -> None:
    try:
        detector.load_learned_state(state)
    except RuntimeError as fault:
        raise InputError(f"{folder / MODEL}: {str(fault).splitlines()[0]}; run the cell again with --force") from None


def _identity_of_run(run_id: str, out: Path, tracking_uri: str | None) -> str:
    """Return the identity of the cell of a finished run."""
    from mddbench.runs.store import IDENTITY_TAG, existing_store

    store = existing_store(tracking_uri, out)
    for run in store.finished():
        if run.info.run_id == run_id:
            return str(run.data.tags.get(IDENTITY_TAG))
    raise InputError(f"run {run_id}: no finished run of that id in {store.uri}")
