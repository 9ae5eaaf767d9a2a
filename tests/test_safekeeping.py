"""Nothing reported may be wrong, nothing of the user's may be lost: damaged files, moved folders, failing stores, signals."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mddbench.errors import TrackingError
from mddbench.execution.fit import Fit
from mddbench.execution.replacing import finish_replacing
from mddbench.runs.events import replacement_folder
from mddbench.runs.records import Record, read_record
from mddbench.runs.store import MlflowStore
from support import YAML, Done, mddbench_process

Make = Callable[[str], Path]
Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def _signals_that_come_late_do_nothing() -> Iterator[None]:
    """One may arrive when the command has ended. Whatever this process was started with: background jobs ignore SIGINT."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment of one epoch."""
    path = tmp_path / "own.yaml"
    path.write_text(YAML.replace("epochs: 3", "epochs: 1"))
    return path


@pytest.fixture
def run(command: Command, tree: Path, file: Path) -> Callable[..., Done]:
    """`mddbench run` of that experiment."""

    def go(out: Path, *more: object) -> Done:
        return command("run", file, "--data-root", tree, "--out", out, "--no-report", *more)

    return go


def cell(out: Path) -> Path:
    (folder,) = (record.parent for record in out.glob("cells/*/record.json"))
    return folder


def record(out: Path) -> Record:
    return read_record(cell(out) / "record.json")


def store(out: Path) -> MlflowStore:
    return MlflowStore(f"sqlite:///{out / 'mlflow.db'}", out / "mlruns")


def runs(out: Path) -> list[Any]:
    return store(out).search("tags.`mddbench.kind` = 'cell'")


