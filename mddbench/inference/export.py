"""Exports the model of a finished cell as one file that needs no mddbench: an ONNX graph or a program of torch.

The file holds the encoder, the method and what it learned. It takes pixels and gives scores, maps and, with a threshold,
the verdicts. Before it is kept, its scores are compared with those of the suite.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel
from mddbench.runs.panels import PANELS, load_panels
from mddbench.sizes import height_and_width

EXTRA = "mddbench[onnx]"
ONNX, PROGRAM = ".onnx", ".pt2"
"""Endings of the two kinds of files."""
INPUT, OUTPUTS = "pixels", ("scores", "maps", "defective")
LEAST_TORCH = (2, 14)
"""The first torch with which export was tried. Torch 2.6 cannot write these programs."""
MOST_DIFFERENCE = 1e-4
"""Greatest difference of a score from the suite's, as a share of the largest score."""
MOST_IMAGES = 2**16
"""Greatest batch of a file that takes any number of images."""
PROBES = 4
"""Number of random images that a file is tried with, besides those that the cell kept."""

Pixels = NDArray[np.uint8]
Scores = NDArray[np.floating]
Run = Callable[[Pixels], Scores]
"""Runs a written file on (B, H, W, 3) pixels and returns the scores (B,)."""


class ScoringNetwork(nn.Module):
    """A detector from pixels to results, as one module.

    Attributes:
        detector: The trained detector, in evaluation mode.
        category: Index of the images' category, for methods that are told it.
        threshold: Images with a higher score are defective; None for no verdict.
    """

    def __init__(self, detector: Detector, category: int, threshold: float | None) -> None:
        """Take a detector.

        Args:
            detector: The trained detector, in evaluation mode.
            category: Index of the images' category, for methods that are told it.
            threshold: Images with a higher score are defective; None for no verdict.
        """
        super().__init__()
        self.detector, self.category, self.threshold = detector, category, threshold

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Score images.

        Args:
            pixels: (B, H, W, 3) uint8, RGB.

        Returns:
            Scores (B,), maps (B, H, W) and, with a threshold, (B,) True for defective images.
        """
        images = pixels.permute(0, 3, 1, 2).float() / 255.0
        maps, scores = self.detector.maps_and_scores(images, self.category)
        return (scores, maps) if self.threshold is None else (scores, maps, scores > self.threshold)


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        file: The file.
        batch: Number of images that it takes at once; None for any number.
        difference: Largest difference of a score from the suite's on the probes, as a share of the largest score.
        probes: Number of images that it was tried with.
    """

    file: Path
    batch: int | None
    difference: float
    probes: int


