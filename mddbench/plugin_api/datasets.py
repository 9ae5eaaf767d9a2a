"""What the file of a dataset imports. These names stay where they are; other modules may move."""

from __future__ import annotations

from mddbench.data.fabricate import Drawing, Style, interpolated, save, write_category
from mddbench.data.images import MaskRule
from mddbench.data.listing import base_of, folders
from mddbench.data.samples import (
    GOOD,
    Counts,
    DataPackage,
    DatasetSource,
    Published,
    Sample,
    SecondHand,
    SplitName,
    Tree,
)
from mddbench.data.splits import (
    ImageFolder,
    SplitError,
    SplitFile,
    list_of,
    read_columns,
    read_csv,
    read_json,
    read_json_lines,
    text_of,
)
from mddbench.data.tree import MVTEC_LAYOUT, Layout, read_tree
from mddbench.errors import InputError

__all__ = [
    "GOOD",
    "MVTEC_LAYOUT",
    "Counts",
    "DataPackage",
    "DatasetSource",
    "Drawing",
    "ImageFolder",
    "InputError",
    "Layout",
    "MaskRule",
    "Published",
    "Sample",
    "SecondHand",
    "SplitError",
    "SplitFile",
    "SplitName",
    "Style",
    "Tree",
    "base_of",
    "folders",
    "interpolated",
    "list_of",
    "read_columns",
    "read_csv",
    "read_json",
    "read_json_lines",
    "read_tree",
    "save",
    "text_of",
    "write_category",
]
