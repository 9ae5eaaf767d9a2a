"""An MLflow store: opened safely, searched for our runs, read back as records. MLflow is imported only here, and only then."""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from filelock import FileLock

from mddbench.errors import InputError, TrackingError
from mddbench.interruption import held
from mddbench.runs.evidence import EVIDENCE, Evidence, load_evidence
from mddbench.runs.panels import PANELS, PICTURE, Panel, load_panels
from mddbench.runs.records import RECORD, Record, parse_record

IDENTITY_TAG = "mddbench.identity"
PREFIX = "mddbench"
SQLITE = "sqlite:///"


class MlflowStore:
    """An MLflow tracking store by URI, migrated on opening so that workers started later find it ready."""

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        """artifacts: the folder for artifacts of a local store; None lets a server decide.

        Raises InputError if MLflow is missing or the store cannot be opened.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for data
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default waits minutes for a dead server
        try:
            self.mlflow: Any = import_module("mlflow")
        except ImportError:
            raise InputError("MLflow is not installed; pip install mlflow, or run with --tracking none") from None
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # what fails there is told here, in one line
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.uri, self.artifacts = uri, artifacts
        try:
            self.client: Any = self._open()
        except OSError:
            raise
        except Exception as fault:
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise InputError(
                f"tracking store {uri}: cannot be opened ({reason[:200]}); give a database or server by --tracking-uri, "
                "as in sqlite:///mlflow.db, or run with --tracking none"
            ) from None

    def _open(self) -> Any:
        """A client of a ready store.

        A SQLite file is made and migrated under a lock, a new one beside its place and then renamed: a killed start or two
        at once leave no half-made database, which nothing could open again. One that lies where nothing can be written is
        opened without a lock, to be read.
        """
        file = sqlite_file(self.uri)
        if file is None:
            return self._client(self.uri)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                if not file.exists():
                    with TemporaryDirectory(prefix=".mlflow-", dir=file.parent) as folder:
                        new = Path(folder) / file.name
                        self._client(f"{SQLITE}{new}")
                        os.replace(new, file)
                _look(file)
                if self.artifacts is not None and self.artifacts.parent.resolve() == file.parent.resolve():
                    _bring_home(file, self.artifacts)
                return self._client(self.uri)
        except (OSError, sqlite3.OperationalError):
            if not file.exists() or os.access(file.parent, os.W_OK):
                raise
            return self._client(self.uri)

    def _client(self, uri: str) -> Any:
        client = self.mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
        return _Guarded(client, uri)

    def holds_artifacts_of(self, run: Any) -> bool:
        """Whether what is logged to a run would lie where this store's artifacts do; a server decides for itself."""
        return self.artifacts is None or _local(run.info.artifact_uri).is_relative_to(self.artifacts.resolve())

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is created if it is not there. Raises InputError for a deleted one."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = _home(self.artifacts, name) if self.artifacts else None
            return str(self.client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise InputError(
                f"{self.uri}: experiment '{name}' is deleted there; restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or use another store"
            )
        file = sqlite_file(self.uri)
        if file is not None and self.artifacts is not None and found.artifact_location != _home(self.artifacts, name):
            _set_home(file, found.experiment_id, _home(self.artifacts, name))  # the folder was moved, or is another one
        return str(found.experiment_id)

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

    def records(
        self, only: str | None = None, passing: Callable[[str], object] | None = None
    ) -> Iterator[tuple[str, Record]]:
        """(run id, record) of every finished cell, newest first; of a cell that ran twice, the newest run only.

        only: the identity of one cell, if no other is wanted; passing: told of each run whose record cannot be used, which is
        then left out. Raises InputError for such a run if nobody is told.
        """
        seen: set[str] = set()
        for run in self.finished(only):
            identity = run.data.tags.get(IDENTITY_TAG)
            if identity is None or identity in seen:
                continue
            seen.add(identity)
            try:
                yield run.info.run_id, self._record(run)
            except (InputError, TrackingError, OSError) as fault:
                if passing is None:
                    raise
                passing(f"left out: run {run.info.run_id}: {fault}")

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

    def finished(self, only: str | None = None) -> list[Any]:
        """Runs that finished, newest first: of all cells, or of one."""
        one = f" AND tags.`{IDENTITY_TAG}` = '{only}'" if only else ""
        return self.search(f"attributes.status = 'FINISHED'{one}")

    def files(self, run_id: str) -> frozenset[str]:
        """The names of a run's artifacts."""
        return frozenset(entry.path for entry in self.client.list_artifacts(run_id))

    def panels(self, run_id: str) -> tuple[Panel, ...]:
        """The panels that a run kept; none if it was imported without them."""
        with self._artifact(run_id, PANELS) as file:
            return load_panels(file) if file is not None else ()

    def evidence(self, run_id: str) -> tuple[Evidence, ...]:
        """Scores and curves that a run kept; none if it was imported without them."""
        with self._artifact(run_id, EVIDENCE) as file:
            return load_evidence(file) if file is not None else ()

    def page(self, run_id: str) -> str:
        """The address of a run's page, if the store is a server; '' else."""
        if not self.uri.startswith(("http://", "https://")):
            return ""
        experiment = self.client.get_run(run_id).info.experiment_id
        place = urlparse(self.uri)
        bare = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()  # without a user and password
        return f"{bare.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def record_file(self, run_id: str) -> Path | None:
        """Where a run's record lies, if its artifacts are files of this machine."""
        place = str(self.client.get_run(run_id).info.artifact_uri)
        file = _local(place) / RECORD
        return file if place.startswith(("file:", "/")) and file.exists() else None

    @contextmanager
    def _artifact(self, run_id: str, name: str) -> Iterator[Path | None]:
        if name not in self.files(run_id):
            yield None
            return
        with TemporaryDirectory() as folder:
            yield Path(self.client.download_artifacts(run_id, name, folder))


class _Guarded:
    """A client whose every failure is a TrackingError of one line; whatever MLflow, a database or a server raise."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri
        self._hold = held if uri.startswith(SQLITE) else nullcontext  # a server can take its time

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._client, name)

        @functools.wraps(function)
        def asked(*arguments: Any, **named: Any) -> Any:
            try:
                with self._hold():
                    return function(*arguments, **named)
            except Exception as fault:
                lines = [line for line in str(fault).splitlines() if line.strip()] or [type(fault).__name__]
                raise TrackingError(f"tracking store {self._uri}: {name} failed ({lines[0].strip()[:200]})") from None

        return asked


def _bring_home(file: Path, artifacts: Path) -> None:
    """Let a SQLite store that was moved or copied with its artifacts find them. Each run is judged by itself: it is pointed to
    the folder here if its artifacts lie there, or if it has none yet and its old place is gone.
    """
    with closing(sqlite3.connect(file)) as database, database:
        known = (
            "SELECT run_uuid, status, artifact_uri, experiments.name FROM runs JOIN experiments USING (experiment_id)"
        )
        for run, status, place, experiment in database.execute(known).fetchall():
            here = f"{_home(artifacts, experiment)}/{run}/artifacts"
            if not experiment.startswith(f"{PREFIX}/") or place == here or not str(place).startswith("file:"):
                continue
            begun = status != "FINISHED" and not _local(place).parents[2].exists()
            if _local(here).exists() or begun:
                database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (here, run))


def _look(file: Path) -> None:
    """Raise sqlite3.DatabaseError at once if a file is no database; MLflow would try for minutes."""
    with closing(sqlite3.connect(file)) as database:
        database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()


def _set_home(file: Path, experiment: str, place: str) -> None:
    """Let new runs of an experiment in a SQLite store keep their artifacts at a place."""
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (place, experiment))


def _home(artifacts: Path, experiment: str) -> str:
    """Where an experiment's artifacts go, as a URI."""
    return (artifacts / experiment.replace("/", "-")).resolve().as_uri()


def _local(uri: str) -> Path:
    """The path of a file: URI."""
    return Path(url2pathname(urlparse(uri).path))


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI, None for any other."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def tracking_place(uri: str | None, out: Path) -> tuple[str, Path | None]:
    """The store's URI and its artifacts' folder: as given, else from MLFLOW_TRACKING_URI, else SQLite below `out`.

    Raises InputError for a folder whose name means something else in a URI: MLflow does not escape it.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if chosen is not None:
        return chosen, out / "mlruns" if chosen.startswith("sqlite:") else None
    file, usual = out / "mlflow.db", f"{SQLITE}{out / 'mlflow.db'}"
    if sqlite_file(usual) != file:
        raise InputError(
            f"{out}: MLflow cannot keep its database in a folder with '?' or an escape such as '%20' in its name; "
            "give another --out, a store by --tracking-uri, or --tracking none"
        )
    return usual, out / "mlruns"


def existing_store(uri: str | None, out: Path) -> MlflowStore:
    """The store to read from. Raises InputError if there is none: reading makes no database."""
    place, artifacts = tracking_place(uri, out)
    file = sqlite_file(place)
    if file is not None and not file.exists():
        raise InputError(
            f"{place}: no such store; give the output folder of a run by --out or a store by --tracking-uri, "
            "or for a run without tracking its folder: `mddbench report --records OUT`"
        )
    return MlflowStore(place, artifacts)


def kept_files(folder: Path) -> list[Path]:
    """The files of a cell that go into the tracking store beside the record; maps do not, being large."""
    return [folder / name for name in (PANELS, EVIDENCE, PICTURE) if (folder / name).exists()]
