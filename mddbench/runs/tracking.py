"""Logs cells to MLflow: while they run, or from the record of a cell that ran elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mddbench.errors import TrackingError
from mddbench.experiments.ablation import is_ablation
from mddbench.interruption import closing
from mddbench.runs.card import ProtocolCard
from mddbench.runs.records import RECORD, EpochLog, Record, as_json
from mddbench.runs.store import IDENTITY_TAG, PREFIX, MlflowStore

BATCH = 100
"""Greatest number of parameters or metrics in one call of MLflow."""
RUN_FILE = "mlflow-run.json"
"""File in a cell's folder that names its store and its run. So only the cell's own run is resumed."""


@dataclass(frozen=True)
class CellFacts:
    """What the tracking store gets when a run starts.

    Attributes:
        name: Name of the run.
        dataset: Name of the dataset.
        identity: Identity of the cell.
        fingerprint: Fingerprint of the dataset.
        profile: Numbers that say how much of the dataset was read.
        params: Settings without nesting.
        tags: Protocol card, environment and code.
    """

    name: str
    dataset: str
    identity: str
    fingerprint: str
    profile: dict[str, int]
    params: dict[str, str]
    tags: dict[str, str]


def facts_of(record: Record) -> CellFacts:
    """Return the facts of a cell that finished elsewhere, from its record."""
    return CellFacts(
        name=f"{record.method}/{record.dataset}/seed{record.seed}"
        + (f" ({record.experiment})" if is_ablation(record.experiment) else ""),
        dataset=record.dataset,
        identity=record.identity,
        fingerprint=record.fingerprint,
        profile={"categories": len(record.categories)},
        params={"seed": str(record.seed), **flat_settings(record.settings)},
        tags=tags_of(record.card, record.environment, record.protocol, record.experiment),
    )


def tags_of(card: ProtocolCard, environment: Mapping[str, Any], protocol: str, experiment: str) -> dict[str, str]:
    """Return the tags of a run. `protocol` is the identity of the cell without its seed."""
    tags = {f"mddbench.card.{key}": _text(value) for key, value in card.texts().items()}
    tags |= {f"mddbench.environment.{key}": _text(value) for key, value in environment.items()}
    return tags | {"mddbench.protocol": protocol, "mddbench.experiment": experiment, "mddbench.status": "running"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to 'optimizer.lr' -> '0.005', with a prefix before each name."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


class CellRun(Protocol):
    """The run of a cell in a tracking store."""

    def epoch(self, log: EpochLog) -> None:
        """Log an epoch."""

    def finish(self, record: Record, files: list[Path]) -> None:
        """Log the record and the files of the finished cell, and end the run."""

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End the run of a cell that did not finish. The message says why."""


class Tracker(Protocol):
    """A tracking store for the runs of cells."""

    def start(self, facts: CellFacts, folder: Path | None) -> CellRun:
        """Start or resume the run of a cell. Its folder is None if it finished elsewhere."""

    def has(self, identity: str, folder: Path) -> bool:
        """Return True if the store has the finished run of the cell with this identity and folder."""

    def add(self, identity: str, files: list[Path]) -> None:
        """Add files to the finished run of a cell."""

    def close(self) -> None:
        """End everything that this command has started."""


class _NoRun:
    def epoch(self, log: EpochLog) -> None: ...
    def finish(self, record: Record, files: list[Path]) -> None: ...
    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None: ...


