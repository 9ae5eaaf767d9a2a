"""What every method must do. It runs over all methods found, so a new one is tested without a line written for it."""

from __future__ import annotations

import ast
import inspect
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.batches import TrainingImages
from mddbench.engine.step import TrainingStep
from mddbench.engine.train import Trainer
from mddbench.experiments.catalogue import load_experiment
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.tensor_files import digest
from mddbench.plugins import METHODS, modules
from mddbench.progress import SilentReporter
from mddbench.seeding import seed_everything
from mddbench.settings import Strict
from support import BRIDGES, experiment, needs_anomalib, plugin_folder, small_encoder, small_settings

MEMORY = "the method of CONTRIBUTING.md"
VARIANTS = ["mddnet_vit", "mddnet_bank", "daad_adversary"]
OURS = [*(name for name in modules(METHODS) if name not in BRIDGES), *VARIANTS, MEMORY]
"""All methods of this suite, and some variants. Each but the last has an experiment of this name on *mini*."""
THEIRS = ["anomalib_padim", "anomalib_stfpm"]
"""Experiments with models of another library, one for each method that holds such models."""
OURS_ALONE = pytest.mark.parametrize("method", OURS, indirect=True)
"""For what anomalib's models do not do. They make some tensors in single precision, in which distances lose some digits, they
read each loss at once, and they are not compiled."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> type[Detector]:
    """The method of CONTRIBUTING.md."""
    file = plugin_folder(tmp_path_factory.mktemp("plugins")) / "methods" / "patch_bank.py"
    specification = spec_from_file_location("patch_bank", file)
    assert specification is not None
    assert specification.loader is not None
    sys.modules["patch_bank"] = module = module_from_spec(specification)
    specification.loader.exec_module(module)
    found: type[Detector] = module.PatchBank
    return found


@pytest.fixture(params=[*OURS, *(pytest.param(name, marks=needs_anomalib) for name in THEIRS)])
def method(request: pytest.FixtureRequest) -> type[Detector]:
    if request.param == MEMORY:
        found: type[Detector] = request.getfixturevalue("template")
        return found
    return load_method(load_experiment(f"mini/{request.param}").method)


@pytest.fixture
def encoder(request: pytest.FixtureRequest, encoder: FrozenEncoder) -> FrozenEncoder:
    """A small one of the kind that the method's experiment has: convolutions, or a vision transformer."""
    name = request.node.callspec.params["method"]
    return encoder if name == MEMORY else small_encoder(load_experiment(f"mini/{name}")) or encoder


@pytest.fixture
def settings(request: pytest.FixtureRequest, method: type[Detector]) -> Strict:
    """As on the embedded dataset, whose images are small; the method's defaults if it has no experiment there."""
    name = request.node.callspec.params["method"]
    if name == MEMORY:
        return method.Settings()
    return method_settings(method, small_settings(load_experiment(f"mini/{name}")), name)


