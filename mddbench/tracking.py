"""Runs go to MLflow as they happen, and come back from it as records. MLflow is imported only when a store is opened."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from mddbench.errors import InputError
from mddbench.panels import Panel, load_panels
from mddbench.records import EpochLog, Record, as_json, parse_record

IDENTITY_TAG = "mddbench.identity"
PREFIX = "mddbench"
BATCH = 100


@dataclass(frozen=True)
class CellFacts:
    """What a run is called and says of itself before it starts.

    profile: how much of the dataset was read; params: flat settings; tags: protocol card, environment and code.
    """

    name: str
    dataset: str
    identity: str
    fingerprint: str
    profile: dict[str, int]
    params: dict[str, str]
    tags: dict[str, str]


class CellRun(Protocol):
    """One cell's run in a store."""

    def epoch(self, log: EpochLog) -> None: ...
    def finish(self, record: Record, files: list[Path]) -> None: ...
    def fail(self, message: str) -> None: ...


class Tracker(Protocol):
    """Where runs are logged."""

    def start(self, facts: CellFacts) -> CellRun: ...
    def has(self, identity: str) -> bool: ...
    def close(self) -> None: ...


class _Nothing:
    def epoch(self, log: EpochLog) -> None: ...
    def finish(self, record: Record, files: list[Path]) -> None: ...
    def fail(self, message: str) -> None: ...


class NoTracker:
    """`--tracking none`: records stay in the output folder, to be imported later."""

    def start(self, facts: CellFacts) -> CellRun:
        return _Nothing()

    def has(self, identity: str) -> bool:
        return True

    def close(self) -> None: ...


class MlflowStore:
    """An MLflow tracking store by URI, migrated on opening so that workers started later find it ready."""

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        """artifacts: the folder for artifacts of a local store; None lets a server decide.

        Raises InputError if MLflow is missing or the store cannot be opened.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            self.mlflow: Any = import_module("mlflow")
        except ImportError:
            raise InputError("MLflow is not installed; pip install mlflow, or run with --tracking none") from None
        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri, self.artifacts = uri, artifacts
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).resolve().parent.mkdir(parents=True, exist_ok=True)
        try:
            self.client: Any = self.mlflow.MlflowClient(uri)
            self.client.search_experiments(max_results=1)
        except Exception as fault:
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise InputError(
                f"tracking store {uri}: cannot be opened ({reason[:200]}); give a database or server by --tracking-uri, "
                "as in sqlite:///mlflow.db, or run with --tracking none"
            ) from None

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is created if it is not there."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = (self.artifacts / name.replace("/", "-")).resolve().as_uri() if self.artifacts else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def search(self, condition: str) -> list[Any]:
        """All our runs, in all experiments, that meet a condition; newest first."""
        experiments = self.client.search_experiments(filter_string=f"name LIKE '{PREFIX}/%'")
        identities = [experiment.experiment_id for experiment in experiments]
        if not identities:
            return []
        runs: list[Any] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                identities, filter_string=condition, order_by=["attributes.start_time DESC"], page_token=token
            )
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def records(self) -> Iterator[tuple[str, Record]]:
        """(run id, record) of every finished cell, the newest run of each cell only, oldest first."""
        seen: set[str] = set()
        found: list[tuple[str, Record]] = []
        for run in self.search("attributes.status = 'FINISHED'"):
            identity = run.data.tags.get(IDENTITY_TAG)
            if identity is not None and identity not in seen:
                seen.add(identity)
                with self._artifact(run.info.run_id, "record.json") as file:
                    if file is None:
                        raise InputError(
                            f"{self.uri}: run {run.info.run_id} has no record.json at {run.info.artifact_uri}; "
                            "if the folder was moved, `mddbench report --records OUT` reads the records in it"
                        )
                    text = file.read_text(encoding="utf-8")
                found.append((run.info.run_id, parse_record(text, f"run {run.info.run_id}: record.json")))
        yield from reversed(found)

    def panels(self, run_id: str) -> tuple[Panel, ...]:
        """The panels that a run kept; none if it was imported without them."""
        with self._artifact(run_id, "panels.npz") as file:
            return load_panels(file) if file is not None else ()

    @contextmanager
    def _artifact(self, run_id: str, name: str) -> Iterator[Path | None]:
        if not any(entry.path == name for entry in self.client.list_artifacts(run_id)):
            yield None
            return
        with TemporaryDirectory() as folder:
            yield Path(self.client.download_artifacts(run_id, name, folder))


class MlflowTracker:
    """Logs each cell as a child run of this invocation's parent run, within the experiment of its suite and dataset."""

    def __init__(self, store: MlflowStore, suite: str, invocation: str) -> None:
        self.store, self.suite, self.invocation = store, suite, invocation
        self.parents: dict[str, str] = {}

    def has(self, identity: str) -> bool:
        """Whether a finished run of this cell is in the store."""
        return bool(self.store.search(f"tags.`{IDENTITY_TAG}` = '{identity}' AND attributes.status = 'FINISHED'"))

    def start(self, facts: CellFacts) -> CellRun:
        """A run for the cell: the one that was interrupted, if there is one."""
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
        left = self.store.search(f"tags.`{IDENTITY_TAG}` = '{facts.identity}' AND attributes.status != 'FINISHED'")
        if left:
            run_id = left[0].info.run_id
            client.update_run(run_id, status="RUNNING")
            if "mddbench.error" in left[0].data.tags:
                client.delete_tag(run_id, "mddbench.error")
            for key, value in tags.items():
                client.set_tag(run_id, key, value)
            return _MlflowCell(self.store, run_id)
        run_id = client.create_run(experiment, run_name=facts.name, tags=tags).info.run_id
        entities = self.store.mlflow.entities
        params = [entities.Param(key, value[:6000]) for key, value in facts.params.items()]
        for first in range(0, len(params), BATCH):
            client.log_batch(run_id, params=params[first : first + BATCH])
        client.log_inputs(run_id, datasets=[_dataset_input(self.store.mlflow, facts)])
        return _MlflowCell(self.store, run_id)

    def close(self) -> None:
        """End the parent runs."""
        for parent in self.parents.values():
            self.store.client.set_terminated(parent)


