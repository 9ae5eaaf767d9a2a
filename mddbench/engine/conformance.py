"""What every method must do, whoever wrote it: checks without data, in seconds.

The tests run them over all methods here, `mddbench check --methods NAME` over those of a plug-in.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mddbench.batch import Batch
from mddbench.engine.batches import TrainingImages
from mddbench.engine.subject import CATEGORIES, IMAGES, SIZE, WIDE, Subject, sample_batch, train
from mddbench.engine.train import Trainer
from mddbench.errors import InputError
from mddbench.experiments.schema import Experiment
from mddbench.nn.tensor_files import digest
from mddbench.progress import SilentReporter
from mddbench.seeding import seed_everything
from mddbench.settings import Strict, validated
from mddbench.sizes import height_and_width

HEADER = ("Paper:", "Code read:", "Differs:", "Unsaid:")
TRAINING: dict[str, Any] = {
    "name": "conformance",
    "method": "any",
    "dataset": "folder",
    "seeds": [0],
    "image_size": SIZE,
    "batch_size": IMAGES,
    "epochs": 2,
    "encoder": {"name": "tf_efficientnet_lite0", "levels": [1, 2, 3]},
    "optimizer": {"name": "adam", "lr": 0.005, "betas": [0.5, 0.999]},
    "schedule": {"name": "constant"},
    "gradient_clip": None,
}
"""The settings of the trainings that are interrupted. An epoch has two steps."""


class _Interruption(KeyboardInterrupt):
    """The interruption of a training by a check, and not by a person."""


class NonconformanceError(Exception):
    """A method does not do what every method must do. The message is one line."""


def require(condition: object, words: str) -> None:
    """Raise NonconformanceError unless a condition holds.

    Args:
        condition: The condition.
        words: What must hold, and what was found.

    Raises:
        NonconformanceError: If the condition is false.
    """
    if not condition:
        raise NonconformanceError(words)


def says_where_it_is_from(subject: Subject) -> None:
    """Require a label, a version, and a file that begins with its sources."""
    method = subject.method
    require(method.label and method.version >= 1, "expected a label and a version from 1 on")
    module = inspect.getmodule(method)
    header = ast.get_docstring(ast.parse(inspect.getsource(module))) if module else None
    missing = [part for part in HEADER if part not in (header or "")]
    require(not missing, f"the file must begin with its sources ({', '.join(HEADER)}); missing: {', '.join(missing)}")


def losses_are_named_and_fall(subject: Subject) -> None:
    """Require loss terms that are named finite scalars, and whose sum falls."""
    detector, batch = subject.detector(), sample_batch()
    for name, value in detector.training_step(batch).items():
        require(name.isidentifier(), f"a loss term is called {name!r}; expected letters, digits and _")
        require(value.shape == (), f"loss term {name} has shape {tuple(value.shape)}; expected a scalar")
        require(torch.isfinite(value), f"loss term {name} is {float(value.detach())}")
    losses = train(detector, batch, 16)  # a step may draw a harder defect than the one before
    falls = not losses or np.mean(losses[-4:]) < np.mean(losses[:4])
    require(falls, f"the loss does not fall in 16 steps on one batch: {losses[:4]} ... {losses[-4:]}")


def maps_fit_the_images(subject: Subject) -> None:
    """Require finite maps of the images' size and a finite score for each image."""
    detector, batch = subject.detector(), sample_batch()
    train(detector, batch, 1)
    with torch.inference_mode():
        maps = detector.anomaly_maps(batch.images)
        scores = detector.image_scores(maps)
    require(maps.shape == (IMAGES, SIZE, SIZE), f"maps have shape {tuple(maps.shape)}; expected (4, 64, 64)")
    require(scores.shape == (IMAGES,), f"image scores have shape {tuple(scores.shape)}; expected (4,)")
    require(torch.isfinite(maps).all() and torch.isfinite(scores).all(), "maps or scores are not finite")


def wide_images_are_scored(subject: Subject) -> None:
    """Require finite maps of the images' size for images that are no squares. InputError is what a refusal raises."""
    detector, batch = subject.detector(), sample_batch(WIDE)
    losses = train(detector, batch, 1)
    with torch.inference_mode():
        maps, scores = detector.maps_and_scores(batch.images)
    shape = (IMAGES, *height_and_width(WIDE))
    require(maps.shape == shape, f"maps of wide images have shape {tuple(maps.shape)}; expected {shape}")
    finite = np.isfinite(losses).all() and torch.isfinite(maps).all() and torch.isfinite(scores).all()
    require(finite, "losses, maps or scores of wide images are not finite")


def wide_images_fit(subject: Subject) -> None:
    """Require the same, or a refusal in words."""
    with suppress(InputError):
        wide_images_are_scored(subject)


