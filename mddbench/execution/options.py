"""The options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mddbench.engine.train import FEATURE_ROOM


@dataclass(frozen=True)
class RunOptions:
    """Options of a run: folders, the device, and what the run does besides training.

    Attributes:
        out: Output folder.
        cache: Folder of decoded images.
        device: Device of the models.
        data_root: Folder of the dataset, or a folder that contains it under its name; None for the default.
        weights_dir: Folder of encoder weights, or a weights file; None for a package or timm's hub.
        force: True to run finished cells again.
        resamples: Number of bootstrap samples for confidence intervals, 0 for none.
        held_out: True to train and evaluate on training images only.
        development: True if settings are chosen on the test images, which the protocol card then says.
        textures: Folder of pictures for methods that draw defects with them; None if there is none.
        test_curve: Number of epochs between two evaluations on the test split, 0 for none.
        keep_maps: True to keep the anomaly maps of the test split in the cell's folder.
        name: What a report calls a user's own images; None for the name of their folder.
        all_images: True to keep every test image with its map for the page of a report.
        feature_room: GiB that cached features of the teacher may take, 0 to compute them in every epoch.
        sharing: Number of cells that run on the device at the same time.
        compiling: True to compile the training steps of long trainings.
        cuda_graphs: True to record the kernels of training steps as CUDA graphs.
        from_checkpoint: File or folder with weights of the method's authors, which replace a training; None to train.
        latency: True to measure the latency of single images and the throughput.
        checkpoint_every: Number of steps between two checkpoints inside an epoch, 0 for none.
        prepared: True to use only images that are decoded.
    """

    out: Path
    cache: Path
    device: torch.device
    data_root: Path | None = None
    weights_dir: Path | None = None
    force: bool = False
    resamples: int = 0
    held_out: bool = False
    development: bool = False
    textures: Path | None = None
    test_curve: int = 0
    keep_maps: bool = False
    feature_room: float = FEATURE_ROOM
    sharing: int = 1
    compiling: bool = False
    cuda_graphs: bool = False
    from_checkpoint: Path | None = None
    latency: bool = False
    checkpoint_every: int = 0
    name: str | None = None
    all_images: bool = False
    prepared: bool = False
