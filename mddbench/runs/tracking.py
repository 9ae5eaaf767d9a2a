"""Logs cells to MLflow: while they run, or from the record of a cell that ran elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from mddbench.errors import TrackingError
from mddbench.interruption import closing
from mddbench.runs.addresses import PREFIX
from mddbench.runs.facts import CellFacts, metric_names
from mddbench.runs.records import RECORD, EpochLog, Record, as_json
from mddbench.runs.store import CELL, IDENTITY_TAG, KIND_TAG, MlflowStore

BATCH = 100
"""Greatest number of parameters or metrics in one call of MLflow."""
RUN_FILE = "mlflow-run.json"
"""File in a cell's folder that names its store and its run. So only the cell's own run is resumed."""


class CellRun(Protocol):
    """The run of a cell in a tracking store."""

    def epoch(self, log: EpochLog) -> None:
        """Log the measurements of an epoch.

        Args:
            log: The measurements.
        """

    def finish(self, record: Record, files: list[Path]) -> None:
        """Log the record and the files of the finished cell, and end the run.

        Args:
            record: Record of the cell.
            files: Files that become artifacts of the run.
        """

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End the run of a cell that did not finish.

        Args:
            status: 'FAILED' after an error, 'KILLED' after an interruption.
            message: The reason in one line.
        """


class Tracker(Protocol):
    """A tracking store for the runs of cells."""

    def start(self, facts: CellFacts, folder: Path | None) -> CellRun:
        """Start or resume the run of a cell.

        Args:
            facts: What the store gets at the start.
            folder: Folder of the cell; None if it finished elsewhere.

        Returns:
            The run.
        """

    def has(self, identity: str, folder: Path) -> bool:
        """Check whether the store has the finished run of a cell.

        Args:
            identity: Identity of the cell.
            folder: Folder of the cell.

        Returns:
            True if it has the run, so that the cell need not be logged.
        """

    def add(self, identity: str, files: list[Path]) -> None:
        """Add files to the finished run of a cell.

        Args:
            identity: Identity of the cell.
            files: The files.
        """

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
        kind: CELL, or TRIAL for the trials of a search.
        parents: Id of an MLflow experiment -> id of the parent run in it.
    """

    def __init__(
        self,
        store: MlflowStore,
        suite: str,
        invocation: str,
        say: Callable[[str], object] = lambda _: None,
        kind: str = CELL,
    ) -> None:
        """Prepare logging. Nothing is logged yet.

        Args:
            store: The store.
            suite: Name of the suite.
            invocation: Name of the parent runs.
            say: Called with a message for the user.
            kind: CELL, or TRIAL for the trials of a search.
        """
        self.store, self.suite, self.invocation, self.say, self.kind = store, suite, invocation, say, kind
        self.parents: dict[str, str] = {}

    def has(self, identity: str, folder: Path) -> bool:
        """Check whether the store has the finished run of a cell.

        Args:
            identity: Identity of the cell.
            folder: Folder of the cell.

        Returns:
            True if there is a finished run, and no unfinished run that the folder names.
        """
        return bool(self.store.finished(identity, self.kind)) and self._unfinished_run(identity, folder) is None

    def add(self, identity: str, files: list[Path]) -> None:
        """Add files to the newest finished run of a cell. They replace files of the same names.

        Args:
            identity: Identity of the cell.
            files: The files.
        """
        for file in files:
            self.store.client.log_artifact(self.store.finished(identity, self.kind)[0].info.run_id, str(file))

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
            parent = client.create_run(experiment, run_name=self.invocation, tags={KIND_TAG: "invocation"})
            self.parents[experiment] = parent.info.run_id
        tags = {
            **facts.tags,
            KIND_TAG: self.kind,
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
        return max([now, *(int(run.info.start_time) + 1 for run in self.store.finished(identity, self.kind)[:1])])

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
    """Log a cell that finished elsewhere. If that is interrupted or fails, its run ends as KILLED or FAILED.

    Args:
        tracker: The tracking store.
        facts: What the store gets at the start.
        record: Record of the cell.
        files: Files that become artifacts of the run.
    """
    run = tracker.start(facts, None)
    try:
        run.finish(record, files)
    except BaseException as fault:
        with closing(), suppress(TrackingError):
            run.stop("FAILED" if isinstance(fault, Exception) else "KILLED", str(fault) or "interrupted")
        raise


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
