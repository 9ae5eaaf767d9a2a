"""The base class of methods: how it knows its settings, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.nn.encoder import FrozenEncoder
from mddbench.progress import SilentReporter
from mddbench.runs.card import ProtocolCard, Setting
from mddbench.settings import Strict, validated

Own = TypeVar("Own", bound=Strict)


class Width(Strict):
    width: int = 3


class Least(Detector[Width]):
    label, version = "Least", 1

    def __init__(self, encoder: FrozenEncoder, settings: Width, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.level = torch.nn.Parameter(torch.ones(settings.width))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"level": (batch.images.mean() - self.level).square().mean()}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        return images.mean(dim=1) * self.level.mean()


class Shared(Detector[Own], Generic[Own]):
    pass


class Inner(Shared[Width]):
    pass


class Nested(Detector):
    class Settings(Strict):
        depth: int = 1


class Both(Detector[Width]):
    class Settings(Width):
        depth: int = 1


def test_the_settings_follow_from_the_base_class() -> None:
    assert Least.Settings is Width
    assert Inner.Settings is Width
    assert Nested.Settings().depth == 1
    assert Both.Settings().depth == 1  # a class's own settings go first
    assert type("Later", (Least,), {}).Settings is Width
    assert not hasattr(Shared, "Settings")


def test_the_category_is_ignored_unless_a_method_takes_it(encoder: FrozenEncoder, images: Tensor) -> None:
    detector = Least(encoder, Width(), 2)
    assert torch.equal(detector.anomaly_maps_of(images, 1), detector.anomaly_maps(images))


class Told(Least):
    @property
    def wants_test_labels(self) -> bool:
        return True


class Old(Least):
    def anomaly_maps(self, images: Tensor) -> Tensor:
        assert self.told_category is None
        return super().anomaly_maps(images)


class Odd(Least):
    smoothing: Any = 4


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Told, "it needs anomaly_maps_of(images, category); the category is an argument, and `told_category` is gone"),
        (Old, "has no attribute 'told_category'"),
        (Odd, "'smoothing' of the protocol card is 4"),
    ],
)
def test_what_no_longer_fits_is_said_before_training(
    method: type[Detector], message: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan(["folder/rd4ad"], "named", (0,), {"image_size": 64, "batch_size": 4})
    cells = [type(cell)(cell.experiment.model_copy(update={"settings": {}}), cell.seed) for cell in cells]
    monkeypatch.setattr("mddbench.execution.models.load_method", lambda _: method)
    options = RunOptions(tmp_path / "out", tmp_path / "cache", torch.device("cpu"), data_root=tree)
    with pytest.raises(InputError) as fault:
        check_cells(cells, options, SilentReporter())
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("one model for 8 categories", Setting(models="unified", categories=8)),
        ("one model for 8 categories, held out", Setting(models="unified", categories=8, held_out=True)),
        (
            "a separate model for each of 3 categories, held out, fabricated images",
            Setting(models="separate", categories=3, held_out=True, fabricated=True),
        ),
    ],
)
def test_the_setting_of_an_older_record_is_read_from_its_text(text: str, setting: Setting) -> None:
    card = ProtocolCard.model_validate_json(f'{{"setting": "{text}"}}')
    assert card.setting == setting
    assert card.shown("setting") == text
    assert card.decisive() == {"setting": text}


@pytest.mark.parametrize(
    "text", ["one model", "one model for ² categories", "one model for 07 categories", "", "no model, held out"]
)
def test_a_setting_that_is_none_of_ours_stays_a_text(text: str) -> None:
    card = ProtocolCard.model_validate_json(f'{{"setting": "{text}"}}')
    assert card.setting == text
    assert not card.unified
    assert not card.standard_setting


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"epochs": -1', "'epochs' is -1: "),
        ('"optimizer": 3', "'optimizer' is 3: "),
        ('"setting": {"models": "x", "categories": 1}', "'setting.models' is 'x': "),
        ('"encoder_levels": [1, "a"]', "'encoder_levels.1' is 'a': "),
    ],
)
def test_a_wrong_field_of_a_card_is_named_as_its_reader_knows_it(field: str, message: str) -> None:
    with pytest.raises(InputError) as fault:
        validated(ProtocolCard, json.loads(f"{{{field}}}"), "card")
    assert str(fault.value).startswith(f"card: {message}")