def flat_images_give_numbers(subject: Subject) -> None:
    """Require numbers for images without contrast: nothing is divided by nothing."""
    for shade in (0.0, 0.5, 1.0):
        detector = subject.detector()
        flat = Batch(torch.full((IMAGES, 3, SIZE, SIZE), shade), torch.tensor([0, 0, 1, 1]))
        losses = train(detector, flat, 3)
        require(np.isfinite(losses).all(), f"images of one shade ({shade}) give losses {losses}")
        with torch.inference_mode():
            maps = detector.anomaly_maps(flat.images)
            finite = torch.isfinite(maps).all() and torch.isfinite(detector.image_scores(maps)).all()
        require(finite, f"images of one shade ({shade}) give maps or scores that are not finite")


def a_map_does_not_depend_on_its_batch(subject: Subject) -> None:
    """Require the same map for an image alone and among others."""
    detector, batch = subject.detector(), sample_batch()
    train(detector, batch, 1)
    with torch.inference_mode():
        together = detector.anomaly_maps(batch.images)
        alone = torch.cat([detector.anomaly_maps(image[None]) for image in batch.images])
    difference = float((together - alone).abs().max())
    same = torch.allclose(together, alone, atol=1e-4, rtol=1e-4)
    require(same, f"an image's map differs by up to {difference:.1e} alone and among others")


def double_stays_double(subject: Subject) -> None:
    """Require that a model in double precision rounds nothing to single precision on the way."""
    seed_everything(0)
    detector = subject.method(deepcopy(subject.encoder), subject.settings, CATEGORIES).double()
    batch = sample_batch()
    images = batch.images.double()
    terms = detector.train().training_step(Batch(images, batch.categories))
    single = [name for name, term in terms.items() if term.dtype != torch.float64]
    require(not single, f"in double precision the loss terms {', '.join(single)} are not double")
    seen: dict[torch.dtype, list[str]] = {}
    for name, part in detector.named_modules():
        part.register_forward_hook(
            lambda _, __, output, name=name: seen.setdefault(getattr(output, "dtype", torch.float64), []).append(name)
        )
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(images)
        scores = detector.image_scores(maps)
    kinds = {str(kind) for kind in (maps.dtype, scores.dtype, *seen)}
    require(kinds == {"torch.float64"}, f"in double precision maps, scores and modules give {', '.join(sorted(kinds))}")
    require(not torch.equal(maps.float().double(), maps), "in double precision maps were rounded to single precision")


def the_teacher_stays(subject: Subject) -> None:
    """Require an encoder that is not trained, and stays in evaluation mode."""
    detector, batch = subject.detector(), sample_batch()
    before = detector.encoder.weights_sha256
    train(detector, batch, 2)
    require(detector.encoder.weights_sha256 == before, "training changed the weights of the frozen encoder")
    training = any(module.training for module in detector.train().encoder.modules())
    require(not training, "the frozen encoder is in training mode")
    trained = {id(value) for group in detector.parameter_groups(1.0) for value in group["params"]}
    own = {id(value) for value in detector.encoder.parameters()}
    require(not trained & own, "parameter_groups holds parameters of the frozen encoder")


def it_can_be_saved_and_loaded(subject: Subject) -> None:
    """Require that the learned state is all that a model needs, and that another state is refused."""
    detector, batch = subject.detector(), sample_batch()
    train(detector, batch, 2)
    other = subject.method(subject.encoder, subject.settings, CATEGORIES).eval()
    other.load_learned_state(detector.learned_state())
    with torch.inference_mode():
        same = torch.equal(other.anomaly_maps(batch.images), detector.anomaly_maps(batch.images))
    require(same, "a model with the loaded state gives other maps: something that it learned is no parameter or buffer")
    try:
        other.load_learned_state({"nothing": torch.zeros(1)})
    except RuntimeError:
        return
    raise NonconformanceError("a state of other tensors was loaded without a fault")


