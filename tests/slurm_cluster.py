"""A Slurm of this machine for the tests: two pretended nodes with a pretended GPU each, in one folder, without services."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PACKAGES = "slurmctld slurmd slurm-client"
NODES = 2

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000,batch_sched_delay=0,defer_batch
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MinJobAge=600
KillWait=20
MessageTimeout=20
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port={first}-{last} CPUs=1 RealMemory=4000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=1-0 State=UP PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """The running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "log", "spool/n0", "spool/n1"):
            (folder / name).mkdir(parents=True)
        port = _free_ports(NODES + 1)
        content = CONF.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            port=port,
            first=port + 1,
            last=port + NODES,
        )
        (folder / "slurm.conf").write_text(content)
        gres = "".join(f"NodeName=n{number} Name=gpu File=/dev/null\n" for number in range(NODES))
        (folder / "gres.conf").write_text(gres)

    def start_controller(self, *options: str) -> None:
        self._daemon("slurmctld", "-i", *options)

    def start(self) -> None:
        self.start_controller("-c")
        for number in range(NODES):
            self._daemon("slurmd", "-N", f"n{number}")
        self.wait(lambda: set(self.ask("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"}, 30)

    def _daemon(self, name: str, *options: str) -> None:
        program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
        assert program is not None
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            subprocess.run([program, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)

    def ask(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    def wait(self, ready: Callable[[], bool], seconds: float, what: str = "") -> None:
        """Wait for something, and show the logs if it does not come."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what or 'not ready'}: {self.ask('squeue')}\n{self.logs()}"
            time.sleep(0.2)

    def is_empty(self) -> bool:
        return not self.ask("squeue", "-h", "-o", "%i").split()

    def logs(self) -> str:
        return "\n".join(f"{file}:\n{file.read_text(errors='replace')[-1500:]}" for file in self.folder.glob("log/*"))

    def stop(self) -> None:
        """End all jobs and daemons that this cluster has started."""
        for job in sorted(set(self.ask("squeue", "-h", "-o", "%A").split())):
            self.ask("scancel", "--signal=KILL", "--full", job)
            self.ask("scancel", job)
        daemons = [int(file.read_text()) for file in self.folder.glob("*.pid")]
        self.ask("scontrol", "shutdown")
        deadline = time.monotonic() + 20
        while any(map(_lives, daemons)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in filter(_lives, daemons):
            os.kill(pid, 9)


def _lives(pid: int) -> bool:
    """A daemon of Slurm with that number runs."""
    with suppress(OSError):
        return b"slurm" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """A cluster in a folder while the block runs. The test is skipped where its packages are missing."""
    path = "/usr/sbin:/usr/local/sbin:" + os.environ["PATH"]
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed (Debian: {PACKAGES})")
    slurm = Slurm(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def _free_ports(count: int) -> int:
    """The first of that many ports in a row that are free."""
    for first in range(16817, 26000, 10):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")