def flip(path: Path, at: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# Damaged files


def test_a_damaged_model_is_no_other_cells_training(run: Callable[..., Done], tmp_path: Path) -> None:
    out, other = tmp_path / "out", ("--set", "metrics=histogram", "--tracking", "none")
    assert run(out, "--tracking", "none").status == 0
    before = record(out)
    shutil.copytree(out, tmp_path / "sound")
    assert "trained before, as" in run(tmp_path / "sound", *other).err
    flip(cell(out) / "model.safetensors")
    ran = run(out, *other)
    assert ran.status == 0
    assert "model.safetensors: it is damaged" in ran.err
    assert "training it anew" in ran.err
    records = [read_record(each) for each in out.glob("cells/*/record.json")]
    assert {each.model_sha256 for each in records} == {before.model_sha256}
    assert all("trained_as" not in each.environment for each in records)


@pytest.mark.parametrize("damage", ["a byte", "cut short", "gone"])
def test_the_maps_of_a_damaged_model_are_not_kept(damage: str, run: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "--tracking", "none").status == 0
    model = cell(out) / "model.safetensors"
    if damage == "a byte":
        flip(model)
    elif damage == "cut short":
        model.write_bytes(model.read_bytes()[:1000])
    else:
        model.unlink()
    ran = run(out, "--tracking", "none", "--keep-maps")
    assert ran.status == 1
    assert f"{model}: it " in ran.err
    assert "so its maps cannot be made again; --force runs the cell again" in ran.err
    assert not (cell(out) / "maps").exists()


def test_a_record_that_is_cut_short_says_how_to_mend_it(run: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "--tracking", "none").status == 0
    before, path = record(out), cell(out) / "record.json"
    path.write_text(path.read_text()[:300])
    ran = run(out, "--tracking", "none")
    assert ran.status == 1
    assert f"{path}: not valid JSON" in ran.err
    assert "--force runs the cell again" in ran.err
    assert run(out, "--tracking", "none", "--force").status == 0
    assert record(out).deterministic() == before.deterministic()


def test_a_broken_note_of_a_run_is_told_and_ignored(
    run: Callable[..., Done], tmp_path: Path, fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = fresh_store("out")
    with monkeypatch.context() as patch:
        patch.setattr("mddbench.execution.fit.Fit.train", _interrupt)
        assert run(out).status == 130
    (note,) = out.glob("cells/*/mlflow-run.json")
    note.write_text('{"uri": "sqli')
    ran = run(out)
    assert ran.status == 0
    assert "mlflow-run.json: cannot be read, so an interrupted run is not taken up again" in ran.err
    assert sorted(run.info.status for run in runs(out)) == ["FINISHED", "KILLED"]


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


# --force


@pytest.mark.parametrize("when", ["training", "evaluate"])
def test_force_keeps_what_is_finished_until_there_is_better(
    when: str, run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(out, "--tracking", "none").status == 0
    before = {path.name: path.read_bytes() for path in cell(out).iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("mddbench.execution.fit.Fit." + ("train" if when == "training" else "evaluate"), _interrupt)
        ended = run(out, "--tracking", "none", "--force")
    assert ended.status == 130
    assert ended.err.splitlines()[-1] == "mddbench: interrupted; what had finished before is kept"
    assert {path.name: path.read_bytes() for path in cell(out).iterdir()} == before
    assert list((out / "cells/.new").iterdir())
    ran = run(out, "--tracking", "none")
    assert "skipped, finished before" in ran.err
    assert "an earlier --force ended here; what it had begun is removed" in ran.err
    assert not list((out / "cells/.new").iterdir())
    assert run(out, "--tracking", "none", "--force").status == 0
    assert (cell(out) / "record.json").read_bytes() != before["record.json"], "its times are of the new run"
    assert (cell(out) / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert not list((out / "cells/.new").iterdir())
    assert not list((out / "cells/.old").iterdir())


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_replacement_that_was_killed_is_ended_by_the_next_run(
    calls: int, run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is killed, the new cell is in its place afterwards, whole."""
    out = tmp_path / "out"
    assert run(out, "--tracking", "none").status == 0
    folder = cell(out)
    shutil.copytree(folder, replacement_folder(folder))
    (replacement_folder(folder) / "which").write_text("new")
    move, left = Path.replace, iter(range(calls))

    def killed(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr("mddbench.execution.replacing.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt) if calls < 2 else monkeypatch.context():
            finish_replacing(folder)
    assert "skipped, finished before" in run(out, "--tracking", "none").err
    assert (folder / "which").exists()
    assert (folder / "model.safetensors").exists()
    assert not list((out / "cells/.old").glob("*"))


# The tracking store


class FullError(Exception):
    """As MLflow says it: many lines."""

    def __str__(self) -> str:
        return "(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT INTO metrics ...]\n" * 50


def full(*_: object, **__: object) -> None:
    raise FullError


@pytest.mark.parametrize("call", ["log_batch", "log_text", "log_artifact", "set_terminated"])
def test_a_store_that_is_full_costs_no_record(
    call: str, run: Callable[..., Done], fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = fresh_store("out")
    with monkeypatch.context() as patch:
        import mlflow

        if call == "log_batch":  # metrics, not the params that come before the training
            client = mlflow.MlflowClient
            log = client.log_batch
            patch.setattr(
                client, call, lambda *a, metrics=(), **k: full() if metrics else log(*a, metrics=metrics, **k)
            )
        else:
            patch.setattr(mlflow.MlflowClient, call, full)
        ran = run(out)
    assert ran.status == 1
    said = [line for line in ran.err.splitlines() if "disk is full" in line]
    assert any(line.startswith("mddbench: rd4ad/folder/seed0 is not logged: tracking store") for line in said)
    assert f"1 finished cells are not logged; their records are in {out}; `mddbench collect" in ran.err
    assert all("SQL" not in line for line in said)
    assert len(said) <= 5
    again = run(out)
    assert again.status == 0
    assert "training:" not in again.err
    finished = [one for one in runs(out) if one.info.status == "FINISHED"]
    assert len(finished) == 1
    assert finished[0].data.metrics["mean/i_auroc"] == pytest.approx(record(out).value("mean", "i_auroc"))
    assert len(runs(out)) == 1


def test_a_half_made_database_of_a_killed_process_is_removed(fresh_store: Make) -> None:
    out = fresh_store("out")
    (out / ".mlflow-abc").mkdir()
    (out / ".mlflow-abc" / "mlflow.db").write_bytes(b"half")
    assert not store(out).search("")
    assert {path.name for path in out.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_store_that_is_gone_between_cells_costs_no_training(
    run: Callable[..., Done], fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = fresh_store("out")
    with monkeypatch.context() as patch:
        for call in ("create_run", "log_batch", "search_runs", "set_terminated", "set_tag"):
            patch.setattr(f"mlflow.MlflowClient.{call}", full)
        ran = run(out, "--seeds", "0,1,2")
    assert ran.status == 1
    assert len(list(out.glob("cells/*/record.json"))) == 3
    assert "3 finished cells are not logged" in ran.err
    assert "cells failed" not in ran.err
    assert run(out, "--seeds", "0,1,2").status == 0
    assert [one.info.status for one in runs(out)] == ["FINISHED"] * 3


def test_a_forced_cell_that_was_not_logged_is_logged_later(
    run: Callable[..., Done], fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store has an older finished run of the cell, which is not this one."""
    out = fresh_store("out")
    assert run(out).status == 0
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_text", full)
        assert run(out, "--force").status == 1
    assert sorted(one.info.status for one in runs(out)) == ["FAILED", "FINISHED"]
    assert run(out).status == 0
    assert [one.info.status for one in runs(out)] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize("what", ["mlflow.db", "out"])
def test_what_is_deleted_under_a_run_is_told_in_a_line(
    what: str, run: Callable[..., Done], file: Path, tree: Path, fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, train = fresh_store("out"), Fit.train

    def deleting(*arguments: Any) -> Any:
        trained = train(*arguments)
        (out / "mlflow.db").unlink() if what == "mlflow.db" else shutil.rmtree(out)
        return trained

    with monkeypatch.context() as patch:
        patch.setattr("mddbench.execution.fit.Fit.train", deleting)
        ran = run(out)
    assert ran.status == 1, ran.err
    told = "is not logged:" if what == "mlflow.db" else "failed:"
    lines = [line for line in ran.err.splitlines() if line.startswith(f"mddbench: rd4ad/folder/seed0 {told}")]
    assert len(lines) == 1
    assert "Traceback" not in ran.err
    if what == "mlflow.db":
        again = mddbench_process("run", file, "--data-root", tree, "--out", out, "--no-report")
        assert again.returncode == 0, again.stderr
        code = "import sys; from mddbench.runs.store import MlflowStore; store = MlflowStore(*sys.argv[1:], None)"
        count = f"{code}; print(len(list(store.records())))"
        found = subprocess.run(
            [sys.executable, "-c", count, f"sqlite:///{out / 'mlflow.db'}"], capture_output=True, check=True
        )
        assert found.stdout.strip() == b"1"


# Folders that were moved or copied, and odd names


@pytest.mark.parametrize("way", ["moved", "copied"])
@pytest.mark.parametrize("begun", [True, False], ids=["interrupted before", "finished before"])
def test_another_place_is_the_new_home(
    way: str,
    begun: bool,
    run: Callable[..., Done],
    fresh_store: Make,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    old = fresh_store("old")
    with monkeypatch.context() as patch:
        if begun:
            patch.setattr("mddbench.execution.fit.Fit.evaluate", _interrupt)
        assert run(old).status == (130 if begun else 0)
    new = old.with_name("new")
    (shutil.move if way == "moved" else shutil.copytree)(old, new)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert run(new, "--seeds", "0,1").status == 0
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    assert old.exists() == (way == "copied")
    report = command("report", "--out", new, "--to", new / "elsewhere", "--tables")
    assert report.status == 0, report.err
    assert "| RD4AD | 2 |" in report.out
    finished = [one for one in runs(new) if one.info.status == "FINISHED"]
    assert len(finished) == 2
    assert all(one.info.artifact_uri.startswith(new.as_uri()) for one in finished)
    assert len(list((new / "mlruns").rglob("record.json"))) == 2


@pytest.mark.parametrize("name", ["a#b", "100%", "für uns", "a;b='c'"])
def test_an_odd_name_of_the_output_folder(
    name: str, run: Callable[..., Done], fresh_store: Make, tmp_path: Path, command: Command
) -> None:
    out = fresh_store(name)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)}
    assert run(out).status == 0
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)} == before
    assert command("report", "--out", out, "--tables").status == 0
    assert len(runs(out)) == 1


@pytest.mark.parametrize("name", ["x?y", "a%20b", "a%2Fb"])
def test_a_name_that_a_store_cannot_have_is_refused_at_once(
    name: str, run: Callable[..., Done], tmp_path: Path, file: Path, tree: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    ran = run(tmp_path / name)
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 1
    assert f"{tmp_path / name}: MLflow cannot keep its database in a folder with" in ran.err
    assert set(tmp_path.rglob("*")) == before
    assert run(tmp_path / name, "--tracking", "none").status == 0


def test_one_store_of_two_output_folders_keeps_to_each(
    run: Callable[..., Done], fresh_store: Make, tmp_path: Path
) -> None:
    uri = f"sqlite:///{fresh_store('store') / 'mlflow.db'}"
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, "--tracking-uri", uri).status == 0
    assert run(two, "--tracking-uri", uri, "--seeds", "1").status == 0
    for out in (one, two):
        assert len(list(out.glob("mlruns/**/record.json"))) == 1
    assert len(list(MlflowStore(uri, two / "mlruns").records())) == 2


def _without_override() -> None:
    """Let root be refused where the permissions refuse: no CAP_DAC_OVERRIDE."""
    drop, override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
    ctypes.CDLL(None).prctl(drop, override, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="permissions of root are dropped in Linux' way")
def test_a_write_protected_folder_can_be_read(run: Callable[..., Done], fresh_store: Make, tmp_path: Path) -> None:
    out = fresh_store("out")
    assert run(out).status == 0
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    program = str(Path(sys.executable).with_name("mddbench"))
    for folder in folders:
        folder.chmod(0o555)
    (out / "mlflow.db").chmod(0o444)
    try:
        for command in (["export", tmp_path / "records"], ["report", "--tables", "--to", tmp_path / "report"]):
            arguments = [program, *map(str, command), "--out", str(out)]
            ran = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=_without_override, check=False)
            assert ran.returncode == 0, ran.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (tmp_path / "records/folder/rd4ad-seed0.json").exists()
    assert (tmp_path / "report/tree/main.md").exists()


def test_two_imports_at_once_import_once(run: Callable[..., Done], fresh_store: Make, tmp_path: Path) -> None:
    made, out = tmp_path / "made", fresh_store("out")
    assert run(made, "--tracking", "none").status == 0
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: mddbench_process("import", made, "--out", out), range(3)))
    assert [one.returncode for one in ended] == [0, 0, 0]
    assert sorted(one.stderr.split(" imported")[0][-1] for one in ended) == ["0", "0", "1"]
    assert len(runs(out)) == 1


# Signals and pipes


def send_when(ready: Callable[[], bool], signals: tuple[signal.Signals, ...]) -> threading.Thread:
    """Send signals to this process, a little apart, once something is there."""

    def wait_and_send() -> None:
        deadline = time.monotonic() + 100
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    thread = threading.Thread(target=wait_and_send, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ((signal.SIGINT,), 130),
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM,), 143),
        ((signal.SIGTERM, signal.SIGINT), 143),
        ((signal.SIGHUP,), 129),
        ((signal.SIGQUIT,), 131),
    ],
    ids=str,
)
def test_a_signal_ends_a_run_as_ctrl_c_does(
    signals: tuple[signal.Signals, ...], status: int, run: Callable[..., Done], fresh_store: Make
) -> None:
    out = fresh_store("out")
    before = [signal.getsignal(number) for number in signals]
    thread = send_when(lambda: bool(list(out.glob("cells/*/checkpoint.pt"))), signals)
    ended = run(out, "--set", "epochs=4000")
    thread.join()
    assert ended.status == status
    assert ended.err.splitlines()[-1] == "mddbench: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in ended.err
    assert [one.info.status for one in runs(out)] == ["KILLED"]
    assert len(store(out).search("")) == 1, "and none for the command"
    assert [signal.getsignal(number) for number in signals] == before


