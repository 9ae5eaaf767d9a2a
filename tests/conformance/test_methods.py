"""What every method must do. It runs over all methods found, so a new one is tested without a line written for it."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.engine import conformance
from mddbench.engine.conformance import CHECKS, WIDE_FIT, NonconformanceError, faults_of, wide_images_are_scored
from mddbench.engine.step import TrainingStep
from mddbench.engine.subject import Subject, sample_batch
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.plugins import METHODS, modules
from mddbench.settings import Strict
from support import BRIDGES, experiment, needs_anomalib, plugin_folder

MEMORY = "the method of CONTRIBUTING.md"
VARIANTS = ["mddnet_vit", "mddnet_bank", "daad_adversary"]
OURS = [*(name for name in modules(METHODS) if name not in BRIDGES), *VARIANTS, MEMORY]
"""All methods of this suite, and some variants. Each but the last has an experiment of this name on *mini*."""
THEIRS = ["anomalib_padim", "anomalib_stfpm"]
"""Experiments with models of another library, one for each method that holds such models."""
SQUARES_ONLY = ("diad", "vitad")
"""Methods with a fixed square grid."""
NOT_THEIRS = ("a map does not depend on its batch", "double stays double", "its step can be traced")
"""What anomalib's models do not do. They make some tensors in single precision, in which distances lose some digits, they
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


@pytest.fixture
def subject(request: pytest.FixtureRequest, encoder: FrozenEncoder) -> Subject:
    """A method, with the encoder that the tests share where it takes one of convolutions."""
    name = request.param
    if name == MEMORY:
        method: type[Detector] = request.getfixturevalue("template")
        return Subject(name, method, method.Settings(), encoder)
    found = Subject.of(name)
    return replace(found, encoder=encoder) if found.encoder.name == encoder.name else found


PAIRS = [
    *(pytest.param(name, check, id=f"{name}-{check}") for name in OURS for check in CHECKS if check != WIDE_FIT),
    *(
        pytest.param(name, check, marks=needs_anomalib, id=f"{name}-{check}")
        for name in THEIRS
        for check in CHECKS
        if check not in NOT_THEIRS
    ),
]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("subject", "check"), PAIRS, indirect=["subject"])
def test_it_conforms(subject: Subject, check: str) -> None:
    CHECKS[check](subject)


@pytest.mark.parametrize("subject", OURS, indirect=True)
def test_images_that_are_no_squares_are_scored_or_refused_by_some(subject: Subject) -> None:
    if subject.name in SQUARES_ONLY:
        with pytest.raises(InputError, match="it takes square images only"):
            wide_images_are_scored(subject)
        CHECKS[WIDE_FIT](subject)
    else:
        wide_images_are_scored(subject)


@pytest.mark.gpu
@pytest.mark.parametrize("subject", OURS, indirect=True)
def test_a_step_does_not_wait_for_the_gpu(subject: Subject) -> None:
    """Neither the method's part of it nor the loop's; losses are looked at every 20 steps."""
    batch = sample_batch()
    detector = subject.method(deepcopy(subject.encoder), subject.settings, 2).cuda().train()
    step = TrainingStep(detector, experiment(gradient_clip=1.0))
    there = Batch(batch.images.cuda(), batch.categories.cuda())
    for _ in range(2):
        step(there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Sound(Detector):
    """A method that does all that it must.

    Paper: none. Code read: none. Differs: from nothing. Unsaid: nothing.
    """

    label, version = "Sound", 1

    class Settings(Strict):
        pass

    def __init__(self, encoder: FrozenEncoder, settings: object, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.colour = nn.Parameter(torch.rand(3))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"squares": (batch.images - self.colour[:, None, None]).square().mean()}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        return (images - self.colour[:, None, None]).square().mean(dim=1)


class NoNames(Sound):
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"mean square": super().training_step(batch)["squares"]}


class NoFall(Sound):
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"constant": super().training_step(batch)["squares"] * 0 + 1.0}


class Small(Sound):
    def anomaly_maps(self, images: Tensor) -> Tensor:
        return super().anomaly_maps(images)[:, ::2, ::2]


class Divides(Sound):
    def anomaly_maps(self, images: Tensor) -> Tensor:
        return super().anomaly_maps(images) / images.std(dim=(1, 2, 3), keepdim=True)[:, 0]


class Compares(Sound):
    def anomaly_maps(self, images: Tensor) -> Tensor:
        return super().anomaly_maps(images) / super().anomaly_maps(images).max()


class Rounds(Sound):
    def anomaly_maps(self, images: Tensor) -> Tensor:
        return super().anomaly_maps(images.float().to(images.dtype)).float().to(images.dtype)


class TrainsTheTeacher(Sound):
    def parameter_groups(self, lr: float) -> list[dict[str, object]]:
        return [*super().parameter_groups(lr), {"params": list(self.encoder.parameters()), "lr": lr}]


class Hides(Sound):
    """It keeps what it learns where no checkpoint and no state sees it."""

    def __init__(self, encoder: FrozenEncoder, settings: object, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.hidden = 0.0

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        self.hidden += 1.0
        terms = super().training_step(batch)
        return {"squares": terms["squares"] * (1.0 + self.hidden / 1000)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        return super().anomaly_maps(images) + self.hidden


class Ignores(Sound):
    """It is the same whatever the seed."""

    def __init__(self, encoder: FrozenEncoder, settings: object, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.colour.data.fill_(0.1)


def failed(method: type[Detector], encoder: FrozenEncoder) -> dict[str, str]:
    found = dict(faults_of(Subject("own", method, method.Settings(), encoder)))
    return {name: fault for name, fault in found.items() if fault is not None and name != "it says where it is from"}


def test_a_sound_method_has_no_fault(encoder: FrozenEncoder) -> None:
    assert failed(Sound, encoder) == {}


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (NoNames, "losses are named and fall", "a loss term is called 'mean square'; expected letters, digits and _"),
        (NoFall, "losses are named and fall", "the loss does not fall in 16 steps"),
        (Small, "maps fit the images", "maps have shape (4, 32, 32); expected (4, 64, 64)"),
        (Divides, "flat images give numbers", "images of one shade (0.0) give maps"),
        (Compares, "a map does not depend on its batch", "an image's map differs by up to"),
        (Rounds, "double stays double", "maps were rounded to single precision"),
        (TrainsTheTeacher, "the teacher stays", "parameter_groups holds parameters of the frozen encoder"),
        (Hides, "it can be saved and loaded", "something that it learned is no parameter or buffer"),
        (Hides, "it resumes to the same bits, after the first epoch", "it learns something else than undisturbed"),
        (Ignores, "the seed decides", "the seed changes nothing"),
    ],
)
def test_a_fault_is_found_and_named(method: type[Detector], check: str, words: str, encoder: FrozenEncoder) -> None:
    assert words in failed(method, deepcopy(encoder))[check]


def test_what_a_method_raises_is_a_fault_in_one_line(encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Subject) -> None:
        raise ValueError("two\nlines")

    def refused(_: Subject) -> None:
        raise NonconformanceError("no")

    monkeypatch.setattr(conformance, "CHECKS", {"one": broken, "two": refused})
    subject = Subject("own", Sound, Sound.Settings(), encoder)
    assert list(faults_of(subject)) == [("one", "ValueError: two lines"), ("two", "no")]
