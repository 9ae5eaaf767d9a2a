"""Logs cells to MLflow: while they run, or from the record of a cell that ran elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from getpass import getuser
from pathlib import Path
from typing import Any, Literal

from mddbench.errors import TrackingError
from mddbench.interruption import closing
from mddbench.metrics.names import MEAN
from mddbench.runs.addresses import PREFIX
from mddbench.runs.facts import CellFacts, category_table, facts_of, results_row
from mddbench.runs.leases import Owner
from mddbench.runs.records import RECORD, EpochLog, Record, as_json
from mddbench.runs.store import CELL, IDENTITY_TAG, KIND_TAG, MlflowStore
from mddbench.runs.system_metrics import Monitor

NOTE_TAG, TABLES_TAG = "mlflow.note.content", "mlflow.loggedArtifacts"
"""Tags of MLflow: the description of a run, and which of its artifacts are tables."""
BATCH = 100
"""Greatest number of parameters or metrics in one call of MLflow."""
PROCESS_TAG = "mddbench.process"
"""Tag that says which process logs a run. What a killed one left RUNNING is ended by the next."""
RUN_FILE = "mlflow-run.json"
"""File in a cell's folder that names its store and its run. So only the cell's own run is resumed."""
COMMAND_TAG, PROTOCOL_TAG, EXPERIMENT_TAG = "mddbench.command", "mddbench.protocol", "mddbench.experiment"
"""Tags by which runs are grouped: the command that logged them, the row of a table (all its seeds), the experiment."""
CARD, CATEGORIES = "card.json", "categories.json"
"""Artifacts: the protocol card with the environment, and the table of the metrics of each category."""


class MlflowTracker:
    """Logs cells to MLflow.

    Each cell is a run in the MLflow experiment of its suite and dataset. Runs of one command share a tag.

    Attributes:
        store: The store.
        suite: Name of the suite.
        command: The command and its time, as in 'run 2026-11-30 12.00.00'.
        say: Called with a message for the user.
        kind: CELL, or TRIAL for the trials of a search.
        system_metrics: True to measure the machine while a cell runs on it.
    """

    def __init__(
        self,
        store: MlflowStore,
        suite: str,
        command: str,
        say: Callable[[str], object] = lambda _: None,
        kind: str = CELL,
        system_metrics: bool = False,
    ) -> None:
        """Prepare logging. Nothing is logged yet.

        Args:
            store: The store.
            suite: Name of the suite.
            command: The command and its time.
            say: Called with a message for the user.
            kind: CELL, or TRIAL for the trials of a search.
            system_metrics: True to measure the machine while a cell runs on it.
        """
        self.store, self.suite, self.command, self.say, self.kind = store, suite, command, say, kind
        self.system_metrics = system_metrics
        self.process = json.dumps(vars(Owner.this_process()))

    def end_abandoned(self) -> None:
        """End as KILLED what is RUNNING in the store and whose process on this machine has ended."""
        for run in self.store.search("attributes.status = 'RUNNING'"):
            try:
                owner = Owner(**json.loads(run.data.tags.get(PROCESS_TAG, "")))
            except (ValueError, TypeError):
                continue
            if owner.is_dead:
                self.store.client.set_tag(run.info.run_id, "mddbench.error", "its process was killed")
                self.store.client.set_terminated(run.info.run_id, "KILLED")

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
        client, experiment = self.store.client, self._experiment(facts.dataset)
        interrupted = self._interrupted(facts.identity, folder)
        if interrupted is not None:
            run = self._resumed(interrupted, self._tags(facts))
        else:
            started = self._start_time(facts.identity)
            created = client.create_run(experiment, start_time=started, run_name=facts.name, tags=self._tags(facts))
            run = CellRun(self.store, created.info.run_id, set())
            self._log_facts(run.run_id, facts)
            if folder is not None:
                self._note(run.run_id, folder)
        if self.system_metrics and folder is not None and not (folder / RECORD).exists():
            try:
                run.monitor = Monitor(self.store, run.run_id)
            except TrackingError as fault:
                self.say(f"{facts.name}: {fault}; it is logged without that")
        return run

    def _experiment(self, dataset: str) -> str:
        """Return the id of the MLflow experiment of the suite and a dataset."""
        about = (
            f"Cells of mddbench on {dataset}, suite '{self.suite}'. Group the runs by the tag {PROTOCOL_TAG} to see the "
            f"rows of a table, each the mean over its seeds, or by {COMMAND_TAG}."
        )
        return self.store.experiment(f"{PREFIX}/{self.suite}/{dataset}", about)

    def _tags(self, facts: CellFacts) -> dict[str, str]:
        """Return the tags of a cell: MLflow's own, which its pages show, and a few of this package."""
        tags = {
            KIND_TAG: self.kind,
            IDENTITY_TAG: facts.identity,
            PROTOCOL_TAG: facts.protocol,
            EXPERIMENT_TAG: facts.experiment,
            COMMAND_TAG: self.command,
            PROCESS_TAG: self.process,
            "mlflow.source.name": f"mddbench {self.command.partition(' ')[0]}",
            "mlflow.source.type": "LOCAL",
            NOTE_TAG: facts.about,
        }
        if facts.commit:
            tags["mlflow.source.git.commit"] = facts.commit
        with suppress(OSError, KeyError, ImportError):  # an account without a name
            tags["mlflow.user"] = getuser()
        return tags

    def _log_facts(self, run_id: str, facts: CellFacts) -> None:
        """Log settings and dataset of a new run."""
        client, entities = self.store.client, self.store.mlflow.entities
        params = [entities.Param(key, value[:6000]) for key, value in facts.params.items()]
        for first in range(0, len(params), BATCH):
            client.log_batch(run_id, params=params[first : first + BATCH])
        client.log_inputs(run_id, datasets=[_dataset_input(self.store.mlflow, facts)])

    def _note(self, run_id: str, folder: Path) -> None:
        """Write into a cell's folder which run is its own."""
        partial = (folder / RUN_FILE).with_suffix(".part")
        with suppress(FileNotFoundError):  # the folder has just been moved, or removed
            partial.write_text(json.dumps({"uri": self.store.uri, "run": run_id}), encoding="utf-8")
            partial.replace(folder / RUN_FILE)  # so a killed process leaves a complete file or none

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
        return CellRun(self.store, run_id, logged_epochs)


