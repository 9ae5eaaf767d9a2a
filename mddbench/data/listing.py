"""Lists the folders and image files of a dataset's tree, without hidden ones and without what systems leave on a disk."""

from __future__ import annotations

import os
from pathlib import Path

from mddbench.data.names import composed
from mddbench.data.own import is_own

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
# fmt: off
NOT_READ = frozenset({
    ".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".pgm", ".ppm", ".pbm", ".dcm", ".raw", ".npy",
})
"""Suffixes of image files that are not read but reported."""
LITTER = frozenset({
    "__macosx", "@eadir", "#recycle", "@recycle", "lost+found", "$recycle.bin", "recycler", "system volume information",
    "found.000", "temporary items", "network trash folder", "__pycache__",
})
# fmt: on
"""Folders that systems and programs create on a disk, in lower case."""


def folders(parent: Path) -> list[Path]:
    """List the folders in a folder, except hidden ones, those of LITTER, and those that mddbench wrote.

    Args:
        parent: The folder, which need not exist.

    Returns:
        The folders, sorted by name.
    """
    children = (
        parent / entry.name for entry in entries_of(parent) if entry.name.lower() not in LITTER and entry.is_dir()
    )
    return [folder for folder in children if not is_own(folder)]


def image_files(folder: Path) -> list[Path]:
    """List the files in a folder that are images by their names, except hidden ones.

    Args:
        folder: The folder, which need not exist.

    Returns:
        The files, sorted by name.
    """
    return [folder / e.name for e in entries_of(folder) if suffix_of(e.name) in IMAGE_SUFFIXES]


def base_of(root: Path, names: tuple[str, ...]) -> Path:
    """Find the folder to which a dataset's archive was unpacked.

    Args:
        root: The dataset's folder.
        names: The possible folders below the root.

    Returns:
        The first of these folders that exists, or the root itself.
    """
    return next((root / name for name in names if (root / name).is_dir()), root)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder, sorted by name; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: (composed(e.name), e.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def nested(folder: Path) -> list[Path]:
    """List all folders below a folder at any depth, sorted. Symbolic links are not followed."""
    all_folders, waiting = [], [folder]
    while waiting:
        inner = [child for child in folders(waiting.pop()) if not child.is_symlink()]
        all_folders += inner
        waiting += inner
    return sorted(all_folders)


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, as pathlib's but without making a path."""
    return name[name.rindex(".") :].lower() if "." in name else ""


def first_names(root: Path) -> str:
    """Return the first names in a folder, for a message."""
    names = sorted(path.name for path in root.iterdir())
    return ascii(", ".join(names[:5]) + (", ..." if len(names) > 5 else ""))[1:-1] if names else "an empty folder"