@pytest.fixture
def detector(method: type[Detector], settings: Strict, encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    return method(encoder, settings, 2)


@pytest.fixture
def batch(images: torch.Tensor) -> Batch:
    return Batch(images, torch.tensor([0, 0, 1, 1]))


def shallow(settings: Strict) -> Strict:
    """The settings with one block or layer in each part, where a method has such a setting: deep ones take long to trace."""
    least = {"decoder_blocks": (1, 1, 1), "layers": 1}
    return settings.model_copy(update={name: value for name, value in least.items() if hasattr(settings, name)})


def train(detector: Detector, batch: Batch, steps: int) -> list[float]:
    detector.train()
    groups = [group for group in detector.parameter_groups(1e-3) if group["params"]]
    optimizer = torch.optim.Adam(groups) if groups else None
    losses = []
    for _ in range(steps):
        terms = detector.training_step(batch)
        if terms and optimizer is not None:
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    detector.finish_training()
    detector.eval()
    return losses


def test_it_has_a_label_a_version_and_a_header(method: type[Detector]) -> None:
    assert method.label
    assert method.version >= 1
    module = inspect.getmodule(method)
    assert module is not None
    header = ast.get_docstring(ast.parse(inspect.getsource(module)))
    assert header is not None
    for part in ("Paper:", "Code read:", "Differs:", "Unsaid:"):
        assert part in header, f"the file of {method.label} begins with its sources; '{part}' is missing"


def test_loss_terms_are_named_finite_scalars_and_fall(detector: Detector, batch: Batch) -> None:
    terms = detector.training_step(batch)
    for name, value in terms.items():
        assert name.isidentifier()
        assert value.shape == ()
        assert torch.isfinite(value)
    losses = train(detector, batch, 16)  # a step may draw a harder defect than the one before
    assert not losses or np.mean(losses[-4:]) < np.mean(losses[:4])


def test_maps_are_finite_and_of_the_images_size(detector: Detector, batch: Batch) -> None:
    train(detector, batch, 1)
    with torch.inference_mode():
        maps = detector.anomaly_maps(batch.images)
        scores = detector.image_scores(maps)
    assert maps.shape == (4, 64, 64)
    assert scores.shape == (4,)
    assert torch.isfinite(maps).all()
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_images_of_one_shade_give_numbers(detector: Detector, shade: float) -> None:
    """No contrast, no texture: nothing is divided by nothing, neither in training nor afterwards."""
    flat = Batch(torch.full((4, 3, 64, 64), shade), torch.tensor([0, 0, 1, 1]))
    assert all(np.isfinite(loss) for loss in train(detector, flat, 3))
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(flat.images)
        assert torch.isfinite(maps).all()
        assert torch.isfinite(detector.image_scores(maps)).all()


@OURS_ALONE
def test_an_images_map_does_not_depend_on_its_batch(detector: Detector, batch: Batch) -> None:
    train(detector, batch, 1)
    with torch.inference_mode():
        together = detector.anomaly_maps(batch.images)
        alone = torch.cat([detector.anomaly_maps(image[None]) for image in batch.images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@OURS_ALONE
def test_in_double_precision_all_is_double(
    method: type[Detector], settings: Strict, encoder: FrozenEncoder, batch: Batch
) -> None:
    """Losses, maps and scores of a detector that was moved to it; and nothing on the way is rounded to single precision."""
    seed_everything(0)
    detector = method(deepcopy(encoder), settings, 2).double()
    images = batch.images.double()
    terms = detector.train().training_step(Batch(images, batch.categories))
    assert {term.dtype for term in terms.values()} <= {torch.float64}
    seen: dict[torch.dtype, list[str]] = {}
    for name, part in detector.named_modules():
        part.register_forward_hook(
            lambda _, __, output, name=name: seen.setdefault(getattr(output, "dtype", torch.float64), []).append(name)
        )
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(images)
        scores = detector.image_scores(maps)
    assert (maps.dtype, scores.dtype, set(seen)) == (torch.float64, torch.float64, {torch.float64})
    assert not torch.equal(maps.float().double(), maps)


def test_the_teacher_stays_as_it_was(detector: Detector, batch: Batch) -> None:
    before = detector.encoder.weights_sha256
    train(detector, batch, 2)
    assert detector.encoder.weights_sha256 == before
    assert not any(module.training for module in detector.train().encoder.modules())
    trained = {id(value) for group in detector.parameter_groups(1.0) for value in group["params"]}
    assert not trained & {id(value) for value in detector.encoder.parameters()}


def test_what_it_learned_can_be_saved_and_loaded(
    detector: Detector, method: type[Detector], settings: Strict, encoder: FrozenEncoder, batch: Batch
) -> None:
    train(detector, batch, 2)
    other = method(encoder, settings, 2).eval()
    other.load_learned_state(detector.learned_state())
    with torch.inference_mode():
        assert torch.equal(other.anomaly_maps(batch.images), detector.anomaly_maps(batch.images))
    with pytest.raises(RuntimeError, match="does not fit"):
        other.load_learned_state({"nothing": torch.zeros(1)})


@pytest.mark.parametrize(
    "cut", ["in the first epoch", "after the first epoch", "in the second epoch", "after the last"]
)
def test_it_resumes_to_the_same_bits(
    cut: str, method: type[Detector], settings: Strict, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    """Wherever it is interrupted: what it has learned then is what an undisturbed training learns."""
    generator = np.random.default_rng(0)
    data = TrainingImages(generator.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8), np.arange(8) % 2)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2) / 255

    def trainer(file: str) -> Trainer:
        seed_everything(0)
        return Trainer(method(encoder, settings, 2), experiment(), 0, tmp_path / file)

    def learned(trainer: Trainer) -> tuple[str, torch.Tensor]:
        trainer.run(data, SilentReporter())
        with torch.inference_mode():
            return digest(trainer.detector.learned_state()), trainer.detector.eval().anomaly_maps(images)

    whole = learned(trainer("whole.pt"))
    interrupted = trainer("cut.pt")
    epochs = interrupted.experiment.epochs
    if cut.startswith("in"):
        stop_at_step(interrupted, 1 if "first" in cut or epochs == 1 else 3)
    last = epochs if "last" in cut else 1
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(
            data, SilentReporter(), lambda log: stop() if cut.startswith("after") and log.epoch == last else None
        )
    resumed = learned(trainer("cut.pt"))
    assert resumed[0] == whole[0]
    assert torch.equal(resumed[1], whole[1])


def stop_at_step(trainer: Trainer, number: int) -> None:
    """Interrupt a training in its step of that number, counted from 0: two make an epoch here."""
    step, left = trainer.step.losses, iter(range(number))
    trainer.step.losses = lambda batch: stop() if next(left, None) is None else step(batch)


def stop() -> NoReturn:
    raise KeyboardInterrupt


@OURS_ALONE
@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu(
    method: type[Detector], settings: Strict, encoder: FrozenEncoder, batch: Batch
) -> None:
    """Neither the method's part of it nor the loop's; losses are looked at every 20 steps."""
    detector = method(deepcopy(encoder), settings, 2).cuda().train()
    step = TrainingStep(detector, experiment(gradient_clip=1.0))
    there = Batch(batch.images.cuda(), batch.categories.cuda())
    for _ in range(2):
        step(there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@OURS_ALONE
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_its_step_can_be_traced_for_compiling(
    method: type[Detector], settings: Strict, encoder: FrozenEncoder, batch: Batch
) -> None:
    """`--compile` hands the step to Dynamo: the same losses with the teacher asked and with its features given, in a smaller
    last batch, and after an evaluation in between. What is traced runs as it is, which needs no compiler and takes seconds.
    """
    torch.compiler.reset()
    seed_everything(0)
    detector = method(encoder, shallow(settings), 2).train()
    traced = torch.compile(detector.training_step, backend="eager")
    with torch.no_grad():
        given = replace(batch, features=tuple(encoder(batch.images))) if method.asks_teacher else batch
    smaller = Batch(batch.images[:3], batch.categories[:3])
    steps = (batch, given, smaller, given) if method.asks_teacher else (batch, smaller, batch)
    for number, each in enumerate(steps):
        if number == len(steps) - 1:
            with torch.inference_mode():
                detector.eval().anomaly_maps(batch.images)
            detector.train()
        losses = []
        for step in (detector.training_step, traced):
            kept = {name: value.clone() for name, value in detector.state_dict().items()}
            seed_everything(number)
            losses.append({name: float(term.detach()) for name, term in step(each).items()})
            detector.load_state_dict(kept)
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_same_seed_gives_the_same_bits(
    method: type[Detector], settings: Strict, encoder: FrozenEncoder, batch: Batch
) -> None:
    results = []
    for seed in (0, 0, 1):
        seed_everything(seed)
        detector = method(encoder, settings, 2)
        train(detector, batch, 2)
        with torch.inference_mode():
            results.append(detector.anomaly_maps(batch.images))
    assert torch.equal(results[0], results[1])
    if not method.single_pass:  # which may draw nothing
        assert not torch.equal(results[0], results[2])
