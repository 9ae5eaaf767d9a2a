"""Describes the machine and the software of a run. It contains no paths of the user."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mddbench.machine import processor_count
from mddbench.version import VERSION

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "scipy", "pillow", "mlflow")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Describe the machine and the software.

    Args:
        device: Device of the model.

    Returns:
        Versions, processor, memory and commit of the source code, as texts and numbers without nesting.
    """
    import torch

    commit, changed = source_commit()
    return {
        "mddbench": VERSION,
        "commit": commit,
        "changed": changed,
        "source": source_digest(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": processor_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def source_commit() -> tuple[str | None, bool | None]:
    """Return the git commit of the running source code, and True if files were changed since.

    Returns:
        (commit, changed). Outside a git checkout both are None.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    return commit, None if status is None else bool(status)


def source_digest() -> str:
    """Compute a hash over the code and settings of the installed package. It identifies the source without a checkout.

    Returns:
        The first 16 hexadecimal digits of the SHA-256.
    """
    total = hashlib.sha256()
    for package in ("mddbench", "mddbench.baselines"):
        for folder in import_module(package).__path__:
            for file in sorted(path for path in Path(folder).rglob("*") if path.suffix in (".py", ".yaml")):
                name = f"{package}/{file.relative_to(folder).as_posix()}"
                if name.startswith(("mddbench/baselines/", "mddbench/paper_tables/")):
                    continue  # only a wheel has these files here, an editable install has them elsewhere
                total.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        completed = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name, with its family and model if known, because generations can share a name."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = dict(line.split(":", 1) for line in info.read_text().partition("\n\n")[0].splitlines() if ":" in line)
    entries = {key.strip(): value.strip() for key, value in lines.items()}
    name = entries.get("model name", platform.processor())
    return (
        f"{name} (family {entries['cpu family']}, model {entries['model']})"
        if {"cpu family", "model"} <= set(entries)
        else name
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
