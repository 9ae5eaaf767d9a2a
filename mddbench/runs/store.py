"""Opens an MLflow tracking store safely, searches it for the runs of this package, and reads their records.

MLflow is imported only here, and only when a store is opened.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock

from mddbench.errors import InputError, TrackingError
from mddbench.runs.addresses import (
    PREFIX,
    SQLITE,
    artifact_location,
    check_database,
    correct_artifact_uris,
    path_of_uri,
    set_artifact_location,
    sqlite_file,
    store_address,
)
from mddbench.runs.evidence import EVIDENCE, Evidence, load_evidence
from mddbench.runs.guarded import Guarded
from mddbench.runs.panels import PANELS, PICTURE, Panel, load_panels
from mddbench.runs.records import RECORD, Record, parse_record
from mddbench.runs.shift import SHIFT, Shifts, load_shifts

KIND_TAG, CELL, TRIAL = "mddbench.kind", "cell", "trial"
"""Tag that says what a run is. Trials of a search for settings are in no report."""
IDENTITY_TAG = "mddbench.identity"
HALF_MADE = ".mlflow-"
"""Start of the names of folders in which a database is made."""
KEPT = (PANELS, EVIDENCE, PICTURE, SHIFT)
"""Files of a cell that the store gets beside the record. The anomaly maps are too large for it."""


class MlflowStore:
    """An MLflow tracking store. Opening it migrates its database, so that it is ready for processes that start later.

    Attributes:
        mlflow: The module `mlflow`.
        client: MLflow's client. All its errors are TrackingErrors.
        uri: URI of the store.
        artifacts: Folder of the artifacts of a local store; None if a server decides.
        answered: Monotonic time of the store's last answer in seconds.
    """

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        """Open a store.

        Args:
            uri: URI of the store.
            artifacts: Folder for the artifacts of a local store; None to let a server decide.

        Raises:
            InputError: If MLflow is not installed, or if the store cannot be opened.
            OSError: If a file of the store cannot be read or written.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for data
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default waits minutes for a dead server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds; the same for a hung one
        try:
            self.mlflow: Any = import_module("mlflow")
        except ImportError:
            raise InputError("MLflow is not installed; pip install mlflow, or run with --tracking none") from None
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # its failures are reported here, in one line
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.uri, self.artifacts, self.answered = uri, artifacts, time.monotonic()
        try:
            self.client: Any = self._open()
        except OSError:
            raise
        except Exception as fault:  # noqa: BLE001 - MLflow, a database or a server may raise anything
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise InputError(
                f"tracking store {uri}: cannot be opened ({reason[:200]}); give a database or server by "
                "--tracking-uri, as in sqlite:///mlflow.db, or run with --tracking none"
            ) from None

    def _open(self) -> Any:
        """Create a client of a store that is ready for use.

        A SQLite file is created and migrated under a lock. A new one is created in a temporary folder and then moved.
        So there is never an incomplete database, even if a start is killed or two processes start at once.
        A database in a read-only folder is opened without a lock, for reading.

        Returns:
            The client.

        Raises:
            OSError: If the file cannot be read or written.
            OperationalError: If SQLite reports such a failure.
        """
        file = sqlite_file(self.uri)
        if file is None:
            return self._client(self.uri)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                for left in file.parent.glob(
                    f"{HALF_MADE}*"
                ):  # by a process that was killed, as this one holds the lock
                    shutil.rmtree(left, ignore_errors=True)
                if not file.exists():
                    with TemporaryDirectory(prefix=HALF_MADE, dir=file.parent) as folder:
                        new = Path(folder) / file.name
                        self._client(f"{SQLITE}{new}")
                        os.replace(new, file)
                check_database(file)
                if self.artifacts is not None and self.artifacts.parent.resolve() == file.parent.resolve():
                    correct_artifact_uris(file, self.artifacts)
                return self._client(self.uri)
        except (OSError, sqlite3.OperationalError):
            if not file.exists() or os.access(file.parent, os.W_OK):
                raise
            return self._client(self.uri)

    def _client(self, uri: str) -> Any:
        client = self.mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
        return Guarded(client, uri, self._has_answered)

    def _has_answered(self) -> None:
        self.answered = time.monotonic()

    def holds_artifacts_of(self, run: Any) -> bool:
        """Check where the artifacts of a run lie.

        Args:
            run: The run, as MLflow's client returns it.

        Returns:
            True if they lie in this store's folder, or if a server decides their location.
        """
        return self.artifacts is None or path_of_uri(run.info.artifact_uri).is_relative_to(self.artifacts.resolve())

    def experiment(self, name: str, about: str = "") -> str:
        """Return the id of an MLflow experiment. It is created if it does not exist.

        Args:
            name: Name of the experiment.
            about: Description of a new experiment.

        Returns:
            The id.

        Raises:
            InputError: If the experiment was deleted.
        """
        experiment = self.client.get_experiment_by_name(name)
        location = artifact_location(self.artifacts, name) if self.artifacts else None
        if experiment is None:
            tags = {"mlflow.note.content": about, "mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(name, artifact_location=location, tags=tags))
        if experiment.lifecycle_stage != "active":
            raise InputError(
                f"{self.uri}: experiment '{name}' is deleted there; restore it "
                f"(mlflow experiments restore -x {experiment.experiment_id}) or use another store"
            )
        file = sqlite_file(self.uri)
        if file is not None and location is not None and experiment.artifact_location != location:
            set_artifact_location(
                file, experiment.experiment_id, location
            )  # the folder was moved, or it is another one
        return str(experiment.experiment_id)

    def search(self, condition: str) -> list[Any]:
        """Find the runs of this package that meet a condition.

        Args:
            condition: The condition in MLflow's query language; '' for all runs.

        Returns:
            The runs as MLflow's client returns them, newest first.
        """
        experiments = self.client.search_experiments(filter_string=f"name LIKE '{PREFIX}/%'")
        experiment_ids = [experiment.experiment_id for experiment in experiments]
        if not experiment_ids:
            return []
        runs: list[Any] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                experiment_ids, filter_string=condition, order_by=["attributes.start_time DESC"], page_token=token
            )
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def records(
        self, identity: str | None = None, report_unusable: Callable[[str], object] | None = None
    ) -> Iterator[tuple[str, Record]]:
        """Read the records of all finished cells, newest first. For a cell that ran twice only the newest run counts.

        Args:
            identity: Identity of the only cell that is wanted; None for all cells.
            report_unusable: Called with a message for each run whose record cannot be used. Such a run is left out.
                None to raise an error instead.

        Yields:
            The id of a run and its record.

        Raises:
            InputError: If a record is missing or not valid.
            TrackingError: If the store fails.
            OSError: If a file cannot be read.
        """
        seen_identities: set[str] = set()
        for run in self.finished(identity):
            run_identity = run.data.tags.get(IDENTITY_TAG)
            if run_identity is None or run_identity in seen_identities:
                continue
            seen_identities.add(run_identity)
            try:
                yield run.info.run_id, self._record(run)
            except (InputError, TrackingError, OSError) as fault:
                if report_unusable is None:
                    raise
                report_unusable(f"left out: run {run.info.run_id}: {fault}")

    def _record(self, run: Any) -> Record:
        with self._artifact(run.info.run_id, RECORD) as file:
            if file is None:
                raise InputError(
                    f"{self.uri}: run {run.info.run_id} has no {RECORD} at {run.info.artifact_uri}; "
                    "if the folder was moved, `mddbench report --records OUT` reads the records in it"
                )
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise InputError(f"{RECORD}: not UTF-8 text") from None
        return parse_record(text, RECORD)

    def finished(self, identity: str | None = None, kind: str = CELL) -> list[Any]:
        """Find finished runs of cells.

        Args:
            identity: Identity of the cell; None for all cells.
            kind: CELL, or TRIAL for the trials of a search.

        Returns:
            The runs, newest first.
        """
        condition = f" AND tags.`{IDENTITY_TAG}` = '{identity}'" if identity else ""
        runs = self.search(f"attributes.status = 'FINISHED'{condition}")
        return [run for run in runs if run.data.tags.get(KIND_TAG, CELL) == kind]

    def files(self, run_id: str) -> frozenset[str]:
        """List the artifacts of a run.

        Args:
            run_id: Id of the run.

        Returns:
            The names of the files.
        """
        return frozenset(entry.path for entry in self.client.list_artifacts(run_id))

    def panels(self, run_id: str) -> tuple[Panel, ...]:
        """Load the panels of a run.

        Args:
            run_id: Id of the run.

        Returns:
            The panels; () if the run was imported without them.
        """
        with self._artifact(run_id, PANELS) as file:
            return load_panels(file) if file is not None else ()

    def evidence(self, run_id: str) -> tuple[Evidence, ...]:
        """Load the scores and curves of a run.

        Args:
            run_id: Id of the run.

        Returns:
            One entry for each category; () if the run was imported without them.
        """
        with self._artifact(run_id, EVIDENCE) as file:
            return load_evidence(file) if file is not None else ()

    def shifts(self, run_id: str) -> tuple[Shifts, ...]:
        """Load the results of a run on changed images as the one element of a tuple; () if it has none."""
        with self._artifact(run_id, SHIFT) as file:
            return load_shifts(file) if file is not None else ()

    def page(self, run_id: str) -> str:
        """Find the page of a run on an MLflow server.

        Args:
            run_id: Id of the run.

        Returns:
            The address, without a user and password; '' if the store is no server.
        """
        if not self.uri.startswith(("http://", "https://")):
            return ""
        experiment = self.client.get_run(run_id).info.experiment_id
        url = urlparse(self.uri)
        address = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()  # without a user and password
        return f"{address.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def record_file(self, run_id: str) -> Path | None:
        """Find the file of a run's record.

        Args:
            run_id: Id of the run.

        Returns:
            The file; None if the artifacts are not files of this machine.
        """
        uri = str(self.client.get_run(run_id).info.artifact_uri)
        file = path_of_uri(uri) / RECORD
        return file if uri.startswith(("file:", "/")) and file.exists() else None

    @contextmanager
    def _artifact(self, run_id: str, name: str) -> Iterator[Path | None]:
        """Download an artifact to a file that exists inside the `with` block; None if the run has no such artifact."""
        if name not in self.files(run_id):
            yield None
            return
        with TemporaryDirectory() as folder:
            yield Path(self.client.download_artifacts(run_id, name, folder))


def existing_store(uri: str | None, out: Path) -> MlflowStore:
    """Open a store for reading. Reading never creates a database.

    Args:
        uri: URI from the command line, see `store_address`.
        out: Output folder.

    Returns:
        The store.

    Raises:
        InputError: If there is no such store.
    """
    store_uri, artifacts = store_address(uri, out)
    file = sqlite_file(store_uri)
    if file is not None and not file.exists():
        raise InputError(
            f"{store_uri}: no such store; give the output folder of a run by --out or a store by --tracking-uri, "
            "or for a run without tracking its folder: `mddbench report --records OUT`"
        )
    return MlflowStore(store_uri, artifacts)


def kept_files(folder: Path) -> list[Path]:
    """Find the files of a cell that the tracking store gets in addition to the record.

    Args:
        folder: Folder of the cell.

    Returns:
        The files that exist.
    """
    return [folder / name for name in KEPT if (folder / name).exists()]
