"""A plan in a file, its parts one by one, their events and states, and collecting them: the same cells as those of `run`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mddbench.errors import InputError
from mddbench.execution.frozen import read_plan
from mddbench.execution.models import build_detector
from mddbench.execution.state import is_untidy, states
from mddbench.runs.events import EVENTS, append_event, read_events
from mddbench.runs.leases import Owner, acquire, leased
from mddbench.runs.records import Record, read_record
from mddbench.runs.store import existing_store
from support import mddbench, plugin_folder, write_tree

SMALL = ("--set", "epochs=2", "--set", "image_size=64", "--set", "batch_size=4", "-q")

BANK = ("--set", "image_size=64", "--set", "batch_size=4", "-q")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mddbench cell` downloads nothing; the tests after these may."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree")


def planned(root: Path, out: Path, *options: object, name: str = "folder/rd4ad") -> Path:
    """A plan of the cells of an experiment, in a file beside the output folder."""
    done = mddbench("plan", name, "--data-root", root, "--out", out, *SMALL, *options)
    assert done.returncode == 0, done.stderr
    file = out.with_suffix(".json")
    file.write_text(done.stdout, encoding="utf-8")
    return file


def records(out: Path) -> dict[str, Record]:
    return {record.identity: record for file in out.glob("cells/*/record.json") if (record := read_record(file))}


def test_parts_one_by_one_are_the_cells_of_a_run(root: Path, tmp_path: Path) -> None:
    """Weights and metrics to the last bit; each part a second time is skipped; the store gets each cell once."""
    out, file = tmp_path / "grid", planned(root, tmp_path / "grid", "--seeds", "0,1")
    serial = tmp_path / "serial"
    done = mddbench(
        "run", "folder/rd4ad", "--data-root", root, "--out", serial, "--seeds", "0,1", "--tracking", "none", *SMALL
    )
    assert done.returncode == 0, done.stderr
    for index in (1, 0, 0):
        done = mddbench("cell", file, index, "-q")
        assert done.returncode == 0, done.stderr
    parts, whole = records(out), records(serial)
    assert len(parts) == 2
    assert set(parts) == set(whole)
    for identity, record in parts.items():
        assert record.model_sha256 == whole[identity].model_sha256
        assert record.metrics == whole[identity].metrics
        assert record.cost["train_seconds"] is not None
    events = read_events(next(out.glob("cells/*seed0*/")))
    assert [event.kind for event in events if event.kind != "said"] == [
        "started",
        "epoch",
        "epoch",
        "evaluated",
        "finished",
    ]
    for logged in (2, 0):
        done = mddbench("collect", file)
        assert done.returncode == 0, done.stderr
        assert f"{logged} logged, {2 - logged} already there, 0 not finished" in done.stderr
    assert len(existing_store(None, out).finished()) == 2


def test_cells_that_share_a_training_are_one_part(root: Path, tmp_path: Path) -> None:
    """Two scorings of one MDD-Net: the ablation of its signals trains once."""
    file = planned(root, tmp_path / "grid", "--set", "dataset=folder", name="ablation/fusion")
    plan = read_plan(file)
    assert max(map(len, plan.parts)) > 1
    assert len({cell.identity for cell in plan.cells()}) == len(plan.cells())


def test_states_follow_events_and_records(root: Path, tmp_path: Path) -> None:
    file = planned(root, tmp_path / "grid", "--seeds", "0,1,2,3")
    plan = read_plan(file)
    folders = [plan.folder(cell) for cell in plan.cells()]
    for folder in folders[1:]:
        folder.mkdir(parents=True)
        append_event(folder, "started")
        append_event(folder, "epoch", epoch=1)
    append_event(folders[2], "failed", message="the loss is not finite")
    append_event(folders[3], "interrupted", message="a signal")
    assert [state.state for state in states(plan)] == ["waiting", "lost", "failed", "interrupted"]
    assert [state.epochs for state in states(plan)] == [0, 1, 1, 1]
    done = mddbench("status", file)
    assert "1 failed, 1 interrupted, 1 lost, 1 waiting" in done.stdout
    assert "the loss is not finite" in done.stdout
    listed = json.loads(mddbench("status", file, "--json").stdout)
    assert [each["state"] for each in listed] == ["waiting", "lost", "failed", "interrupted"]
    assert [each["part"] for each in listed] == [0, 1, 2, 3]


def test_a_torn_line_and_strange_lines_are_left_out(tmp_path: Path) -> None:
    append_event(tmp_path, "started")
    with (tmp_path / EVENTS).open("a", encoding="utf-8") as file:
        file.write(
            '\n[1]\nnonsense\n{"kind": "flown", "time": "now"}\n{"kind": "epoch", "time": "never", "epoch": 3}\n'
        )
        file.write('{"kind": "epoch", "time": "2026-01-01T00:00:00", "epoch": 4}\n{"kind": "epo')
    append_event(tmp_path, "finished")
    events = read_events(tmp_path)
    assert [(event.kind, event.epoch) for event in events] == [
        ("started", 0),
        ("epoch", 3),
        ("epoch", 4),
        ("finished", 0),
    ]
    assert events[1].when.year == 1970
    assert events[2].when.utcoffset() is not None
    assert read_events(tmp_path / "nowhere") == []


def test_the_job_of_a_cluster_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "19")
    append_event(tmp_path, "started")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    append_event(tmp_path, "finished")
    assert [event.job for event in read_events(tmp_path)] == ["19", "17_3"]


def test_data_that_changed_since_the_plan_are_found_out(root: Path, tmp_path: Path) -> None:
    file = planned(root, tmp_path / "grid")
    image = next((root / "bolt" / "train" / "good").iterdir())
    image.unlink()
    done = mddbench("cell", file, 0, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "or the data have changed" in done.stderr, "they are not decoded"
    for command in (("prepare", file, "-q"), ("cell", file, 0, "-q")):  # the second finds what the first has decoded
        done = mddbench(*command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "its data or weights have changed, so make a new plan" in done.stderr


def test_a_plan_of_other_code_is_refused_unless_that_is_wanted(root: Path, tmp_path: Path) -> None:
    file = planned(root, tmp_path / "grid")
    file.write_text(file.read_text(encoding="utf-8").replace('"source": "', '"source": "0'), encoding="utf-8")
    done = mddbench("cell", file, 0, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "was made by other code" in done.stderr
    done = mddbench("cell", file, 0, "-q", "--other-code", "--sharing", 2)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "grid").values()
    assert record.cost["train_seconds"] is None  # of a cell that shared its device
    assert record.environment["cells_on_device"] == 2


def test_running_and_finished(root: Path, tmp_path: Path) -> None:
    """On whatever machine: a lease that is renewed shows it."""
    file = planned(root, tmp_path / "grid", "--seeds", "0,1,2")
    plan = read_plan(file)
    running, elsewhere, finished = (plan.folder(cell) for cell in plan.cells())
    for folder in (running, elsewhere, finished):
        folder.mkdir(parents=True)
        append_event(folder, "started")
    (finished / "record.json").write_text("damaged", encoding="utf-8")
    acquire(elsewhere, owner=Owner("another", 7, "another since its start"))
    with leased(running):
        assert [state.state for state in states(plan)] == ["running", "running", "finished"]
    assert [state.state for state in states(plan)] == ["lost", "running", "finished"]
    done = mddbench("collect", file)
    assert done.returncode == 1
    assert "record.json" in done.stderr
    assert "0 logged, 0 already there, 2 not finished" in done.stderr


def test_an_event_that_cannot_be_written_costs_no_training(root: Path, tmp_path: Path) -> None:
    file = planned(root, tmp_path / "grid")
    plan = read_plan(file)
    folder = plan.folder(plan.cells()[0])
    (folder / EVENTS).mkdir(parents=True)  # nothing can be appended to a folder
    done = mddbench("cell", file, 0)
    assert "an event could not be written" in done.stderr
    assert list(records(tmp_path / "grid")) == [plan.cells()[0].identity]


def test_what_is_no_plan_is_one_line(root: Path, tmp_path: Path) -> None:
    file = planned(root, tmp_path / "grid")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    done = mddbench("cell", file, 1, "-q")
    assert (done.returncode, done.stderr) == (2, f"mddbench: {file}: has the parts 0 to 0, found 1\n")
    for change, message in (
        ("{", "a plan cannot be read there"),
        ("[]", "expected a plan, found list; make one by `mddbench plan`"),
        (json.dumps(content | {"version": 3}), "'version' is 3"),
        (json.dumps(content | {"options": content["options"] | {"held_out": "no"}}), "'options.held_out' is 'no'"),
        (json.dumps(content | {"options": content["options"] | {"out": None}}), "'options.out' is None"),
        (json.dumps(content | {"device": "gpu"}), "'device' is 'gpu'"),
        (json.dumps(content).replace("cells/", "../cells/"), r"folder' is '../cells/"),
        (json.dumps(content).replace("cells/", "cells/../"), r"folder' is 'cells/../"),
        (json.dumps(content | {"more": 1}), "unknown key 'more'"),
    ):
        file.write_text(change, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_plan(file)


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM"])
def test_a_signal_ends_a_part_and_the_next_call_goes_on(name: str, root: Path, tmp_path: Path) -> None:
    """To the same bits as a part that nobody disturbed."""
    disturbed, quiet = (planned(root, tmp_path / each, "--set", "epochs=6") for each in ("disturbed", "quiet"))
    assert mddbench("cell", quiet, 0, "-q").returncode == 0
    plan = read_plan(disturbed)
    folder = plan.folder(plan.cells()[0])
    command = [str(Path(sys.executable).with_name("mddbench")), "cell", str(disturbed), "0", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(event.kind == "epoch" for event in read_events(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, getattr(signal, name))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name), stderr
    assert read_events(folder)[-1].kind == "interrupted"
    assert mddbench("cell", disturbed, 0, "-q").returncode == 0
    one, other = (next(iter(records(tmp_path / each).values())) for each in ("disturbed", "quiet"))
    assert (one.identity, one.model_sha256, one.metrics) == (other.identity, other.model_sha256, other.metrics)


def test_a_plan_builds_each_model_once_and_a_cell_its_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def counted(experiment: Any, *rest: Any) -> Any:
        built.append(experiment.name)
        return build_detector(experiment, *rest)

    for module in ("models", "runner"):
        monkeypatch.setattr(f"mddbench.execution.{module}.build_detector", counted)
    file = planned(root, tmp_path / "grid", "--seeds", "0,1,2")
    assert len(built) == 1
    assert len(read_plan(file).parts) == 3
    assert mddbench("cell", file, 0, "-q").returncode == 0
    assert len(built) == 2


def test_a_cell_checks_the_memory_of_its_own_machine(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = planned(root, tmp_path / "grid")
    monkeypatch.setattr("mddbench.execution.models.bytes_of_model", lambda *_: 0)
    monkeypatch.setattr("mddbench.engine.memory.memory_of", lambda _: 2**20)
    done = mddbench("cell", file, 0, "-q")
    assert done.returncode == 1
    assert "evaluating 12 images of 64x64 pixels at once takes" in done.stderr
    assert not records(tmp_path / "grid")


def test_a_plan_keeps_the_users_own_ablation(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "sigma.yaml"
    own.write_text("title: Sigma\nbase: folder/rd4ad\nvary:\n  settings.sigma: [2.0, 3.0]\n")
    file = planned(root, tmp_path / "grid", name=str(own))
    assert len(read_plan(file).cells()) == 2
    assert [path.read_text() for path in (tmp_path / "grid").rglob("sigma.yaml")] == [own.read_text()]


def test_a_plan_with_plugins_can_be_run(root: Path, tmp_path: Path) -> None:
    """The code of a plug-in is part of the code of a plan."""
    plugins = plugin_folder(tmp_path / "plugins")
    done = mddbench(
        "plan", "folder/patch_bank", "--plugins", plugins, "--data-root", root, "--out", tmp_path / "grid", *BANK
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "plan.json").write_text(done.stdout, encoding="utf-8")
    done = mddbench("cell", tmp_path / "plan.json", 0, "-q")
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "grid")) == 1


def test_what_a_killed_process_did_not_tidy_is_tidied(root: Path, tmp_path: Path) -> None:
    """A picture that is missing, and a checkpoint that nobody needs."""
    file = planned(root, tmp_path / "grid")
    assert mddbench("cell", file, 0, "-q").returncode == 0
    folder = read_plan(file).folder(read_plan(file).cells()[0])
    (folder / "gallery.png").unlink()
    (folder / "checkpoint.pt").write_bytes(b"left")
    assert is_untidy(folder)
    assert mddbench("cell", file, 0, "-q").returncode == 0
    assert (folder / "gallery.png").exists()
    assert not (folder / "checkpoint.pt").exists()
    assert not is_untidy(folder)


def test_a_run_has_a_plan_of_its_own(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("folder/rd4ad", "--data-root", root, "--out", out, "--no-report", "--tracking", "none", *SMALL)
    assert mddbench("run", *arguments).returncode == 0
    assert mddbench("status", out / "cells" / "plan.json").stdout == "1 finished\n"
    assert mddbench("cell", out / "cells" / "plan.json", 0, "-q").returncode == 0
    for options, message in (
        (("--on", "moon"), "--on moon: expected here or slurm"),
        (("--cluster", "site.yaml"), "--cluster FILE goes with --on slurm"),
        (("--on", "slurm", "--force"), "--on slurm: goes without --force"),
    ):
        done = mddbench("run", *arguments, *options)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_run_on_slurm_submits_its_plan(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, scripts = tmp_path / "out", []

    def answer(*command: str, stdin: str = "") -> Any:
        scripts.append(stdin)
        return subprocess.CompletedProcess(command, 0, "17;cluster\n" if command[0] == "sbatch" else "", "")

    monkeypatch.setattr("mddbench.execution.slurm._slurm", answer)
    done = mddbench("run", "folder/rd4ad", "--data-root", root, "--out", out, "--on", "slurm", "--seeds", "0,1", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "17\n"
    assert "2 parts submitted" in done.stderr
    assert "#SBATCH --array=0,1" in scripts[-1].splitlines()
    assert str(out / "cells" / "plan.json") in scripts[-1]
    assert [each["state"] for each in json.loads(mddbench("status", out / "cells/plan.json", "--json").stdout)] == [
        "lost",
        "lost",
    ]


def test_parts_decode_nothing_and_prepare_does(root: Path, tmp_path: Path) -> None:
    """What is missing is told in a line; `prepare` makes it, with the database of the store, and finds changed data."""
    file = planned(root, tmp_path / "grid")
    decoded = tmp_path / "grid" / "cache" / "decoded"
    shutil.rmtree(decoded)
    done = mddbench("cell", file, 0, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{decoded}: holds no decoded images of these files (64x64)" in done.stderr
    assert "`mddbench prepare PLAN` decodes them" in done.stderr
    assert not list(decoded.glob("*.npy"))
    done = mddbench("prepare", file)
    assert done.returncode == 0, done.stderr
    assert "ready: 1 cells, and the tracking store sqlite:///" in done.stderr
    assert (tmp_path / "grid" / "mlflow.db").exists()
    assert len(list(decoded.glob("*-images.npy"))) == 2
    assert mddbench("cell", file, 0, "-q").returncode == 0
    next((root / "bolt" / "train" / "good").iterdir()).unlink()
    done = mddbench("prepare", file, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "its data or weights have changed, so make a new plan" in done.stderr


def test_weights_that_are_not_here_are_told_in_a_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = planned(root, tmp_path / "grid")
    file.write_text(file.read_text().replace('"tf_efficientnet_lite0"', '"resnet10t.c3_in1k"'))
    done = mddbench("cell", file, 0, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "encoder 'resnet10t.c3_in1k': its weights are not on this machine, and nothing is downloaded" in done.stderr


def test_a_store_that_fails_costs_a_submission_a_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = planned(root, tmp_path / "grid")
    answers = {"sbatch": "17\n"}
    monkeypatch.setattr(
        "mddbench.execution.slurm._slurm",
        lambda *words, **_: subprocess.CompletedProcess(words, 0, answers.get(words[0], ""), ""),
    )
    (tmp_path / "grid" / "mlflow.db").write_text("no database")
    done = mddbench("submit", file)
    assert (done.returncode, done.stdout) == (0, "17\n")
    assert "cannot be opened" in done.stderr
    assert "the parts are run all the same" in done.stderr
    done = mddbench("prepare", file, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
