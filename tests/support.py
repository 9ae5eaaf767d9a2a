"""Small trees, models and settings for the tests."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_diffusion import public_names
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mddbench.data.check import read_source
from mddbench.data.dataset import load_source
from mddbench.data.fingerprint import Manifest, manifest
from mddbench.data.samples import Tree
from mddbench.detector import load_method, method_settings
from mddbench.engine.subject import default_encoder, small_encoder, small_settings
from mddbench.experiments.schema import Experiment
from mddbench.metrics.names import SEVEN
from mddbench.nn.stable_diffusion_files import FILES, OF_AUTOENCODER, OF_UNET, TEXT_FILE
from mddbench.nn.stable_diffusion_names import AUTOENCODER, UNET
from mddbench.progress import SilentReporter
from mddbench.runs.records import Record
from mddbench.settings import validated

ROOT = Path(__file__).resolve().parents[1]
BRIDGES = ("anomalib", "anomalib_bank")
"""Methods that hold the models of another library, which only its extra brings. No suite and no search has them."""
needs_anomalib = pytest.mark.skipif(find_spec("anomalib") is None, reason="needs the extra anomalib")
REAL = ROOT.parent / "shared" / "data" / "real"
REAL_IMAGE_LEVEL = ROOT.parent / "shared" / "data" / "real_imagelevel"

EXPERIMENT: dict[str, Any] = {
    "name": "test",
    "method": "rd4ad",
    "dataset": "folder",
    "seeds": [0],
    "image_size": 64,
    "batch_size": 4,
    "epochs": 2,
    "encoder": {"name": "tf_efficientnet_lite0", "levels": [1, 2, 3]},
    "optimizer": {"name": "adam", "lr": 0.005, "betas": [0.5, 0.999]},
    "schedule": {"name": "constant"},
    "gradient_clip": None,
}
YAML = """\
method: rd4ad
dataset: folder
seeds: [0]
image_size: 64
batch_size: 4
epochs: 3
encoder: {name: tf_efficientnet_lite0, levels: [1, 2, 3]}
optimizer: {name: adam, lr: 0.005, betas: [0.5, 0.999]}
schedule: {name: constant}
gradient_clip: null
"""


def experiment(**changes: Any) -> Experiment:
    """A small experiment with some settings changed."""
    return validated(Experiment, {**EXPERIMENT, **changes}, "test")


def small_overrides(wanted: Experiment, folder: Path) -> tuple[dict[str, Any], Path | None]:
    """What makes an experiment on large networks one on small ones; and where their weights then are."""
    encoder = small_encoder(wanted)
    if encoder is None:
        return _shrunk_overrides(wanted, folder)
    (folder / "weights").mkdir()
    save_file(encoder.weights(), folder / "weights" / "test_vit.safetensors")
    levels = [list(level) if isinstance(level, tuple) else level for level in encoder.levels]
    overrides = {"encoder.name": "test_vit", "encoder.levels": levels}
    grid = small_settings(wanted).get("grid")
    return overrides | ({"settings.grid": grid} if grid else {}), folder / "weights"


def _shrunk_overrides(wanted: Experiment, folder: Path) -> tuple[dict[str, Any], Path | None]:
    """The same for a method that can shrink its networks, and starts from weights: they are random ones here."""
    method = load_method(wanted.method)
    settings = method_settings(method, wanted.settings, wanted.name)
    shrunk = method.shrunk(settings)
    if shrunk == settings:
        return {}, None
    encoder = default_encoder()
    detector = method(encoder, shrunk, 2)
    write_starting_files(folder / "weights", detector.unet, detector.autoencoder, detector.text)
    contiguous = {name: value.contiguous() for name, value in encoder.weights().items()}
    save_file(contiguous, folder / "weights" / f"{encoder.name}.safetensors")
    changed = {f"settings.{name}": value for name, value in shrunk.model_dump(mode="json").items()}
    return {"encoder.name": encoder.name, **changed}, folder / "weights"


def write_starting_files(folder: Path, unet: nn.Module, autoencoder: nn.Module, text: Tensor) -> None:
    """A folder with the weights of Stable Diffusion's networks under the names of the public files."""
    folder.mkdir()
    content = public_names(unet, UNET, OF_UNET) | public_names(autoencoder, AUTOENCODER, OF_AUTOENCODER)
    other = {"cond_stage_model.transformer.weight": torch.zeros(2), "alphas_cumprod": torch.zeros(3)}
    save_file({name: value.contiguous() for name, value in (content | other).items()}, folder / FILES[0])
    save_file({"empty": torch.randn(1, *text.shape)}, folder / TEXT_FILE)