class CellRun:
    """The run of a cell in MLflow.

    Attributes:
        store: The store.
        run_id: Id of the run.
        logged_epochs: Numbers of the epochs that the store has.
        monitor: Measures the machine; None if nothing does.
    """

    def __init__(self, store: MlflowStore, run_id: str, logged_epochs: set[int]) -> None:
        self.store, self.run_id, self.logged_epochs = store, run_id, logged_epochs
        self.monitor: Monitor | None = None

    def epoch(self, log: EpochLog) -> None:
        """Log loss, loss terms, learning rate and speed of an epoch in one call, unless the store has the epoch.

        Args:
            log: The measurements.
        """
        if log.epoch in self.logged_epochs:
            return
        values = {"train/lr": log.lr} if log.loss is None else {"train/loss": log.loss, "train/lr": log.lr}
        if log.seconds is not None:
            values["train/images_per_second"] = log.images / log.seconds
        values.update({f"train/{name}": value for name, value in (log.terms | log.diagnostics).items()})
        self._log(values, log.epoch)
        self.logged_epochs.add(log.epoch)

    def finish(self, record: Record, files: list[Path]) -> None:
        """Log metrics, cost, test curve and files of a finished cell, and the epochs that the store does not have.

        Args:
            record: Record of the cell.
            files: Files that become artifacts of the run.
        """
        self._stop_monitor()
        values = {f"{MEAN}/{key}": value for key, value in _means(record).items()}
        values.update({f"resources/{key}": value for key, value in record.cost.items()})
        self._log({key: value for key, value in values.items() if value is not None}, len(record.history))
        for log in record.history:
            self.epoch(log)
        for point in record.test_curve:
            curve = {f"test_curve/{key}": value for key, value in point.metrics.items() if value is not None}
            self._log(curve, point.epoch)
        client, about = self.store.client, facts_of(record).about
        client.set_tag(self.run_id, NOTE_TAG, f"{about}\n\n{results_row(record)}")
        card = {"card": record.card.texts(), "environment": record.environment}
        client.log_text(self.run_id, json.dumps(card, indent=1, ensure_ascii=False), CARD)
        client.log_text(self.run_id, json.dumps(category_table(record), ensure_ascii=False), CATEGORIES)
        client.set_tag(self.run_id, TABLES_TAG, json.dumps([{"path": CATEGORIES, "type": "table"}]))
        client.log_text(self.run_id, as_json(record), RECORD)
        for file in files:
            self.store.client.log_artifact(self.run_id, str(file))
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End a run that did not finish. The next start of the cell resumes it.

        Args:
            status: 'FAILED' after an error, 'KILLED' after an interruption.
            message: The reason in one line.
        """
        self._stop_monitor()
        self.store.client.set_tag(self.run_id, "mddbench.error", message[:5000])
        self.store.client.set_terminated(self.run_id, status)

    def _stop_monitor(self) -> None:
        monitor, self.monitor = self.monitor, None
        if monitor is not None:
            monitor.stop()

    def _log(self, values: dict[str, float], step: int) -> None:
        """Log metrics at a step, with the present time."""
        now = int(time.time() * 1000)
        metrics = [self.store.mlflow.entities.Metric(key, value, now, step) for key, value in values.items()]
        for first in range(0, len(metrics), BATCH):
            self.store.client.log_batch(self.run_id, metrics=metrics[first : first + BATCH])


def _means(record: Record) -> dict[str, float | None]:
    """Return the means over the categories: the seven metrics first, then the further ones."""
    return {**record.metrics[MEAN], **record.further.get(MEAN, {})}


def log_finished(
    tracker: MlflowTracker, facts: CellFacts, record: Record, files: list[Path], folder: Path | None = None
) -> None:
    """Log a cell that finished elsewhere. If that is interrupted or fails, its run ends as KILLED or FAILED.

    Args:
        tracker: The tracking store.
        facts: What the store gets at the start.
        record: Record of the cell.
        files: Files that become artifacts of the run.
        folder: Folder of the cell, whose unfinished run is taken up; None for a new run.
    """
    run = tracker.start(facts, folder)
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