def export_model(model: FinishedModel, file: Path, category: str | None, threshold: float | None) -> Exported:
    """Write the model of a finished cell as one file.

    Args:
        model: The model, on the CPU.
        file: The file; its ending says which kind: .onnx or .pt2.
        category: Category of the images, for models that need to be told.
        threshold: Images with a higher score are defective; None for no verdict.

    Returns:
        What was written, and how close its scores are.

    Raises:
        InputError: If the ending is another one, a package is missing, the method cannot be exported, or the scores of
            the file differ from the suite's. Nothing is written then.
    """
    if file.suffix not in (ONNX, PROGRAM):
        raise InputError(f"{file}: expected a file name that ends in {ONNX} or {PROGRAM}")
    if (precision := model.record.settings["precision"]) != "float32":
        raise InputError(f"{model.folder}: scored in {precision}; only float32 is exported")
    if not can_export():
        least = ".".join(map(str, LEAST_TORCH))
        raise InputError(f"exporting needs torch {least} or later, found {torch.__version__}; pip install -U torch")
    if file.suffix == ONNX:
        _demand_onnx()
    index, pixels = model.choose(category), _probes(model)
    expected = model.score(pixels, index)[1]  # before tracing, so that constants which are cached then are real tensors
    network = ScoringNetwork(model.detector, index, threshold).eval()
    program, batch = _traced(network, model)
    partial = file.with_name(f"{file.stem}.part{file.suffix}")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        run = _write_onnx(program, partial) if file.suffix == ONNX else _write_program(program, partial)
        difference = _difference(run, pixels, expected, batch)
        if not difference <= MOST_DIFFERENCE:
            raise InputError(
                f"{file}: not kept, since its scores differ from the suite's by {difference:.1e} of the largest one, "
                f"expected at most {MOST_DIFFERENCE:.0e}"
            )
        os.replace(partial, file)
    except InputError:
        raise
    except OSError as fault:
        raise InputError(f"{file}: cannot be written ({fault.strerror or fault})") from None
    except Exception as fault:  # noqa: BLE001 - the writer has no one class of errors
        raise InputError(
            f"{file}: {model.record.method} cannot be written in this form ({_first_line(fault)})"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return Exported(file, batch, difference, len(pixels))


def can_export() -> bool:
    """Return True if this torch can write exported programs."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= LEAST_TORCH


def _demand_onnx() -> None:
    """Raise InputError if a package is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            raise InputError(f"an ONNX file needs the package {name}; pip install '{EXTRA}'") from None


def _probes(model: FinishedModel) -> Pixels:
    """Return images to compare scores on: random ones, and the test images that the cell kept as panels."""
    size = height_and_width(model.image_size)
    random = np.random.default_rng(0).integers(0, 256, (PROBES, *size, 3), dtype=np.uint8)
    panels = load_panels(model.folder / PANELS) if (model.folder / PANELS).exists() else ()
    return np.concatenate([random, *(panel.image[None] for panel in panels if panel.image.shape == random.shape[1:])])


def _traced(network: ScoringNetwork, model: FinishedModel) -> tuple[Any, int | None]:
    """Trace the network for any number of images, or else for one.

    Returns:
        The program, and the number of images that it takes; None for any number.

    Raises:
        InputError: If the network cannot be traced.
    """
    size, method = height_and_width(model.image_size), model.record.method
    with suppress(Exception):  # the tracer has no one class of errors
        dynamic = {0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)}
        return _program(network, torch.zeros((2, *size, 3), dtype=torch.uint8), (dynamic,)), None
    try:
        return _program(network, torch.zeros((1, *size, 3), dtype=torch.uint8), None), 1
    except Exception as fault:  # noqa: BLE001
        raise InputError(
            f"{method}: cannot be exported with these settings ({_first_line(fault)}); "
            "`mddbench predict` and mddbench.load score with it"
        ) from None


def _first_line(fault: Exception) -> str:
    """Return the first line of an error's message, or its kind if there is none."""
    return str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__


def _program(network: nn.Module, example: Tensor, shapes: tuple[Any, ...] | None) -> Any:
    with _quietly(), torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)


def _write_program(program: Any, file: Path) -> Run:
    """Write a program of torch, and return what runs the written file."""
    with _quietly():
        torch.export.save(program, file)
        loaded = torch.export.load(file).module()

    def run(pixels: Pixels) -> Scores:
        with torch.no_grad():
            return np.asarray(loaded(torch.from_numpy(pixels))[0])

    return run


def _write_onnx(program: Any, file: Path) -> Run:
    """Write an ONNX graph, and return what runs the written file."""
    import onnxruntime

    outputs = list(OUTPUTS[: len(program.graph_signature.user_outputs)])
    with _quietly():
        graph = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=outputs)
        assert graph is not None
        graph.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> Scores:
        return np.asarray(session.run([OUTPUTS[0]], {INPUT: pixels})[0])

    return run


def _difference(run: Run, pixels: Pixels, expected: Scores, batch: int | None) -> float:
    """Return the largest difference between scores of the file and of the suite, as a share of the largest score."""
    parts = [pixels[start : start + (batch or len(pixels))] for start in range(0, len(pixels), batch or len(pixels))]
    scores = np.concatenate([run(part) for part in parts])
    return float(np.abs(scores - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the tracer's warnings and messages, which say nothing to a user, off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.export", "torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
