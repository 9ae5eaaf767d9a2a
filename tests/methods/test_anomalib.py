"""Models of anomalib as rows of this suite: held to anomalib's own training and inference, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models import vision_transformer

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.step import TrainingStep
from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel, find_cell
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.encoder_for_timm import EncoderForTimm
from mddbench.nn.tensor_files import digest
from mddbench.runs.records import RECORD, read_record
from mddbench.seeding import seed_everything
from support import experiment, mddbench, needs_anomalib, write_tree

PADIM: dict[str, Any] = {"model": "Padim", "options": {"n_features": 16}}
SMALL = ("--set", "image_size=64", "--set", "batch_size=4", "--tracking", "none", "--no-report", "-q")


def built(encoder: FrozenEncoder, method: str = "anomalib", **settings: Any) -> Any:
    """A detector with fresh weights of seed 0."""
    kind = load_method(method)
    seed_everything(0)
    return kind(encoder, method_settings(kind, settings, "test"), 2).to(memory_format=torch.channels_last)


def batches(images: torch.Tensor) -> list[Batch]:
    return [Batch(part, torch.tensor([0, 1])) for part in images.to(memory_format=torch.channels_last).split(2)]


def trained_by_anomalib(detector: Any, images: torch.Tensor, epochs: int) -> Any:
    """A copy of a detector's module, trained by Lightning's Trainer, which anomalib's engine calls, in the same batches."""
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import Trainer

    module, normalise = deepcopy(detector.model.module), detector.model.normalise
    before = digest(module.state_dict())
    module.trainer = module.pre_processor = None
    for name in ("log", "log_dict"):
        vars(module).pop(name)
    parts = [SimpleNamespace(image=normalise(part)) for part in images.split(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(max_epochs=epochs, accelerator="cpu", barebones=True)
        trainer.fit(module, torch.utils.data.DataLoader(parts, batch_size=None))
    assert digest(module.state_dict()) != before
    module.pre_processor = PreProcessor(normalise)
    return module.eval()


@needs_anomalib
@pytest.mark.parametrize(("method", "settings", "epochs"), [("anomalib_bank", PADIM, 1), ("anomalib", {}, 2)])
def test_it_learns_and_scores_as_anomalib_does_by_itself(
    method: str, settings: dict[str, Any], epochs: int, encoder: FrozenEncoder, images: torch.Tensor
) -> None:
    """The suite's loop and Lightning's Trainer come to the same weights, and anomalib's own call to the same scores."""
    detector = built(encoder, method, **settings)
    own = trained_by_anomalib(detector, images, epochs)
    step = TrainingStep(detector.train(), experiment(schedule={"name": "constant"}))
    for _ in range(epochs):
        for batch in batches(images):
            step(batch)
    detector.finish_training()
    with torch.inference_mode():
        maps, scores = detector.eval().maps_and_scores(images)
        given = own(images)  # anomalib's own way: its pre-processing, its model
    torch.testing.assert_close(maps, given.anomaly_map.reshape(maps.shape), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores, given.pred_score.flatten(), rtol=1e-4, atol=1e-5)


@needs_anomalib
@pytest.mark.parametrize("name", ["anomalib_padim", "anomalib_stfpm"])
def test_it_is_a_row_like_any_other(name: str, tmp_path: Path) -> None:
    """Run from the command line, with its record; a second run finds it finished, and a saved model scores the same."""
    tree = write_tree(tmp_path / "tree")
    few = ("--set", "epochs=2") if name == "anomalib_stfpm" else ("--set", "settings.options.n_features=16")
    run = ("run", f"folder/{name}", "--data-root", tree, "--out", tmp_path / "out", *SMALL, *few)
    done = mddbench(*run)
    assert done.returncode == 0, done.stderr
    cell = find_cell(f"folder/{name}", tmp_path / "out")
    record = read_record(cell / RECORD)
    assert record.label.startswith(("Padim (anomalib 2.", "Stfpm (anomalib 2."))
    assert (record.card.network, record.card.image_score) == (record.label, "the model's own")
    assert record.card.encoder_sha256 is not None
    stfpm = {"name": "own SGD", "lr": 0.4, "momentum": 0.9, "weight_decay": 0.001}
    assert record.card.optimizer == ("none" if "padim" in name else stfpm)
    assert record.metrics["mean"]["aupro"] is not None
    before = (cell / RECORD).read_bytes()
    assert mddbench(*run).returncode == 0
    assert (cell / RECORD).read_bytes() == before
    model = FinishedModel.load(cell, torch.device("cpu"))
    again = mddbench(*run, "--force")
    assert again.returncode == 0, again.stderr
    assert read_record(cell / RECORD).model_sha256 == record.model_sha256
    other = FinishedModel.load(cell, torch.device("cpu"))
    pixels = torch.randint(
        0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).numpy()
    for ours, theirs in zip(model.score(pixels), other.score(pixels), strict=True):
        assert (ours == theirs).all()


@needs_anomalib
@pytest.mark.parametrize(("method", "settings"), [("anomalib_bank", PADIM), ("anomalib_bank", {}), ("anomalib", {})])
def test_an_images_map_depends_on_its_batch_by_rounding_only(
    method: str, settings: dict[str, Any], encoder: FrozenEncoder, images: torch.Tensor
) -> None:
    """By more than our own methods', since anomalib takes differences of large squares in single precision."""
    detector = built(encoder, method, **settings)
    for batch in batches(images):
        detector.train().training_step(batch)
    detector.finish_training()
    with torch.inference_mode():
        together = detector.eval().maps_and_scores(images)
        alone = [detector.maps_and_scores(image[None]) for image in images]
    for given, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(given, torch.cat(parts), rtol=5e-3, atol=1e-4)


@needs_anomalib
def test_an_images_score_is_the_models_own(encoder: FrozenEncoder, images: torch.Tensor) -> None:
    """Patchcore weights the distance of the most distant patch, which is not the maximum of the smoothed map."""
    detector = built(encoder, "anomalib_bank")
    for batch in batches(images):
        detector.train().training_step(batch)
    detector.finish_training()
    other = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maps, scores = detector.eval().maps_and_scores(other)
        wanted = detector.model.module.model(detector.model.normalise(other)).pred_score
    assert torch.equal(scores, wanted)
    assert not torch.allclose(scores, maps.flatten(1).amax(dim=1))


@needs_anomalib
def test_its_backbones_have_the_encoders_weights(encoder: FrozenEncoder) -> None:
    """Those that anomalib wants pre-trained. The student begins with random ones, and timm is as it was."""
    create = timm.create_model
    model = built(encoder).model.module.model
    for name, value in model.teacher_model.feature_extractor.state_dict().items():
        assert torch.equal(value, encoder.weights()[name]), name
    student = model.student_model.feature_extractor.state_dict()
    assert not torch.equal(student["conv_stem.weight"], encoder.weights()["conv_stem.weight"])
    assert timm.create_model is create


@needs_anomalib
def test_other_methods_keep_their_timm() -> None:
    """anomalib replaces timm's resizing of positions for good; here it does so inside its own models alone."""
    resample = vision_transformer.resample_abs_pos_embed
    seed_everything(0)
    detector = built(FrozenEncoder("test_vit", (2, 5), normed=True), "anomalib_bank")
    assert vision_transformer.resample_abs_pos_embed is resample
    used = []
    inside = detector.model._timm.resample
    assert inside is not resample
    detector.model._timm.resample = lambda *given, **options: used.append(1) or inside(*given, **options)
    detector.train().training_step(Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 1])))
    assert used == [1]
    assert vision_transformer.resample_abs_pos_embed is resample