def it_resumes_to_the_same_bits(cut: str, subject: Subject) -> None:
    """Require that an interrupted training learns what an undisturbed one learns.

    Args:
        cut: Where it is interrupted.
        subject: The method.
    """
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (2 * IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    data = TrainingImages(pixels, np.arange(2 * IMAGES) % CATEGORIES)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255

    def learned(trainer: Trainer) -> tuple[str, Tensor]:
        trainer.run(data, SilentReporter())
        with torch.inference_mode():
            return digest(trainer.detector.learned_state()), trainer.detector.eval().anomaly_maps(images)

    with TemporaryDirectory(prefix="mddbench-conformance-") as folder:

        def trainer(file: str) -> Trainer:
            return Trainer(subject.detector(), validated(Experiment, TRAINING, "conformance"), 0, Path(folder) / file)

        whole = learned(trainer("whole.pt"))
        interrupted = trainer("cut.pt")
        epochs = interrupted.experiment.epochs
        if cut.startswith("in"):
            _stop_at_step(interrupted, 1 if "first" in cut or epochs == 1 else 3)
        last = epochs if "last" in cut else 1
        stopped = False
        try:
            interrupted.run(
                data, SilentReporter(), lambda log: _stop() if cut.startswith("after") and log.epoch == last else None
            )
        except _Interruption:
            stopped = True
        require(stopped, f"the training could not be interrupted {cut}")
        resumed = learned(trainer("cut.pt"))
    words = f"interrupted {cut}, it learns something else than undisturbed: some state is no parameter or buffer"
    require(resumed[0] == whole[0] and torch.equal(resumed[1], whole[1]), words)


def its_step_can_be_traced(subject: Subject) -> None:
    """Require a step that can be compiled: the same losses with the teacher asked and with its features given.

    What is traced runs as it is, which needs no compiler and takes seconds.
    """
    torch.compiler.reset()
    seed_everything(0)
    detector = subject.method(subject.encoder, _shallow(subject.settings), CATEGORIES).train()
    traced = torch.compile(detector.training_step, backend="eager")
    batch, asks = sample_batch(), subject.method.asks_teacher
    with torch.no_grad():
        given = replace(batch, features=tuple(subject.encoder(batch.images))) if asks else batch
    smaller = Batch(batch.images[:3], batch.categories[:3])
    steps = (batch, given, smaller, given) if asks else (batch, smaller, batch)
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
        same = losses[0].keys() == losses[1].keys() and np.allclose(
            list(losses[0].values()), list(losses[1].values()), 1e-4
        )
        require(same, f"a compiled step has losses {losses[1]}, where it has {losses[0]} otherwise")


def the_seed_decides(subject: Subject) -> None:
    """Require the same bits from the same seed, and others from another seed."""
    results, batch = [], sample_batch()
    for seed in (0, 0, 1):
        detector = subject.detector(seed)
        train(detector, batch, 2)
        with torch.inference_mode():
            results.append(detector.anomaly_maps(batch.images))
    require(torch.equal(results[0], results[1]), "two trainings with the same seed give different maps")
    if not subject.method.single_pass:  # which may draw nothing
        require(not torch.equal(results[0], results[2]), "the seed changes nothing")


WIDE_FIT = "wide images fit"
CUTS = ("in the first epoch", "after the first epoch", "in the second epoch", "after the last epoch")
Check = Callable[[Subject], None]
CHECKS: dict[str, Check] = {
    "it says where it is from": says_where_it_is_from,
    "losses are named and fall": losses_are_named_and_fall,
    "maps fit the images": maps_fit_the_images,
    WIDE_FIT: wide_images_fit,
    "flat images give numbers": flat_images_give_numbers,
    "a map does not depend on its batch": a_map_does_not_depend_on_its_batch,
    "double stays double": double_stays_double,
    "the teacher stays": the_teacher_stays,
    "it can be saved and loaded": it_can_be_saved_and_loaded,
    **{f"it resumes to the same bits, {cut}": partial(it_resumes_to_the_same_bits, cut) for cut in CUTS},
    "its step can be traced": its_step_can_be_traced,
    "the seed decides": the_seed_decides,
}
"""What must hold -> the function that raises NonconformanceError if it does not."""


def faults_of(subject: Subject) -> Iterator[tuple[str, str | None]]:
    """Run all checks on a method.

    Args:
        subject: The method.

    Yields:
        What must hold, and what is wrong, in one line; None if nothing is.
    """
    for name, check in CHECKS.items():
        try:
            check(subject)
        except NonconformanceError as fault:
            yield name, str(fault)
        except Exception as fault:  # noqa: BLE001 - a method can raise anything
            yield name, " ".join(f"{type(fault).__name__}: {fault}".split())
        else:
            yield name, None


def _shallow(settings: Strict) -> Strict:
    """The settings with one block or layer in each part, where there is such a setting: deep ones take long to trace."""
    least = {"decoder_blocks": (1, 1, 1), "layers": 1}
    fitting = {name: value for name, value in least.items() if isinstance(getattr(settings, name, None), type(value))}
    try:
        return type(settings).model_validate(settings.model_dump() | fitting)
    except ValidationError:
        return settings


def _stop_at_step(trainer: Trainer, number: int) -> None:
    """Interrupt a training in its step of that number, counted from 0."""
    step, left = trainer.step.losses, iter(range(number))
    trainer.step.losses = lambda batch: _stop() if next(left, None) is None else step(batch)


def _stop() -> NoReturn:
    raise _Interruption