def write_tree(root: Path, categories: tuple[str, ...] = ("bolt", "nut"), train: int = 6, size: int = 48) -> Path:
    """A sound tree in MVTec-AD's layout: noise around a colour of its own for each category, defects are bright."""
    for index, category in enumerate(categories):
        generator, folder = np.random.default_rng(index), root / category
        colour = (60 + 40 * index, 110 + 40 * index)
        for number in range(train):
            save(_noise(generator, colour, size), folder / "train" / "good" / f"{number:03d}.png")
        for number in range(3):
            save(_noise(generator, colour, size), folder / "test" / "good" / f"{number:03d}.png")
            pixels, mask = _noise(generator, colour, size), np.zeros((size, size + 8), dtype=np.uint8)
            y, x = generator.integers(8, size - 16, 2)
            pixels[y : y + 8, x : x + 8], mask[y : y + 8, x : x + 8] = 250, 255
            save(pixels, folder / "test" / "spot" / f"{number:03d}.png")
            save(mask, folder / "ground_truth" / "spot" / f"{number:03d}_mask.png")
    return root


def _noise(generator: np.random.Generator, colour: tuple[int, int], size: int) -> np.ndarray:
    return generator.integers(*colour, (size, size + 8, 3), dtype=np.uint8)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def record(seed: int = 0, score: float = 0.5, **changes: Any) -> Record:
    """A record of two categories, all metrics equal to `score`, with some fields changed."""
    values: dict[str, float | None] = dict.fromkeys(SEVEN, score)
    content: dict[str, Any] = {
        "identity": f"{seed:04x}{changes.get('protocol', 'a' * 12)[:12]}",
        "protocol": "a" * 12,
        "status": "finished",
        "method": "rd4ad",
        "label": "RD4AD",
        "dataset": "mini",
        "experiment": "mini/rd4ad",
        "seed": seed,
        "fingerprint": "f" * 64,
        "metrics": {"mean": {**values, "mad": score}, "bolt": dict(values), "nut_100%": {**values, "aupro": None}},
        "card": {"setting": "one model for 2 categories", "epochs": 3},
        "settings": {},
        "model_sha256": "0" * 64,
        "cost": {"train_seconds": 1.0},
        "environment": {"torch": "2"},
        "history": [{"epoch": 1, "loss": 1.0, "terms": {}, "lr": 0.1, "seconds": 1.0, "images": 4}],
    }
    return Record(**{**content, **changes})


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def mddbench(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: what it prints and its exit status are those of a process of its own."""
    from mddbench.cli.main import main

    words = ["mddbench", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True) for errors in ("strict", "replace"))
    with pytest.MonkeyPatch.context() as patch, plugins_put_back(), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        for name, value in environment.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), *texts)


@contextmanager
def plugins_put_back() -> Iterator[None]:
    """Forget the plug-ins that a command has added, as the end of a process does."""
    from mddbench import plugins

    packages = [import_module(name) for name in plugins.FOLDERS.values()]
    paths, added = [list(package.__path__) for package in packages], list(plugins._added_folders)
    try:
        yield
    finally:
        plugins._added_folders[:] = added
        for package, path in zip(packages, paths, strict=True):
            package.__path__ = path
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None)
                if name.startswith(f"{package.__name__}.") and file and str(Path(file).parent) not in path:
                    del sys.modules[name]
                    vars(package).pop(name.rpartition(".")[2], None)


def mddbench_process(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("mddbench")), *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=280,
        check=False,
    )


def needed(*programs: str, package: str) -> list[str]:
    """Where programs are that most machines lack. A test is skipped without them, which MDDBENCH_ALL_TOOLS makes a failure."""
    found = [shutil.which(program) for program in programs]
    if not all(found):
        missing = programs[found.index(None)]
        pytest.skip(f"{missing} is not installed (Debian: {package})")
    return [str(place) for place in found]


def read(name: str, root: Path, size: int = 64) -> Tree:
    """A dataset's tree with its faults and warnings."""
    return read_source(load_source(name), root, size)


def manifest_of(name: str, root: Path) -> Manifest:
    """The manifest of a sound tree, nothing remembered."""
    tree = read(name, root).sound(name)
    return manifest(tree.root, tree.files(), SilentReporter())


def overflow(file: Path) -> None:
    """A picture that cannot be drawn."""
    raise OverflowError("beyond all axes")


def template_of_a_method() -> str:
    """The method of CONTRIBUTING.md, word for word."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```\n")[0]


def plugin_folder(root: Path, name: str = "patch_bank") -> Path:
    """A plug-in folder with the method of CONTRIBUTING.md under a name."""
    file = root / "methods" / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(template_of_a_method(), encoding="utf-8")
    return root