class NoTracker:
    """No tracking store, for `--tracking none`. Records stay in the output folder, and can be imported later."""

    def start(self, facts: CellFacts, folder: Path | None) -> CellRun:
        """Return a run that logs nothing."""
        return _NoRun()

    def has(self, identity: str, folder: Path) -> bool:
        """Return True, so that no cell is logged."""
        return True

    def add(self, identity: str, files: list[Path]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MlflowTracker:
    """Logs cells to MLflow.

    Each cell is a child run in the MLflow experiment of its suite and dataset. The parent run stands for this command.

    Attributes:
        store: The store.
        suite: Name of the suite.
        invocation: Name of the parent runs.
        say: Called with a message for the user.
        parents: Id of an MLflow experiment -> id of the parent run in it.
    """

    def __init__(
        self, store: MlflowStore, suite: str, invocation: str, say: Callable[[str], object] = lambda _: None
    ) -> None:
        """Prepare logging. The arguments become the attributes, and nothing is logged yet."""
        self.store, self.suite, self.invocation, self.say = store, suite, invocation, say
        self.parents: dict[str, str] = {}

    def has(self, identity: str, folder: Path) -> bool:
        """Return True if the store has a finished run of the cell, and no unfinished run that its folder names."""
        return bool(self.store.finished(identity)) and self._unfinished_run(identity, folder) is None

    def add(self, identity: str, files: list[Path]) -> None:
        """Add files to the newest finished run of a cell. They replace files of the same names."""
        for file in files:
            self.store.client.log_artifact(self.store.finished(identity)[0].info.run_id, str(file))

    def start(self, facts: CellFacts, folder: Path | None) -> CellRun:
        """Start a run for a cell, or resume its own interrupted run.

        Args:
            facts: What the store gets at the start.
            folder: Folder of the cell; None if it finished elsewhere.

        Returns:
            The run.
        """
        client, experiment = self.store.client, self.store.experiment(f"{PREFIX}/{self.suite}/{facts.dataset}")
        if experiment not in self.parents:
            parent = client.create_run(experiment, run_name=self.invocation, tags={"mddbench.kind": "invocation"})
            self.parents[experiment] = parent.info.run_id
        tags = {
            **facts.tags,
            "mddbench.kind": "cell",
            IDENTITY_TAG: facts.identity,
            "mlflow.parentRunId": self.parents[experiment],
        }
        interrupted = self._interrupted(facts.identity, folder)
        if interrupted is not None:
            return self._resumed(interrupted, tags)
        started = self._start_time(facts.identity)
        run_id = client.create_run(experiment, start_time=started, run_name=facts.name, tags=tags).info.run_id
        entities = self.store.mlflow.entities
        params = [entities.Param(key, value[:6000]) for key, value in facts.params.items()]
        for first in range(0, len(params), BATCH):
            client.log_batch(run_id, params=params[first : first + BATCH])
        client.log_inputs(run_id, datasets=[_dataset_input(self.store.mlflow, facts)])
        if folder is not None:
            partial = (folder / RUN_FILE).with_suffix(".part")
            partial.write_text(json.dumps({"uri": self.store.uri, "run": run_id}), encoding="utf-8")
            partial.replace(folder / RUN_FILE)  # so a killed process leaves a complete file or none
        return _MlflowCell(self.store, run_id, set())

    def close(self) -> None:
        """End the parent runs."""
        for parent in self.parents.values():
            self.store.client.set_terminated(parent)

    def _start_time(self, identity: str) -> int:
        """Return the present time in ms, or a later time if a finished run of the cell started later."""
        now = int(time.time() * 1000)
        return max([now, *(int(run.info.start_time) + 1 for run in self.store.finished(identity)[:1])])

    def _interrupted(self, identity: str, folder: Path | None) -> Any:
        """Return the cell's own unfinished run if it can be resumed, otherwise None."""
        run = self._unfinished_run(identity, folder)
        # If its artifacts lie elsewhere, the folder is a copy, and the run belongs to the original.
        return run if run is not None and self.store.holds_artifacts_of(run) else None

    def _unfinished_run(self, identity: str, folder: Path | None) -> Any:
        """Return the run of the folder's RUN_FILE if this store has it unfinished, otherwise None."""
        run_id = self._run_id(folder / RUN_FILE) if folder is not None else None
        if run_id is None:
            return None
        runs = self.store.search(f"tags.`{IDENTITY_TAG}` = '{identity}' AND attributes.status != 'FINISHED'")
        return next((run for run in runs if run.info.run_id == run_id), None)

    def _run_id(self, file: Path) -> str | None:
        """Read the id of the run from a RUN_FILE. A file that cannot be read is reported and ignored."""
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["run"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.say(f"{file}: cannot be read, so an interrupted run is not taken up again; the cell has a new run")
            return None

    def _resumed(self, run: Any, tags: dict[str, str]) -> CellRun:
        """Resume an interrupted run, with new tags."""
        client, run_id = self.store.client, run.info.run_id
        client.update_run(run_id, status="RUNNING")
        if "mddbench.error" in run.data.tags:
            client.delete_tag(run_id, "mddbench.error")
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        logged_epochs = {point.step for point in client.get_metric_history(run_id, "train/lr")}
        return _MlflowCell(self.store, run_id, logged_epochs)


class _MlflowCell:
    """The run of a cell in MLflow. `logged_epochs` are the numbers of the epochs that the store has."""

    def __init__(self, store: MlflowStore, run_id: str, logged_epochs: set[int]) -> None:
        self.store, self.run_id, self.logged_epochs = store, run_id, logged_epochs

    def epoch(self, log: EpochLog) -> None:
        """Log loss, loss terms, learning rate and speed of an epoch in one call, unless the store has the epoch."""
        if log.epoch in self.logged_epochs:
            return
        values = {"train/lr": log.lr} if log.loss is None else {"train/loss": log.loss, "train/lr": log.lr}
        if log.seconds is not None:
            values["train/images_per_second"] = log.images / log.seconds
        values.update({f"train/{name}": value for name, value in (log.terms | log.diagnostics).items()})
        self._log(values, log.epoch)
        self.logged_epochs.add(log.epoch)

    def finish(self, record: Record, files: list[Path]) -> None:
        """Log metrics, cost, test curve and files of a finished cell, and the epochs that the store does not have."""
        for log in record.history:
            self.epoch(log)
        for point in record.test_curve:
            curve = {f"test_curve/{key}": value for key, value in point.metrics.items() if value is not None}
            self._log(curve, point.epoch)
        names = metric_names(list(record.metrics))
        for group in (group for group, name in names.items() if name != group):
            self.store.client.set_tag(self.run_id, f"mddbench.metric_name.{names[group]}", group)
        flat = {
            f"{names[group]}/{key}": value for group, values in record.metrics.items() for key, value in values.items()
        }
        flat.update({f"cost/{key}": value for key, value in record.cost.items()})
        self._log({key: value for key, value in flat.items() if value is not None}, len(record.history))
        self.store.client.log_text(self.run_id, as_json(record), RECORD)
        for file in files:
            self.store.client.log_artifact(self.run_id, str(file))
        self.store.client.set_tag(self.run_id, "mddbench.status", "finished")
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End a run that did not finish. The next start of the cell resumes it."""
        self.store.client.set_tag(self.run_id, "mddbench.status", status.lower())
        self.store.client.set_tag(self.run_id, "mddbench.error", message[:5000])
        self.store.client.set_terminated(self.run_id, status)

    def _log(self, values: dict[str, float], step: int) -> None:
        """Log metrics at a step, with the present time."""
        now = int(time.time() * 1000)
        metrics = [self.store.mlflow.entities.Metric(key, value, now, step) for key, value in values.items()]
        for first in range(0, len(metrics), BATCH):
            self.store.client.log_batch(self.run_id, metrics=metrics[first : first + BATCH])


@contextmanager
def finally_closed(tracker: Tracker, say: Callable[[str], object]) -> Iterator[None]:
    """Close a tracker at the end of the `with` block, whatever happens inside.

    Args:
        tracker: The tracker.
        say: Called with a message if the store fails.

    Yields:
        Nothing. The tracker is used inside the block.
    """
    try:
        yield
    finally:
        with closing():
            try:
                tracker.close()
            except TrackingError as fault:
                say(f"the run of this command could not be closed: {fault}")


def log_finished(tracker: Tracker, facts: CellFacts, record: Record, files: list[Path]) -> None:
    """Log a cell that finished elsewhere. If that is interrupted or fails, its run ends as KILLED or FAILED."""
    run = tracker.start(facts, None)
    try:
        run.finish(record, files)
    except BaseException as fault:
        with closing(), suppress(TrackingError):
            run.stop("FAILED" if isinstance(fault, Exception) else "KILLED", str(fault) or "interrupted")
        raise


def metric_names(categories: list[str]) -> dict[str, str]:
    """Find a name for each category that MLflow allows in the key of a metric. The names are all different.

    MLflow allows letters and digits of all scripts, '_', '-', '.' and spaces. Other characters become '_'.
    A category without any letter or digit is named by its position and a hash. The tags of a run hold the true names.

    >>> metric_names(["schüssel", "螺丝", "nut (big)", "nut [big]"])
    {'schüssel': 'schüssel', '螺丝': '螺丝', 'nut (big)': 'nut _big_', 'nut [big]': 'nut _big_-2'}

    Args:
        categories: Names of the categories.

    Returns:
        Category -> allowed name.
    """
    plain: dict[str, str] = {}
    for position, category in enumerate(categories):
        name = re.sub(r"^\.\.|[^\w\-. ]", "_", unicodedata.normalize("NFC", category))
        readable = any(character.isalnum() for character in name)
        plain[category] = (
            name if readable else f"category-{position}-{hashlib.sha256(category.encode()).hexdigest()[:8]}"
        )
    unchanged = {name for category, name in plain.items() if name == category}
    names: dict[str, str] = {}
    for category, name in plain.items():
        number, candidate = 1, name
        while candidate != category and (candidate in unchanged or candidate in names.values()):
            number += 1
            candidate = f"{name}-{number}"
        names[category] = candidate
    return names


def _dataset_input(mlflow: Any, facts: CellFacts) -> Any:
    """Describe the dataset for MLflow: its name, the start of its fingerprint as digest, and how much was read."""
    entity = mlflow.entities.Dataset(
        name=facts.dataset,
        digest=facts.fingerprint[:32],
        source_type="local",
        source=json.dumps({"fingerprint": facts.fingerprint}),
        profile=json.dumps(facts.profile),
    )
    tag = mlflow.entities.InputTag(key="mlflow.data.context", value="training and evaluation")
    return mlflow.entities.DatasetInput(dataset=entity, tags=[tag])