class _MlflowCell:
    def __init__(self, store: MlflowStore, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    def epoch(self, log: EpochLog) -> None:
        """The epoch's loss, its terms, learning rate and speed, in one call."""
        values = {"train/loss": log.loss, "train/lr": log.lr, "train/images_per_second": log.images / log.seconds}
        values.update({f"train/{name}": value for name, value in log.terms.items()})
        self._log(values, log.epoch)

    def finish(self, record: Record, files: list[Path]) -> None:
        """Metrics, cost and files of a finished cell; the curve's epochs that an interruption kept from the store too."""
        known = {point.step for point in self.store.client.get_metric_history(self.run_id, "train/loss")}
        for entry in record.history:
            if entry["epoch"] not in known:
                self.epoch(EpochLog(**entry))
        flat = {f"{place}/{key}": value for place, part in record.metrics.items() for key, value in part.items()}
        flat.update({f"cost/{key}": value for key, value in record.cost.items()})
        self._log({key: value for key, value in flat.items() if value is not None}, len(record.history))
        self.store.client.log_text(self.run_id, as_json(record), "record.json")
        for file in files:
            self.store.client.log_artifact(self.run_id, str(file))
        self.store.client.set_tag(self.run_id, "mddbench.status", "finished")
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def fail(self, message: str) -> None:
        self.store.client.set_tag(self.run_id, "mddbench.status", "failed")
        self.store.client.set_tag(self.run_id, "mddbench.error", message[:5000])
        self.store.client.set_terminated(self.run_id, "FAILED")

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self.store.mlflow.entities.Metric(key, value, now, step) for key, value in values.items()]
        for first in range(0, len(metrics), BATCH):
            self.store.client.log_batch(self.run_id, metrics=metrics[first : first + BATCH])


def tracking_place(uri: str | None, out: Path) -> tuple[str, Path | None]:
    """The store's URI and the folder of its artifacts: as given, else from MLFLOW_TRACKING_URI, else SQLite below `out`."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen is None:
        return f"sqlite:///{out / 'mlflow.db'}", out / "mlruns"
    return chosen, out / "mlruns" if chosen.startswith("sqlite:") else None


def _dataset_input(mlflow: Any, facts: CellFacts) -> Any:
    """The dataset as MLflow knows one: its name, the start of its fingerprint as digest, and how much was read."""
    entity = mlflow.entities.Dataset(
        name=facts.dataset,
        digest=facts.fingerprint[:32],
        source_type="local",
        source=json.dumps({"fingerprint": facts.fingerprint}),
        profile=json.dumps(facts.profile),
    )
    tag = mlflow.entities.InputTag(key="mlflow.data.context", value="training and evaluation")
    return mlflow.entities.DatasetInput(dataset=entity, tags=[tag])
