"""A frozen plan: cells with all their settings and identities, in one file from which any engine can run them.

A plan is made where the data and the weights are. It decodes images, fetches weights and builds each model once.
`mddbench run` makes one, too.
So a process that runs a part of it finds everything, downloads nothing, and can tell that its data are the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from mddbench.data.dataset import Dataset
from mddbench.detector import Detector
from mddbench.execution.arranged import arranged
from mddbench.execution.cells import Cell, Prepared
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import Datasets, check_cells, training_key
from mddbench.experiments.schema import Experiment
from mddbench.progress import Reporter
from mddbench.runs.bounds import LONGEST_TEXT, Natural
from mddbench.runs.environment import source_digest
from mddbench.runs.records import Hash
from mddbench.settings import Strict, read_json, validated
from mddbench.version import VERSION

RUN_PLAN = Path("cells") / "plan.json"
"""Where `mddbench run` writes its plan, below its output folder."""
MOST_PARTS = 100_000
PATHS = ("out", "cache", "data_root", "weights_dir", "textures")
"""The options that are folders or files."""
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class FrozenOptions(Strict):
    """The options of a run on which its results or its folders depend. Paths are absolute."""

    out: Text = Field(description="Output folder.")
    cache: Text = Field(description="Folder of decoded images.")
    data_root: Text | None = Field(description="Folder of the dataset, or of datasets.")
    weights_dir: Text | None = Field(description="Folder of encoder weights, or a weights file.")
    textures: Text | None = Field(description="Folder of pictures for drawn defects.")
    resamples: Natural = Field(description="Number of bootstrap samples.")
    held_out: bool = Field(description="True to train and evaluate on training images only.")
    development: bool = Field(description="True if settings are chosen on the test images.")
    test_curve: Natural = Field(description="Number of epochs between two evaluations on the test split; 0 for none.")
    keep_maps: bool = Field(description="True to keep the anomaly maps.")
    feature_room: Annotated[float, Field(ge=0, le=1e6)] = Field(description="GiB for cached features.")
    compiling: bool = Field(description="True to compile the steps of long trainings.")
    cuda_graphs: bool = Field(False, description="True to record the kernels of training steps as CUDA graphs.")
    latency: bool = Field(description="True to measure the latency of single images and the throughput.")
    checkpoint_every: Natural = Field(
        description="Number of steps between two checkpoints inside an epoch; 0 for none."
    )
    name: Text | None = Field(default=None, description="What a report calls a user's own images.")
    all_images: bool = Field(default=False, description="True to keep every test image with its map for the page.")

    @classmethod
    def of(cls, options: RunOptions) -> FrozenOptions:
        """Freeze the options of a run."""
        values: dict[str, Any] = {name: getattr(options, name) for name in cls.model_fields}
        values |= {name: None if values[name] is None else str(values[name].absolute()) for name in PATHS}
        return cls(**values)

    def thawed(self, device: torch.device, sharing: int = 1, force: bool = False, prepared: bool = False) -> RunOptions:
        """Return the options of a run on a device.

        Args:
            device: The device.
            sharing: Number of parts that run on it at the same time. They share the room for cached features.
            force: True to run finished cells again.
            prepared: True to use only images that are decoded.

        Returns:
            The options.
        """
        values: dict[str, Any] = self.model_dump() | {"feature_room": self.feature_room / sharing}
        values |= {name: None if values[name] is None else Path(values[name]) for name in PATHS}
        return RunOptions(**values, device=device, sharing=sharing, force=force, prepared=prepared)


class FrozenCell(Strict):
    """A cell of a plan."""

    name: Text = Field(description="Name of the cell.")
    experiment: Experiment = Field(description="The experiment with all its settings.")
    seed: Natural = Field(description="The seed.")
    identity: Hash = Field(description="The identity that the cell has where the plan was made.")
    folder: Annotated[str, Field(max_length=LONGEST_TEXT, pattern=r"^cells/[^/\\]+$")] = Field(
        description="Its folder in the output folder."
    )


class FrozenPlan(Strict):
    """Cells that wait to be run, and how.

    A plan that names plug-in folders runs their code, so a plan is to be trusted as a program is.
    """

    version: Literal[2] = Field(description="Version of this format.")
    mddbench: Text = Field(description="Version of mddbench.")
    source: Text = Field(description="Digest of the code that made the plan.")
    suite: Text = Field(description="Name of the suite, or 'named'.")
    trials: bool = Field(False, description="True if the cells are trials of a search, which are in no report.")
    plugins: tuple[Text, ...] = Field(description="Plug-in folders.")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = Field(
        description="Device of the models."
    )
    options: FrozenOptions = Field(description="Options of the run.")
    parts: Annotated[tuple[tuple[FrozenCell, ...], ...], Field(max_length=MOST_PARTS)] = Field(
        description="A cell, or cells that share a trained model, one after another. A part is run by one process."
    )

    def cells(self) -> list[FrozenCell]:
        """Return all cells in their order."""
        return [cell for part in self.parts for cell in part]

    def folder(self, cell: FrozenCell) -> Path:
        """Return the folder of a cell."""
        return Path(self.options.out) / cell.folder


def freeze(
    cells: Sequence[Cell], options: RunOptions, device: str, suite: str, plugins: Sequence[Path], reporter: Reporter
) -> tuple[FrozenPlan, Datasets]:
    """Check cells, prepare all that they need, and freeze them.

    An InputError is raised for the first problem, as in a run.

    Args:
        cells: The cells.
        options: Options of the run.
        device: Device of the models, as on the command line.
        suite: Name of the suite, or 'named'.
        plugins: Plug-in folders.
        reporter: Shows the progress.

    Returns:
        The plan, and the opened datasets.
    """
    frozen: dict[int, FrozenCell] = {}

    def freeze_cells(experiment: Experiment, detector: Detector, dataset: Dataset) -> None:
        for cell in cells:
            if cell.experiment == experiment:
                prepared = Prepared.of(cell, detector, arranged(dataset, experiment, cell.seed))
                folder = prepared.folder(Path()).as_posix()
                frozen[id(cell)] = FrozenCell(
                    name=cell.name, experiment=experiment, seed=cell.seed, identity=prepared.identity, folder=folder
                )

    datasets = check_cells(list(cells), options, reporter, freeze_cells)
    content = {
        "version": 2,
        "mddbench": VERSION,
        "source": source_digest(),
        "suite": suite,
        "plugins": [str(folder.absolute()) for folder in plugins],
        "device": device,
        "options": FrozenOptions.of(options).model_dump(mode="json"),
        "parts": [[frozen[id(cell)].model_dump(mode="json") for cell in chain] for chain in chains(list(cells))],
    }
    return validated(FrozenPlan, content, "plan"), datasets


def chains(cells: list[Cell]) -> list[list[Cell]]:
    """Group cells that share a trained model. A group runs in one process, one cell after another.

    Args:
        cells: The cells.

    Returns:
        The groups, in the order of their first cells.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(training_key(cell), []).append(cell)
    return list(groups.values())


def write_plan(plan: FrozenPlan, out: Path) -> Path:
    """Write the plan of a run into its output folder. An earlier one is replaced.

    Args:
        plan: The plan.
        out: Output folder.

    Returns:
        The file.
    """
    file = out / RUN_PLAN
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.part")
    partial.write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(file)
    return file


def read_plan(file: Path) -> FrozenPlan:
    """Read a plan from a file. Its content is checked: no cell lies outside of the output folder.

    An InputError is raised if the file cannot be read or its content does not fit.

    Args:
        file: The file.

    Returns:
        The plan.
    """
    return validated(FrozenPlan, read_json(file, "a plan", "make one by `mddbench plan`"), str(file))
