"""Runs go to MLflow as they happen."""

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
RUN_FILE = "mlflow-run.json"
"""In a cell's folder: which run of which store the cell is logged to, so that only this cell's own run is resumed."""


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


def facts_of(record: Record) -> CellFacts:
    """What a tracking store is told of a cell that finished elsewhere."""
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
    tags = {f"mddbench.card.{key}": _text(value) for key, value in card.texts().items()}
    tags |= {f"mddbench.environment.{key}": _text(value) for key, value in environment.items()}
    return tags | {"mddbench.protocol": protocol, "mddbench.experiment": experiment, "mddbench.status": "running"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as 'optimizer.lr' -> '0.005'."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


class CellRun(Protocol):
    """One cell's run in a store."""

    def epoch(self, log: EpochLog) -> None: ...
    def finish(self, record: Record, files: list[Path]) -> None: ...
    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None: ...


class Tracker(Protocol):
    """Where runs are logged. place: the cell's folder, if it has one."""

    def start(self, facts: CellFacts, place: Path | None) -> CellRun: ...
    def has(self, identity: str, place: Path) -> bool: ...
    def add(self, identity: str, files: list[Path]) -> None: ...
    def close(self) -> None: ...


class _Nothing:
    def epoch(self, log: EpochLog) -> None: ...
    def finish(self, record: Record, files: list[Path]) -> None: ...
    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None: ...


class NoTracker:
    """`--tracking none`: records stay in the output folder, to be imported later."""

    def start(self, facts: CellFacts, place: Path | None) -> CellRun:
        return _Nothing()

    def has(self, identity: str, place: Path) -> bool:
        return True

    def add(self, identity: str, files: list[Path]) -> None: ...

    def close(self) -> None: ...


class MlflowTracker:
    """Logs each cell as a child run of this invocation's parent run, within the experiment of its suite and dataset.

    say: tells a person what is odd.
    """

    def __init__(
        self, store: MlflowStore, suite: str, invocation: str, say: Callable[[str], object] = lambda _: None
    ) -> None:
        self.store, self.suite, self.invocation, self.say = store, suite, invocation, say
        self.parents: dict[str, str] = {}

    def has(self, identity: str, place: Path) -> bool:
        """Whether the cell's finished run is in the store: the one that its folder notes, or else any."""
        return bool(self._finished(identity)) and self._noted_unfinished(identity, place) is None

    def add(self, identity: str, files: list[Path]) -> None:
        """Put files to the newest finished run of a cell, in the place of those of the same name."""
        for file in files:
            self.store.client.log_artifact(self._finished(identity)[0].info.run_id, str(file))

    def _finished(self, identity: str) -> list[Any]:
        return self.store.finished(identity)

    def start(self, facts: CellFacts, place: Path | None) -> CellRun:
        """A run for the cell: its own that was interrupted, if there is one."""
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
        left = self._interrupted(facts.identity, place)
        if left is not None:
            return self._resumed(left, tags)
        started = self._start_time(facts.identity)
        run_id = client.create_run(experiment, start_time=started, run_name=facts.name, tags=tags).info.run_id
        entities = self.store.mlflow.entities
        params = [entities.Param(key, value[:6000]) for key, value in facts.params.items()]
        for first in range(0, len(params), BATCH):
            client.log_batch(run_id, params=params[first : first + BATCH])
        client.log_inputs(run_id, datasets=[_dataset_input(self.store.mlflow, facts)])
        if place is not None:
            partial = (place / RUN_FILE).with_suffix(".part")
            partial.write_text(json.dumps({"uri": self.store.uri, "run": run_id}), encoding="utf-8")
            partial.replace(place / RUN_FILE)  # whole or not there, whenever the process is killed
        return _MlflowCell(self.store, run_id, set())

    def close(self) -> None:
        """End the parent runs."""
        for parent in self.parents.values():
            self.store.client.set_terminated(parent)

    def _start_time(self, identity: str) -> int:
        """Now, in ms, or later than the cell's finished runs, whatever clocks they were started by: the newest run counts."""
        now = int(time.time() * 1000)
        return max([now, *(int(run.info.start_time) + 1 for run in self.store.finished(identity)[:1])])

    def _interrupted(self, identity: str, place: Path | None) -> Any:
        """The cell's own unfinished run that can be taken up again; None if there is none."""
        run = self._noted_unfinished(identity, place)
        # Elsewhere: the folder is a copy, and the run the other one's.
        return run if run is not None and self.store.holds_artifacts_of(run) else None

    def _noted_unfinished(self, identity: str, place: Path | None) -> Any:
        """The unfinished run in this store that a cell's folder notes; None if there is none."""
        noted = self._noted(place / RUN_FILE) if place is not None else None
        if noted is None:
            return None
        found = self.store.search(f"tags.`{IDENTITY_TAG}` = '{identity}' AND attributes.status != 'FINISHED'")
        return next((run for run in found if run.info.run_id == noted), None)

    def _noted(self, file: Path) -> str | None:
        """The run that a cell's folder notes; a note that cannot be read is told and counts for nothing."""
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["run"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.say(f"{file}: cannot be read, so an interrupted run is not taken up again; the cell has a new run")
            return None

    def _resumed(self, run: Any, tags: dict[str, str]) -> CellRun:
        client, run_id = self.store.client, run.info.run_id
        client.update_run(run_id, status="RUNNING")
        if "mddbench.error" in run.data.tags:
            client.delete_tag(run_id, "mddbench.error")
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        known = {point.step for point in client.get_metric_history(run_id, "train/lr")}
        return _MlflowCell(self.store, run_id, known)


class _MlflowCell:
    """known: epochs that the store has already."""

    def __init__(self, store: MlflowStore, run_id: str, known: set[int]) -> None:
        self.store, self.run_id, self.known = store, run_id, known

    def epoch(self, log: EpochLog) -> None:
        """The epoch's loss, its terms, learning rate and speed, in one call; once, however often it is trained."""
        if log.epoch in self.known:
            return
        values = {"train/lr": log.lr} if log.loss is None else {"train/loss": log.loss, "train/lr": log.lr}
        if log.seconds is not None:
            values["train/images_per_second"] = log.images / log.seconds
        values.update({f"train/{name}": value for name, value in (log.terms | log.diagnostics).items()})
        self._log(values, log.epoch)
        self.known.add(log.epoch)

    def finish(self, record: Record, files: list[Path]) -> None:
        """Metrics, cost, test curve and files of a finished cell, and the epochs that an interruption kept from the store."""
        for log in record.history:
            self.epoch(log)
        for point in record.test_curve:
            looked = {f"test_curve/{key}": value for key, value in point.metrics.items() if value is not None}
            self._log(looked, point.epoch)
        names = metric_names(list(record.metrics))
        for place in (place for place, name in names.items() if name != place):
            self.store.client.set_tag(self.run_id, f"mddbench.metric_name.{names[place]}", place)
        flat = {f"{names[place]}/{key}": value for place, part in record.metrics.items() for key, value in part.items()}
        flat.update({f"cost/{key}": value for key, value in record.cost.items()})
        self._log({key: value for key, value in flat.items() if value is not None}, len(record.history))
        self.store.client.log_text(self.run_id, as_json(record), RECORD)
        for file in files:
            self.store.client.log_artifact(self.run_id, str(file))
        self.store.client.set_tag(self.run_id, "mddbench.status", "finished")
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def stop(self, status: Literal["FAILED", "KILLED"], message: str) -> None:
        """End a run that did not finish; the next start of the cell takes it up again."""
        self.store.client.set_tag(self.run_id, "mddbench.status", status.lower())
        self.store.client.set_tag(self.run_id, "mddbench.error", message[:5000])
        self.store.client.set_terminated(self.run_id, status)

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self.store.mlflow.entities.Metric(key, value, now, step) for key, value in values.items()]
        for first in range(0, len(metrics), BATCH):
            self.store.client.log_batch(self.run_id, metrics=metrics[first : first + BATCH])


@contextmanager
def finally_closed(tracker: Tracker, told: Callable[[str], object]) -> Iterator[None]:
    """Closes a tracker at the end, whatever happens inside; told: of a store that does not take it."""
    try:
        yield
    finally:
        with closing():
            try:
                tracker.close()
            except TrackingError as fault:
                told(f"the run of this command could not be closed: {fault}")


def log_finished(tracker: Tracker, facts: CellFacts, record: Record, files: list[Path]) -> None:
    """Log a cell that finished elsewhere; its run is closed as such if that is interrupted or fails."""
    run = tracker.start(facts, None)
    try:
        run.finish(record, files)
    except BaseException as fault:
        with closing(), suppress(TrackingError):
            run.stop("FAILED" if isinstance(fault, Exception) else "KILLED", str(fault) or "interrupted")
        raise


def metric_names(categories: list[str]) -> dict[str, str]:
    """Category -> a name that MLflow takes in a metric's key, different for each; a run's tags tell the true ones.

    MLflow takes letters and digits of all scripts, '_', '-', '.' and spaces; other signs become '_'. A name that has none of
    these letters is its position and a hash.

    >>> metric_names(["schüssel", "螺丝", "nut (big)", "nut [big]"])
    {'schüssel': 'schüssel', '螺丝': '螺丝', 'nut (big)': 'nut _big_', 'nut [big]': 'nut _big_-2'}
    """
    plain: dict[str, str] = {}
    for position, category in enumerate(categories):
        name = re.sub(r"^\.\.|[^\w\-. ]", "_", unicodedata.normalize("NFC", category))
        readable = any(sign.isalnum() for sign in name)
        plain[category] = (
            name if readable else f"category-{position}-{hashlib.sha256(category.encode()).hexdigest()[:8]}"
        )
    kept = {name for category, name in plain.items() if name == category}
    names: dict[str, str] = {}
    for category, name in plain.items():
        number, free = 1, name
        while free != category and (free in kept or free in names.values()):
            number += 1
            free = f"{name}-{number}"
        names[category] = free
    return names


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
