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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from mddbench.metrics.names import SEVEN
from mddbench.runs.records import Record, parse_record, read_record, write_record
from mddbench.runs.store import MlflowStore
from mddbench.runs.tracking import CellRun
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


@contextmanager
def a_server(folder: Path, migrated: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with an empty database, in a folder: its URI and its process, which leads a group of its own."""
    folder.mkdir()
    uri = f"http://127.0.0.1:{free_port()}"
    shutil.copy(migrated, folder / "server.db")
    with served(folder, uri) as process:
        yield uri, process


@contextmanager
def served(folder: Path, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server with the database of a folder, at an address that is free."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "log.txt"
    with (
        log.open("a") as stream,
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
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the server's own processes, too


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[str]:
    """The URI of a server that ends with the module's tests."""
    with a_server(tmp_path_factory.mktemp("server") / "own", migrated) as (uri, _):
        yield uri


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

    curve = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(log.epoch, log.loss) for log in record.history]
    assert len(curve) == EPOCHS
    for key in SEVEN:
        assert run.data.metrics[f"mean/{key}"] == record.value("mean", key)
    assert run.data.metrics["resources/parameters_total"] == record.cost["parameters_total"]
    assert run.data.params["optimizer.lr"] == "0.005"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["mddbench.identity"] == record.identity
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
    assert (tmp_path / "report" / "tree" / "gallery-rd4ad.png").stat().st_size > 10_000
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


def test_a_report_of_a_dead_server_is_one_line(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    done = mddbench("report", "--tracking-uri", uri, "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mddbench: tracking store {uri}: cannot be opened")


def test_a_dead_server_costs_no_cell(tree: Path, tmp_path: Path, ran: Ran) -> None:
    """The report comes from the records, and `collect` logs them to a server that lives."""
    uri, file, out = f"http://127.0.0.1:{free_port()}", tmp_path / "own.yaml", tmp_path / "out"
    file.write_text(YAML.replace("epochs: 3", "epochs: 1"))
    done = mddbench("run", file, "--data-root", tree, "--seeds", "5", "--tracking-uri", uri, "--out", out)
    assert done.returncode == 1
    assert len(list(out.glob("cells/*/record.json"))) == 1
    assert done.stdout.startswith("### ")
    told, summary = done.stderr.splitlines()[-2:]
    assert told.startswith(f"mddbench: rd4ad/folder/seed5 is not logged: tracking store {uri}: cannot be opened")
    plan = out / "cells" / "plan.json"
    assert summary == (
        f"mddbench: 1 finished cells are not logged; their records are in {out}; "
        f"`mddbench collect {plan}` or the same command will log them"
    )
    collected = mddbench("collect", plan, "--tracking-uri", ran.uri)
    assert collected.returncode == 0, collected.stderr
    assert collected.stdout == "rd4ad/folder/seed5\n"
    assert {"5"} == {run.data.params["seed"] for run in cells(MlflowStore(ran.uri, None))} - {"0", "1"}


def test_a_server_that_hangs_in_mid_run_costs_no_cell(
    tree: Path, tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped after the first epoch, given up at the end, and gets the cell when it goes on."""
    monkeypatch.setattr("mddbench.runs.live.PATIENCE", {True: 5.0, False: 5.0})
    monkeypatch.setattr("mddbench.runs.live.TELLING", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file, out = tmp_path / "own.yaml", tmp_path / "out"
    file.write_text(YAML.replace("epochs: 3", "epochs: 6"))
    with a_server(tmp_path / "server", migrated) as (uri, process):
        epoch = CellRun.epoch

        def stopping(run: CellRun, log: Any) -> None:
            os.killpg(process.pid, signal.SIGSTOP)
            epoch(run, log)

        arguments = ("run", file, "--data-root", tree, "--tracking-uri", uri, "--out", out, "--no-report")
        with monkeypatch.context() as patch:
            patch.setattr(CellRun, "epoch", stopping)
            done = mddbench(*arguments)
        assert done.returncode == 1, done.stderr
        assert len(list(out.glob("cells/*/record.json"))) == 1
        assert "does not answer" in done.stderr or "log_batch failed" in done.stderr
        assert "1 finished cells are not logged" in done.stderr
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(9)  # what still waits in this process, which does not end with the command here, gives up
        again = mddbench(*arguments)
        assert again.returncode == 0, again.stderr
        assert "skipped, finished before" in again.stderr
        runs = cells(MlflowStore(uri, None))
        assert [run.info.status for run in runs if run.info.status == "FINISHED"] == ["FINISHED"]


def test_a_server_that_is_killed_and_started_again_in_mid_run_gets_the_cell(
    tree: Path, tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one line, and exit status 0: all is logged at the end, to the same run."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file, out, epoch = tmp_path / "own.yaml", tmp_path / "out", CellRun.epoch
    file.write_text(YAML.replace("epochs: 3", "epochs: 6"))
    with ExitStack() as stack:
        uri, process = stack.enter_context(a_server(tmp_path / "server", migrated))
        killed: list[int] = []

        def killing(run: CellRun, log: Any) -> None:
            if killed:
                epoch(run, log)
                return
            killed.append(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            try:
                epoch(run, log)
            finally:
                stack.enter_context(served(tmp_path / "server", uri))

        monkeypatch.setattr(CellRun, "epoch", killing)
        done = mddbench("run", file, "--data-root", tree, "--tracking-uri", uri, "--out", out, "--no-report")
        assert done.returncode == 0, done.stderr
        assert killed
        assert done.stderr.count("the training goes on, and its results are logged at the end") == 1
        store = MlflowStore(uri, None)
        (run,) = cells(store)
        assert run.info.status == "FINISHED"
        assert len(store.client.get_metric_history(run.info.run_id, "train/loss")) == 6
