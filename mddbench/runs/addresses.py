"""Addresses of a tracking store: which store a command uses, where its artifacts lie, and the SQLite file behind it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from mddbench.errors import InputError

PREFIX = "mddbench"
"""Start of the names of all MLflow experiments of this package."""
SQLITE = "sqlite:///"


def sqlite_file(uri: str) -> Path | None:
    """Find the database file of a tracking store.

    Args:
        uri: URI of a tracking store.

    Returns:
        The file of a SQLite URI; None for any other URI.
    """
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def store_address(uri: str | None, out: Path) -> tuple[str, Path | None]:
    """Choose the tracking store.

    Args:
        uri: URI from the command line. Without it the variable MLFLOW_TRACKING_URI counts, and then SQLite in `out`.
        out: Output folder.

    Returns:
        URI of the store, and the folder of its artifacts; None if a server decides.

    Raises:
        InputError: If the folder's name has another meaning in a URI, because MLflow does not escape it.
    """
    given_uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if given_uri is not None:
        return given_uri, out / "mlruns" if given_uri.startswith("sqlite:") else None
    file, default = out / "mlflow.db", f"{SQLITE}{out / 'mlflow.db'}"
    if sqlite_file(default) != file:
        raise InputError(
            f"{out}: MLflow cannot keep its database in a folder with '?' or an escape such as '%20' in its name; "
            "give another --out, a store by --tracking-uri, or --tracking none"
        )
    return default, out / "mlruns"


def correct_artifact_uris(file: Path, artifacts: Path) -> None:
    """Correct the artifact URIs of a SQLite store that was moved or copied together with its artifacts.

    Each run is handled separately. Its URI is changed if its artifacts lie in the given folder.
    It is also changed if the run is unfinished and its old folder no longer exists.

    Args:
        file: The database file.
        artifacts: Folder of the artifacts as it is now.
    """
    with closing(sqlite3.connect(file)) as database, database:
        query = (
            "SELECT run_uuid, status, artifact_uri, experiments.name FROM runs JOIN experiments USING (experiment_id)"
        )
        for run, status, uri, experiment in database.execute(query).fetchall():
            new_uri = f"{artifact_location(artifacts, experiment)}/{run}/artifacts"
            if not experiment.startswith(f"{PREFIX}/") or uri == new_uri or not str(uri).startswith("file:"):
                continue
            lost = status != "FINISHED" and not path_of_uri(uri).parents[2].exists()
            if path_of_uri(new_uri).exists() or lost:
                database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (new_uri, run))


def check_database(file: Path) -> None:
    """Check that a file is a SQLite database. MLflow would try for minutes to open another file.

    For another file, sqlite3.DatabaseError is raised at once.

    Args:
        file: The file.
    """
    with closing(sqlite3.connect(file)) as database:
        database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()


def set_artifact_location(file: Path, experiment_id: str, location: str) -> None:
    """Set the location of the artifacts of new runs of an experiment in a SQLite store.

    Args:
        file: The database file.
        experiment_id: Id of the experiment in MLflow.
        location: URI of the new location.
    """
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (location, experiment_id)
        )


def artifact_location(artifacts: Path, experiment: str) -> str:
    """Compute the location of an experiment's artifacts in a local store.

    Args:
        artifacts: Folder of the artifacts of all experiments.
        experiment: Name of the experiment in MLflow.

    Returns:
        The location, as a file URI.
    """
    return (artifacts / experiment.replace("/", "-")).resolve().as_uri()


def path_of_uri(uri: str) -> Path:
    """Convert a file URI to a path.

    Args:
        uri: A file URI.

    Returns:
        The path that it names, without escapes.
    """
    return Path(url2pathname(urlparse(uri).path))
