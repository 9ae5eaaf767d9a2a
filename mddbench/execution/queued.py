"""The states of the cells of a plan, completed by what Slurm says of its jobs."""

from __future__ import annotations

from dataclasses import replace

from mddbench.execution.frozen import FrozenPlan
from mddbench.execution.slurm import accounted, is_held, jobs, queue
from mddbench.execution.state import CellState, Word

OPEN: tuple[Word, ...] = ("waiting", "interrupted", "lost", "failed")
"""States in which a job may be about to go on, or may have died."""


def with_queue(plan: FrozenPlan, found: list[CellState]) -> list[CellState]:
    """Ask Slurm about the cells that no process runs.

    Records count first, then leases, then the queue, then the accounting if it answers.

    Args:
        plan: The plan.
        found: The states by the folders.

    Returns:
        The states, with a note where Slurm or the log of the job has something to say.
    """
    tasks = {job.index: job for job in jobs(plan)}
    if not tasks:
        return found
    queued = queue()
    completed = []
    for state in found:
        job = tasks.get(state.index)
        if job is None or state.state not in OPEN:
            completed.append(state)
        elif job.task in queued:
            word, reason = queued[job.task]
            if is_held(reason):
                note = f"job {job.task} is held ({reason}): scontrol release {job.task}"
                completed.append(replace(state, state="held", note=note))
            else:
                completed.append(replace(state, state="queued", note=f"job {job.task} is {word.lower()}"))
        else:
            ended, said = accounted(job.task), job.last_line()
            note = f"job {job.task} has ended" + (f" as {ended}" if ended else "") + (f": {said}" if said else "")
            completed.append(replace(state, state="lost" if state.state == "waiting" else state.state, note=note))
    return completed