def test_weights_from_torchvision_are_named_by_their_hash(
    encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import _api, resnet18

    state = resnet18().state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *given, **options: state)
    block = EncoderForTimm(encoder, "Toy")
    with block:
        resnet18(weights="IMAGENET1K_V1")
    assert block.fetched == [digest(state)]


@needs_anomalib
def test_rates_are_those_before_the_models_schedule_began(encoder: FrozenEncoder, images: torch.Tensor) -> None:
    """Supersimplenet's schedule would have lowered them at once where there are no epochs to count."""
    detector = built(encoder, model="Supersimplenet")
    assert [group["lr"] for group in detector.own_optimizer().param_groups] == [0.0001, 0.0002]
    loss = detector.train().training_step(batches(images)[0])["loss"]  # which reads masks and labels of the batch
    assert torch.isfinite(loss)


@needs_anomalib
@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("anomalib", {"model": "Padim"}, "Padim only collects; that is the method anomalib_bank"),
        ("anomalib_bank", {"model": "Stfpm"}, "Stfpm is trained; that is the method anomalib"),
        ("anomalib", {"model": "Stfpn"}, r"has no model 'Stfpn' \(did you mean 'Stfpm'\?\)"),
        ("anomalib", {"model": "Cflow"}, "Cflow needs Lightning's Trainer .it steps its optimisers itself"),
        ("anomalib", {"model": "EfficientAd"}, "EfficientAd needs Lightning's Trainer .it has an on_train_start"),
        ("anomalib", {"model": "WinClip"}, "WinClip learns nothing from images"),
        ("anomalib", {"model": "L2BT"}, "prepares images by SquarePad, which is not known here"),
        (
            "anomalib_bank",
            {"options": {"depth": 3}},
            "'depth' is no option here of anomalib's Patchcore; it has backbone",
        ),
        (
            "anomalib_bank",
            {"options": {"pre_trained": False}},
            "'pre_trained' is no option here .* this suite gives it",
        ),
        ("anomalib_bank", {"options": {"backbone": "resnet18"}}, "wants the weights of 'resnet18', the experiment's"),
        ("anomalib_bank", {"model": "Padim"}, "cannot be built .ValueError: n_features must be specified"),
        ("anomalib", {"model": "Fastflow"}, "cannot be built .*; set settings.side"),
    ],
)
def test_what_cannot_be_is_one_line(
    method: str, settings: dict[str, Any], message: str, encoder: FrozenEncoder
) -> None:
    with pytest.raises(InputError, match=message) as told:
        built(encoder, method, **settings)
    assert "\n" not in str(told.value)