def test_what_is_ignored_stays_ignored(run: Callable[..., Done], tmp_path: Path) -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        out = tmp_path / "out"
        thread = send_when(lambda: bool(list(out.glob("cells/*/checkpoint.pt"))), (signal.SIGHUP,))
        assert run(out, "--tracking", "none", "--set", "epochs=20").status == 0
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("arguments", [["list"], ["list", "suites"], ["--version"]], ids=" ".join)
def test_a_reader_that_has_gone_ends_a_command_quietly(arguments: list[str]) -> None:
    """Whether the output is longer than a buffer, or first written when the process ends."""
    read, write = os.pipe()
    os.close(read)
    program = str(Path(sys.executable).with_name("mddbench"))
    ran = subprocess.run([program, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_run_whose_progress_nobody_reads_is_closed(
    run: Callable[..., Done], fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(lines: Any, *_: object) -> None:
        if lines.label == "training":
            raise BrokenPipeError

    out = fresh_store("out")
    monkeypatch.setattr("mddbench.progress._Lines.advance", gone)
    monkeypatch.setattr("mddbench.cli.ending.os.dup2", lambda *_: None)
    assert run(out).status == 141
    assert [one.info.status for one in runs(out)] == ["KILLED"]


def test_a_failing_store_is_one_line_whatever_it_raises(tmp_path: Path, fresh_store: Make) -> None:
    opened = store(fresh_store("out"))
    with pytest.raises(TrackingError) as told:
        opened.client.get_run("0" * 32)
    assert "\n" not in str(told.value)
    assert "get_run failed" in str(told.value)
