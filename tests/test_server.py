"""A tracking server of its own process as the store, reached over HTTP as a group of machines would reach it."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from mddbench.metrics.names import SEVEN
from mddbench.runs.records import Record, parse_record, read_record, write_record
from mddbench.runs.store import MlflowStore
from support import YAML, Done, mddbench, write_tree

EPOCHS = 2
Command = Callable[..., Done]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def healthy(uri: str) -> bool:
    try:
        with urlopen(f"{uri}/health", timeout=2) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[str]:
    """The URI of a server with an empty database, which ends with the module's tests."""
    folder, uri = tmp_path_factory.mktemp("server"), f"http://127.0.0.1:{free_port()}"
    shutil.copy(migrated, folder / "server.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "log.txt"
    with (
        log.open("w") as stream,
        subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=folder, env={**os.environ, **settings}, start_new_session=True
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not healthy(uri):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"the server does not answer: {log.read_text()}"
                time.sleep(0.2)
            yield uri
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the server's own processes, too


@dataclass(frozen=True)
class Ran:
    """A cell that was run with the server as its store."""

    uri: str
    out: Path
    arguments: tuple[object, ...]
    record: Record


@pytest.fixture(scope="module")
def ran(server: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("ran")
    tree, file = write_tree(folder / "tree"), folder / "own.yaml"
    file.write_text(YAML.replace("epochs: 3", f"epochs: {EPOCHS}"))
    arguments = ("run", file, "--data-root", tree, "--out", folder / "out", "--tracking-uri", server)
    done = mddbench(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"MLflow     {server}" in done.stderr
    assert done.stdout.startswith("### "), "nothing but tables"
    assert "mlflow ui" not in done.stderr, "the server has a page itself"
    (record,) = (folder / "out").glob("cells/*/record.json")
    return Ran(server, folder / "out", arguments, read_record(record))


def cells(store: MlflowStore) -> list[Any]:
    return store.search("tags.`mddbench.kind` = 'cell'")


def test_a_run_shows_all_that_it_was(ran: Ran) -> None:
    store, record = MlflowStore(ran.uri, None), ran.record
    (run,) = cells(store)
    client, run_id = store.client, run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "rd4ad/folder/seed0"
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).info.status == "FINISHED"

    curve = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(log.epoch, log.loss) for log in record.history]
    assert len(curve) == EPOCHS
    for place in ("mean", "bolt", "nut"):
        for key in SEVEN:
            assert run.data.metrics[f"{place}/{key}"] == record.value(place, key)
    assert run.data.metrics["cost/parameters_total"] == record.cost["parameters_total"]
    assert run.data.params["optimizer.lr"] == "0.005"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["mddbench.identity"] == record.identity
    assert run.data.tags["mddbench.environment.torch"] == record.environment["torch"]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("folder", record.fingerprint[:32])

    assert {"record.json", "panels.npz", "gallery.png"} <= store.files(run_id)
    kept = ran.out / "downloaded"
    kept.mkdir()
    text = Path(client.download_artifacts(run_id, "record.json", str(kept))).read_text(encoding="utf-8")
    assert parse_record(text, "artifact") == record
    picture = Path(client.download_artifacts(run_id, "gallery.png", str(kept)))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {panel.category for panel in store.panels(run_id)} == {"bolt", "nut"}


def test_a_finished_cell_is_skipped(ran: Ran) -> None:
    again = mddbench(*ran.arguments)
    assert again.returncode == 0, again.stderr
    assert "skipped, finished before" in again.stderr
    assert "training:" not in again.stderr
    assert len(cells(MlflowStore(ran.uri, None))) == 1


@pytest.mark.renders
def test_reports_come_from_the_server(ran: Ran, tmp_path: Path, command: Command) -> None:
    report = command("report", "--tracking-uri", ran.uri, "--to", tmp_path / "report")
    assert report.status == 0, report.err
    assert report.out == command("report", "--records", ran.out, "--to", tmp_path / "other", "--tables").out
    assert (tmp_path / "report" / "folder" / "gallery-rd4ad.png").stat().st_size > 10_000
    trace = command("report", "--tracking-uri", ran.uri, "--trace")
    (row,) = csv.DictReader(io.StringIO(trace.out))
    (run,) = cells(MlflowStore(ran.uri, None))
    assert (row["run"], row["identity"]) == (run.info.run_id, ran.record.identity)
    verified = command("verify", "--tracking-uri", ran.uri)
    assert verified.status == 0, verified.err
    assert "not run" in verified.out


def test_records_go_out_of_the_server_and_into_it(ran: Ran, tmp_path: Path, command: Command) -> None:
    exported = command("export", tmp_path / "export", "--tracking-uri", ran.uri)
    assert exported.status == 0, exported.err
    assert read_record(Path(exported.out.strip())) == ran.record
    other = ran.record.model_copy(update={"identity": "d" * 16, "seed": 1})
    (source,) = (path.parent for path in ran.out.glob("cells/*/record.json"))
    shutil.copytree(source, tmp_path / "elsewhere" / "cells" / "one")
    write_record(other, tmp_path / "elsewhere" / "cells" / "one" / "record.json")
    imported = command("import", tmp_path / "export", tmp_path / "elsewhere", "--tracking-uri", ran.uri)
    assert imported.status == 0, imported.err
    assert imported.out.strip() == "rd4ad/folder/seed1"
    assert "1 imported, 1 already there" in imported.err
    store = MlflowStore(ran.uri, None)
    ((run_id, record),) = store.records(identity="d" * 16)
    assert record == other
    assert store.panels(run_id)
    assert "gallery.png" in store.files(run_id)
    assert len(store.client.get_metric_history(run_id, "train/loss")) == EPOCHS


@pytest.mark.parametrize("command_name", ["report", "run"])
def test_a_dead_server_is_one_line(command_name: str, tree: Path, tmp_path: Path) -> None:
    uri, file = f"http://127.0.0.1:{free_port()}", tmp_path / "own.yaml"
    file.write_text(YAML)
    arguments = (file, "--data-root", tree, "--quiet") if command_name == "run" else ()
    done = mddbench(command_name, *arguments, "--tracking-uri", uri, "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mddbench: tracking store {uri}: cannot be opened")
    assert not list((tmp_path / "out").glob("cells/*"))
