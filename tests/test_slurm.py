"""A plan on a real Slurm of this machine: whatever happens to its jobs, the records are those of a serial run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Slurm, running_slurm

from mddbench.errors import InputError
from mddbench.execution.frozen import FrozenPlan, read_plan
from mddbench.execution.slurm import (
    ClusterSettings,
    Job,
    is_held,
    jobs,
    put_back,
    read_cluster,
    script,
    starts_without_progress,
    submit,
)
from mddbench.runs.events import Event, append_event, read_events
from mddbench.runs.records import Record, read_record
from support import mddbench, mddbench_process, write_tree

SMALL = ("--set", "epochs=24", "--set", "image_size=64", "--set", "batch_size=2", "--seeds", "0,1,2,3", "-q")
TASK = ClusterSettings(gpus=1, cpus=1, time="30", warning=60)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running_slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "tree", train=8)


@pytest.fixture(scope="module")
def serial(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """The records of the same cells, run one after another by one thread, as the pretended nodes have."""
    out = tmp_path_factory.mktemp("serial") / "out"
    done = mddbench_process(
        "run",
        "folder/rd4ad",
        *("--data-root", root, "--out", out, "--tracking", "none", "--no-report", *SMALL),
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    return records(out)


@pytest.fixture
def file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan of four cells."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = mddbench("plan", "folder/rd4ad", "--data-root", root, "--out", tmp_path / "out", "--device", "cpu", *SMALL)
    assert done.returncode == 0, done.stderr
    (tmp_path / "plan.json").write_text(done.stdout, encoding="utf-8")
    return tmp_path / "plan.json"


def records(out: Path) -> dict[str, Record]:
    return {record.identity: record for path in out.glob("cells/*/record.json") if (record := read_record(path))}


def assert_equal(found: dict[str, Record], expected: dict[str, Record]) -> None:
    assert set(found) == set(expected)
    for identity, record in found.items():
        assert record.model_sha256 == expected[identity].model_sha256
        assert record.metrics == expected[identity].metrics
        assert [(log.loss, log.lr) for log in record.history] == [
            (log.loss, log.lr) for log in expected[identity].history
        ]


def has_trained(plan: FrozenPlan, index: int, process: int = 0) -> bool:
    """A process, other than the one given, has finished an epoch of a part."""
    events = read_events(plan.folder(plan.parts[index][0]))
    return any(event.kind == "epoch" and event.process != process for event in events)


def test_whatever_happens_to_the_tasks_the_records_are_those_of_a_serial_run(
    slurm: Slurm, file: Path, serial: dict[str, Record], tmp_path: Path
) -> None:
    """An array of four on two nodes. One is requeued, one killed, one cancelled, one warned of its time limit, and the
    controller is started anew."""
    plan = read_plan(file)
    number, indices = submit(plan, file, TASK)
    assert indices == [0, 1, 2, 3]
    slurm.wait(lambda: has_trained(plan, 1), 200, "the second does not train")
    os.kill(read_events(plan.folder(plan.parts[1][0]))[-1].process, signal.SIGKILL)
    slurm.wait(lambda: has_trained(plan, 0), 200, "the first does not train")
    slurm.ask("scontrol", "requeue", f"{number}_0")
    listed = json.loads(mddbench("status", file, "--json").stdout)
    assert [each["state"] for each in listed][3] == "queued"
    slurm.ask("scontrol", "shutdown", "slurmctld")
    slurm.wait(lambda: not (slurm.folder / "slurmctld.pid").exists(), 60, "the controller does not stop")
    slurm.start_controller()
    slurm.wait(lambda: has_trained(plan, 2), 200, "the third does not train")
    slurm.ask("scancel", f"{number}_2")
    slurm.wait(lambda: has_trained(plan, 3), 200, "the fourth does not train")
    slurm.ask("scancel", "--signal=USR2", "--batch", f"{number}_3")  # what Slurm sends before the time limit
    slurm.wait(slurm.is_empty, 400, "the tasks do not end")

    states = {each["part"]: each for each in json.loads(mddbench("status", file, "--json").stdout)}
    assert [states[index]["state"] for index in range(4)] == ["finished", "lost", "interrupted", "finished"]
    assert f"job {number}_1 has ended" in states[1]["note"]
    for index in (0, 3):
        kinds = [event.kind for event in read_events(plan.folder(plan.parts[index][0]))]
        assert kinds.count("started") == 2, "begun again by Slurm"
        assert kinds.count("interrupted") == 1
    assert "put back into the queue" in jobs(plan)[3].log.read_text()
    done = mddbench("submit", file, "--cpus", 1, "--time", "30")
    assert done.returncode == 0, done.stderr
    assert jobs(plan)[1].number == done.stdout.strip() != number
    slurm.wait(slurm.is_empty, 400, "the tasks do not end")
    assert_equal(records(tmp_path / "out"), serial)
    assert not [event for event in read_events(plan.folder(plan.parts[0][0])) if event.kind == "failed"]


def test_the_script_says_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "cluster:\n  partition: gpu\n  time: '14:00:00'\n  cpus: 8\n  parallel: 5\n"
        "  options: [--qos=long]\n  setup: [module load cuda]\n"
    )
    settings = read_cluster(tmp_path / "site.yaml", {"cpus": 2, "account": "vision", "memory": None, "options": ()})
    text = script(Path("plan.json"), [0, 3], settings, tmp_path)
    for line in (
        "#SBATCH --array=0,3%5",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=14:00:00",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --account=vision",
        "#SBATCH --qos=long",
        "#SBATCH --signal=B:USR2@120",
        "#SBATCH --requeue",
        "module load cuda",
    ):
        assert line in text.splitlines()
    assert "--mem=" not in text
    (tmp_path / "other.yaml").write_text("partition: gpu\n")
    with pytest.raises(InputError, match="expected a mapping `cluster:`"):
        read_cluster(tmp_path / "other.yaml", {})
    with pytest.raises(InputError, match="'time' is 'a b'"):
        read_cluster(None, {"time": "a b"})
    with pytest.raises(InputError, match="unknown key 'gpu'"):
        read_cluster(None, {"gpu": 1})


def events(*kinds: str | tuple[int, int]) -> list[Event]:
    """Events by their kinds; a pair of numbers is a checkpoint inside an epoch."""
    return [
        Event(kind="checkpoint", time="", epoch=each[0], step=each[1])
        if isinstance(each, tuple)
        else Event(kind=each, time="", epoch=kinds[:number].count("epoch") + 1 if each == "epoch" else 0)  # type: ignore[arg-type]
        for number, each in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("happened", "starts"),
    [
        ((), 0),
        (("started", "interrupted"), 1),
        (("started", "epoch", "interrupted"), 0),
        (("started", "epoch", "started", "interrupted", "started", "interrupted"), 2),
        (("started", (1, 5), "started", (1, 9), "started"), 1),
        (("started", (1, 5), "started", (1, 5), "started"), 2),
        (("started", (1, 5), "started", "epoch"), 0),
    ],
)
def test_starts_without_progress_are_counted(happened: tuple[str, ...], starts: int) -> None:
    assert starts_without_progress(events(*happened)) == starts


def test_a_part_that_does_not_advance_is_not_put_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only starts of this job count: whoever submits it again, with more time, has three more."""
    plan = read_plan(file)
    folder = plan.folder(plan.parts[0][0])
    folder.mkdir(parents=True)
    assert put_back(plan, 0) == "no job of Slurm runs this process"
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("mddbench.execution.slurm._slurm", lambda *words: asked.append(words))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for _ in range(2):
        append_event(folder, "started")
    assert put_back(plan, 0) == "scontrol requeue failed"
    append_event(folder, "started")
    assert "3 starts in a row made no progress" in put_back(plan, 0)
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert put_back(plan, 0) == "scontrol requeue failed"
    assert asked == [("scontrol", "requeue", "17"), ("scontrol", "requeue", "18")]
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "18")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    put_back(plan, 0)
    assert asked[-1] == ("scontrol", "requeue", "18_0"), "and not the whole array"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert "3 starts in a row" in put_back(plan, 1), "it was never begun"


