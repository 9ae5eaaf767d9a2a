"""Slurm: one array job for a plan, what its queue says, and whether a job that was stopped goes back into it.

Plain `sbatch`, with nothing to install. The results of a job are the records in the folders of the cells.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mddbench.errors import InputError
from mddbench.execution.frozen import FrozenPlan
from mddbench.execution.jobs import PROGRAM
from mddbench.execution.state import in_work, is_untidy
from mddbench.runs.bounds import LONGEST_TEXT, Natural
from mddbench.runs.events import Event, job_of_cluster, read_events
from mddbench.runs.records import RECORD
from mddbench.settings import Strict, read_yaml, validated

FOLDER = "slurm"
"""Folder of scripts, logs and notes of jobs in the output folder."""
MOST_STARTS = 3
"""After this many starts of a job without progress, it is not put back into the queue."""
ANSWER = 30.0
"""Seconds to wait for an answer of Slurm."""
HELD = ("held", "Held")
Word = Annotated[str, Field(max_length=1000, pattern=r"^[^\s]+$")]
Line = Annotated[str, Field(max_length=LONGEST_TEXT, pattern=r"^[^\n]+$")]


class ClusterSettings(Strict):
    """What each task of an array job gets."""

    gpus: Natural = Field(1, description="Number of GPUs.")
    cpus: Annotated[int, Field(ge=1, le=4096)] = Field(4, description="Number of processors.")
    memory: Word | None = Field(None, description="Memory, such as 32G; the cluster's default if it is left out.")
    time: Word | None = Field(
        None, description="Time limit, such as 04:00:00. A task goes on after it in another turn."
    )
    partition: Word | None = Field(None, description="Partition.")
    account: Word | None = Field(None, description="Account.")
    constraint: Word | None = Field(None, description="Features that the nodes must have.")
    parallel: Annotated[int, Field(ge=1)] | None = Field(None, description="Most tasks at a time.")
    warning: Annotated[int, Field(ge=1, le=3600)] = Field(120, description="Seconds before the limit at which to stop.")
    options: tuple[Line, ...] = Field((), description="Further options of sbatch, such as --qos=long.")
    setup: tuple[Line, ...] = Field((), description="Lines of the script before the command, such as module load cuda.")


def read_cluster(file: Path | None, changes: dict[str, Any]) -> ClusterSettings:
    """Read the settings from the mapping `cluster` of a YAML file, and change some.

    Args:
        file: The file; None for the defaults.
        changes: Setting -> value. None stands for no change.

    Returns:
        The settings.

    Raises:
        InputError: If the file has no such mapping, or if a setting does not fit.
    """
    content: Any = {}
    if file is not None:
        content = read_yaml(file).get("cluster")
        if not isinstance(content, dict):
            raise InputError(f"{file}: expected a mapping `cluster:` with settings such as time and partition")
    content = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    wanted = {key: value for key, value in changes.items() if value not in (None, ())}
    return validated(ClusterSettings, {**content, **wanted}, str(file or "cluster"))


def script(file: Path, indices: Sequence[int], settings: ClusterSettings, folder: Path) -> str:
    """Write the batch script of an array job.

    Args:
        file: File of the plan.
        indices: Numbers of the parts.
        settings: What each task gets.
        folder: Folder of the logs.

    Returns:
        The script.
    """
    array = ",".join(map(str, indices)) + (f"%{settings.parallel}" if settings.parallel else "")
    options = {
        "job-name": "mddbench",
        "array": array,
        "output": f"{folder}/%A_%a.out",
        "open-mode": "append",
        "signal": f"B:USR2@{settings.warning}",
        "ntasks": 1,
        "cpus-per-task": settings.cpus,
        "gpus-per-node": settings.gpus or None,
        "mem": settings.memory,
        "time": settings.time,
        "partition": settings.partition,
        "account": settings.account,
        "constraint": settings.constraint,
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None)]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in settings.options), *settings.setup]
    command = [sys.executable, "-c", PROGRAM, "cell", str(file.absolute())]
    return "\n".join([
        *lines,
        "threads=$(nproc)  # of those that the job may use",
        '[ "${SLURM_CPUS_PER_TASK:-$threads}" -lt "$threads" ] && threads=$SLURM_CPUS_PER_TASK',
        "export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads",
        f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID" --requeue',
        "",
    ])


def submit(plan: FrozenPlan, file: Path, settings: ClusterSettings) -> tuple[str, list[int]]:
    """Submit the parts of a plan that are not finished and tidied, running or in the queue, as one array job.

    Args:
        plan: The plan.
        file: Its file, which all nodes see.
        settings: What each task gets.

    Returns:
        The number of the job, '' if there is nothing to do, and the numbers of the parts.

    Raises:
        InputError: If Slurm refuses the job.
    """
    folder = Path(plan.options.out) / FOLDER
    queued = queue()
    waiting = {job.index for job in jobs(plan) if job.task in queued}
    indices = [index for index in range(len(plan.parts)) if index not in waiting and _is_open(plan, index)]
    if not indices:
        return "", []
    folder.mkdir(parents=True, exist_ok=True)
    text = script(file, indices, settings, folder)
    done = _slurm("sbatch", "--parsable", stdin=text)
    if done is None or done.returncode:
        reason = " ".join(done.stderr.split()) if done else "it is not installed here, or does not answer"
        raise InputError(f"sbatch: {reason}; {len(indices)} parts, the last is {indices[-1]} (see MaxArraySize)")
    number = done.stdout.strip().partition(";")[0]
    (folder / f"{number}.sh").write_text(text, encoding="utf-8")
    note = {"job": number, "parts": indices, "plan": str(file.absolute()), "time": time.time()}
    (folder / f"{number}.json").write_text(json.dumps(note), encoding="utf-8")
    return number, indices


def _is_open(plan: FrozenPlan, index: int) -> bool:
    folders = [plan.folder(cell) for cell in plan.parts[index]]
    return any(not (folder / RECORD).exists() or is_untidy(folder) for folder in folders) and not any(
        map(in_work, folders)
    )


@dataclass(frozen=True)
class Job:
    """A task of an array job that was submitted for a part of a plan.

    Attributes:
        number: Number of the job.
        index: Number of the part, which is that of the task.
        log: File of what it printed.
    """

    number: str
    index: int
    log: Path

    @property
    def task(self) -> str:
        """Its name in Slurm, as in 17_3."""
        return f"{self.number}_{self.index}"

    def last_line(self) -> str:
        """The last line that it printed, '' if there is none."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def jobs(plan: FrozenPlan) -> list[Job]:
    """Read which jobs were submitted for a plan.

    Args:
        plan: The plan.

    Returns:
        The newest task of each part.
    """
    folder, newest = Path(plan.options.out) / FOLDER, {}
    notes = []
    for file in folder.glob("*.json"):
        try:
            note = json.loads(file.read_text(encoding="utf-8"))
            notes.append((float(note["time"]), str(note["job"]), [int(index) for index in note["parts"]]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for _, number, indices in sorted(notes):
        for index in indices:
            newest[index] = Job(number, index, folder / f"{number}_{index}.out")
    return list(newest.values())


def queue() -> dict[str, tuple[str, str]]:
    """Ask Slurm's queue for the user's tasks.

    Returns:
        Name of a task, as in 17_3 -> its state and the reason. Empty if Slurm does not answer.
    """
    done = _slurm("squeue", "--me", "-h", "-r", "-o", "%i|%T|%r")
    lines = done.stdout.splitlines() if done is not None and not done.returncode else []
    fields = [line.strip().split("|", 2) for line in lines if line.count("|") >= 2]
    return {task: (state, reason) for task, state, reason in fields}


def is_held(reason: str) -> bool:
    """Tell whether a task waits for somebody to release it, by the reason that the queue gives."""
    return any(word in reason for word in HELD)


def accounted(task: str) -> str:
    """Ask Slurm's accounting how a task ended; '' if it does not answer, as on clusters without accounting."""
    done = _slurm("sacct", "-n", "-X", "-P", "-j", task, "-o", "State")
    return (
        done.stdout.strip().splitlines()[-1] if done is not None and not done.returncode and done.stdout.strip() else ""
    )


def cancel(plan: FrozenPlan) -> list[str]:
    """Cancel the jobs of a plan.

    Args:
        plan: The plan.

    Returns:
        The tasks that were in the queue.
    """
    queued = queue()
    tasks = [job.task for job in jobs(plan) if job.task in queued]
    if tasks:
        _slurm("scancel", *tasks)
    return tasks


def put_back(plan: FrozenPlan, index: int) -> str:
    """Put the job of this process back into the queue, unless its last starts made no progress.

    Args:
        plan: The plan.
        index: Number of its part that this process has run.

    Returns:
        Why it was not put back, '' if it was.
    """
    task = job_of_cluster()  # not SLURM_JOB_ID: that of one task is the number of the whole array
    if not task:
        return "no job of Slurm runs this process"
    folders = [plan.folder(cell) for cell in plan.parts[index]]
    begun = next((folder for folder in folders if not (folder / RECORD).exists()), folders[-1])
    own = [event for event in read_events(begun) if event.job == task]
    starts = starts_without_progress(own)
    if max(starts, 0 if own else int(os.environ.get("SLURM_RESTART_COUNT", "0"))) >= MOST_STARTS:
        return (
            f"{MOST_STARTS} starts in a row made no progress; give it a longer --time or a smaller --checkpoint-every"
        )
    done = _slurm("scontrol", "requeue", task)
    return "" if done is not None and not done.returncode else "scontrol requeue failed"


def starts_without_progress(events: Sequence[Event]) -> int:
    """Count the starts of a cell since it last came further.

    Args:
        events: Events of the cell, oldest first.

    Returns:
        The number of starts.
    """
    furthest, starts = (0, 0), 0
    for event in events:
        if event.kind == "started":
            starts += 1
        position = (event.epoch - 1, event.step) if event.kind == "checkpoint" else (event.epoch, 0)
        if position > furthest:
            furthest, starts = position, 0
    return starts


def _slurm(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str] | None:
    """Run a command of Slurm. None if it does not exist or does not answer."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        return subprocess.run(  # noqa: S603 - a command of Slurm with words of our own
            [program, *command[1:]], input=stdin, capture_output=True, text=True, timeout=ANSWER, check=False
        )
    except subprocess.TimeoutExpired:
        return None