@needs_anomalib
def test_levels_that_are_too_shallow_and_sizes_that_differ_are_told() -> None:
    shallow = FrozenEncoder("resnet18", (1, 2))
    with pytest.raises(InputError, match=r"wants more of 'resnet18' than the encoder has at its levels \[1, 2\]"):
        built(shallow, "anomalib_bank", model="Patchcore", options={"layers": ["layer1", "layer4"]})
    detector = built(FrozenEncoder("resnet18", (1, 2, 3)), model="Fastflow", side=64)
    with pytest.raises(InputError, match=r"settings.side is 64, the images have 32x32 pixels"):
        detector.anomaly_maps(torch.rand(1, 3, 32, 32))


@needs_anomalib
def test_a_model_that_asks_for_a_trainer_is_told_that_there_is_none(encoder: FrozenEncoder) -> None:
    module = built(encoder).model.module
    with pytest.raises(InputError, match=r"Stfpm needs Lightning's Trainer .asks it for 'global_step'"):
        _ = module.global_step
    assert deepcopy(module).automatic_optimization


def test_an_optimiser_of_its_own_is_not_overridden() -> None:
    done = mddbench("run", "folder/anomalib_stfpm", "--set", "optimizer.lr=1", "--data-root", "nowhere")
    assert done.returncode == 2
    assert "--set optimizer.lr: anomalib has its own optimiser; leave it out" in done.stderr


def test_without_anomalib_one_line_says_what_to_install(
    encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(InputError, match=r"'Stfpm' is a model of anomalib, .* pip install 'mddbench\[anomalib\]'"):
        built(encoder)


@pytest.mark.parametrize("words", [["list"], ["check"], ["--help"]])
def test_nothing_imports_anomalib_before_a_cell_is_built(words: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['mddbench', *{words!r}]\n"
        "from mddbench.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'anomalib', 'lightning'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert words != ["list"] or "folder/anomalib_padim" in ran.stdout


def test_a_method_that_promises_an_optimiser_must_have_one(encoder: FrozenEncoder) -> None:
    class Forgetful(load_method("rd4ad")):  # type: ignore[misc]
        brings_optimizer = True

    detector: Detector = Forgetful(encoder, Forgetful.Settings(), 2)
    with pytest.raises(NotImplementedError, match="Forgetful says brings_optimizer, so it needs own_optimizer"):
        TrainingStep(detector, experiment())