def test_held_tasks_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_plan(file)
    folder = tmp = Path(plan.options.out) / "slurm"
    folder.mkdir(parents=True)
    (tmp / "9.json").write_text(json.dumps({"job": "9", "parts": [0, 1, 2], "plan": str(file), "time": 1.0}))
    (tmp / "8.json").write_text("{")
    (tmp / "9_2.out").write_text("Loading\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    waiting = {"9_0": ("PENDING", "launch failed requeued held"), "9_1": ("PENDING", "Priority")}
    monkeypatch.setattr("mddbench.execution.queued.queue", lambda: waiting)
    monkeypatch.setattr("mddbench.execution.queued.accounted", lambda _: "OUT_OF_MEMORY")
    listed = json.loads(mddbench("status", file, "--json").stdout)
    assert [each["state"] for each in listed] == ["held", "queued", "lost", "waiting"]
    assert "scontrol release 9_0" in listed[0]["note"]
    assert listed[2]["note"] == "job 9_2 has ended as OUT_OF_MEMORY: slurmstepd: error: Detected 1 oom_kill event"
    assert is_held("JobHeldUser")
    assert not is_held("Resources")
    assert Job("9", 2, tmp / "none").last_line() == ""


def test_without_slurm_submitting_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.execution.slurm._slurm", lambda *_, **__: None)
    done = mddbench("submit", file)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "sbatch: it is not installed here, or does not answer" in done.stderr
    assert mddbench("cancel", file).stdout == ""
