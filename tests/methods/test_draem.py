"""DRAEM: its counts, what its networks see, its scores; and the defects that it draws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mddbench.baselines.draem import AutoEncoder, SkipNetwork, focal_loss
from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.nn.blending import BlendSettings, blend, turned
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.perlin import perlin, varied_perlin
from mddbench.nn.ssim import structural_similarity
from mddbench.nn.texture_changes import CHANGES, changed
from mddbench.progress import SilentReporter
from mddbench.seeding import seed_everything

METHOD = load_method("draem")
SMALL: dict[str, Any] = {"reconstruction_width": 4, "segmentation_width": 2, "pool": 5}
CATEGORIES = torch.tensor([0, 0, 1, 1])


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    return METHOD(encoder, METHOD.Settings(**SMALL), 2)


@pytest.fixture
def photographs() -> Tensor:
    """Smooth colour fields, 12 of them."""
    torch.manual_seed(0)
    return (0.5 + 0.3 * perlin(36, (64, 64), (4, 4), torch.device("cpu")).reshape(12, 3, 64, 64)).clamp(0, 1)


def drawn(images: Tensor, seed: int = 1, **settings: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return blend(images, BlendSettings(**settings))


def test_parameters_match_the_published_counts() -> None:
    """69.05 M and 28.37 M, 97.423 M in all; source: the authors' code, ADer's logs. Level by level, beside what is counted."""
    with torch.device("meta"):
        parts = AutoEncoder(128), SkipNetwork(64)
    counts = [sum(value.numel() for value in part.parameters()) for part in parts]
    assert [round(count / 1e6, 2) for count in counts] == [69.05, 28.37]
    assert round(sum(counts) / 1e6, 3) == 97.423

    def layers(pairs: list[tuple[int, int]]) -> int:
        return sum(9 * before * after + after + 2 * after for before, after in pairs)

    w = 128
    down = [(3, w), (w, w), (w, 2 * w), (2 * w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)]
    down += [(4 * w, 8 * w), *[(8 * w, 8 * w)] * 3]
    up = [
        pair for c, d in ((8, 4), (4, 2), (2, 1), (1, 1)) for pair in ((c * w, c * w), (c * w, c * w), (c * w, d * w))
    ]
    assert counts[0] == layers(down + up) + 9 * w * 3 + 3


def test_multiply_adds_are_the_published() -> None:
    """198.0 G at 256 px; source: ADer's logs."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        images = torch.rand(1, 3, 256, 256)
        SkipNetwork(64)(torch.cat([AutoEncoder(128)(images), images], dim=1))
    assert counter.get_total_flops() / 2e9 == pytest.approx(198.0, abs=0.05)


def test_weights_start_around_what_the_authors_say(detector: Detector) -> None:
    """Convolutions around 0 and norms around 1, both with deviation 0.02."""
    found: dict[int, list[Tensor]] = {1: [], 4: []}
    for name, value in detector.named_parameters():
        if name.endswith("weight") and not name.startswith("encoder."):
            found[value.ndim].append(value.detach().flatten())
    norms, convolutions = (torch.cat(values) for values in found.values())
    assert [float(norms.mean()), float(convolutions.mean())] == pytest.approx([1.0, 0.0], abs=2e-3)
    assert [float(norms.std()), float(convolutions.std())] == pytest.approx([0.02, 0.02], abs=2e-3)


def test_it_is_trained_without_any_weights_of_an_encoder(images: Tensor) -> None:
    """Not even its features are asked for, and images come as they are, in [0, 1]."""
    detector = METHOD(FrozenEncoder("resnet10t", (1,)), METHOD.Settings(**SMALL), 2)
    seen: list[Tensor] = []
    detector.reconstruction.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    detector.encoder.backbone = None
    detector.training_step(Batch(images, CATEGORIES))
    with torch.inference_mode():
        detector.eval().anomaly_maps(images)
    assert torch.equal(seen[1], images)
    assert {name.partition(".")[0] for name in detector.learned_state()} == {"reconstruction", "segmentation"}


def test_the_map_is_a_probability_and_the_score_its_largest_local_mean(detector: Detector, images: Tensor) -> None:
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(images)
        scores = detector.image_scores(maps)
    assert 0 <= float(maps.min()) < float(maps.max()) <= 1
    padded = torch.zeros(4, 68, 68)
    padded[:, 2:66, 2:66] = maps
    windows = [
        padded[:, row : row + 5, column : column + 5].mean(dim=(1, 2)) for row in range(64) for column in range(64)
    ]
    torch.testing.assert_close(scores, torch.stack(windows).amax(dim=0), rtol=1e-5, atol=1e-6)
    assert detector.image_score_rule == "max of the map averaged over 5x5, zero outside"


def test_the_focal_loss_is_the_smoothed_one() -> None:
    torch.manual_seed(0)
    shares, masks = torch.rand(2, 3, 4, dtype=torch.float64), torch.rand(2, 3, 4) > 0.7
    losses = []
    for share, mask in zip(shares.flatten().tolist(), masks.flatten().tolist(), strict=True):
        right = share if mask else 1 - share
        right = right * (1 - 1e-3) + (1 - right) * 1e-3 + 1e-3
        losses.append(-((1 - right) ** 2) * math.log(right))
    found = focal_loss(torch.stack([1 - shares, shares], dim=1), masks, 2.0, 1e-3)
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    sure = torch.tensor([1.0, 0.0])[None, :, None, None]
    assert torch.isfinite(focal_loss(sure, torch.ones(1, 1, 1, dtype=torch.bool), 2.0, 1e-5))


def test_an_image_is_similar_to_itself_and_less_so_to_others(photographs: Tensor) -> None:
    assert float(structural_similarity(photographs, photographs)) == pytest.approx(1.0, abs=1e-5)
    assert float(structural_similarity(photographs, photographs.flip(0))) < 0.9
    half = photographs.half()
    assert structural_similarity(half, half).dtype == torch.float32


def test_losses_are_those_of_one_restoration(detector: Detector, images: Tensor) -> None:
    quiet = METHOD.Settings(**SMALL, synthesis={"probability": 0.0, "turn_probability": 0.0})
    detector.settings = quiet
    restored: list[Tensor] = []
    detector.reconstruction.register_forward_hook(lambda *given: restored.append(given[2].detach()))
    terms = detector.training_step(Batch(images, CATEGORIES))
    assert float(terms["square"].detach()) == pytest.approx(float((restored[0] - images).square().mean()), rel=1e-5)
    assert list(terms) == ["square", "similarity", "focal"]


@pytest.mark.parametrize("settings", [{"probability": 0.0}, {"threshold": 1.0}])
def test_an_empty_mask_leaves_the_image_untouched(photographs: Tensor, settings: dict[str, float]) -> None:
    abnormal, masks = drawn(photographs, **settings)
    assert not masks.any()
    assert torch.equal(abnormal, photographs)


def test_only_what_the_mask_marks_is_changed(photographs: Tensor) -> None:
    abnormal, masks = drawn(photographs, changes=3)
    outside = ~masks[:, None].expand_as(abnormal)
    assert torch.equal(abnormal[outside], photographs[outside])
    assert 0 <= float(abnormal.min()) <= float(abnormal.max()) <= 1
    assert masks.any()
    for one, other in zip(drawn(photographs, changes=3), (abnormal, masks), strict=True):
        assert torch.equal(one, other)


def test_half_of_the_images_are_spared(photographs: Tensor) -> None:
    many = photographs.repeat(20, 1, 1, 1)
    share = [float(drawn(many, probability=p)[1].flatten(1).any(dim=1).float().mean()) for p in (1.0, 0.5)]
    assert share[1] / share[0] == pytest.approx(0.5, abs=0.1)


def test_a_folders_pictures_are_blended_as_they_are(photographs: Tensor) -> None:
    """I (1 - M) + (1 - beta) T M + beta I M, one beta for each image, up to 0.8 here."""
    pictures = photographs.flip(0)
    torch.manual_seed(3)
    abnormal, masks = blend(photographs, BlendSettings(textures=("folder",)), pictures)
    betas = []
    for image, picture, found, mask in zip(photographs, pictures, abnormal, masks, strict=True):
        if mask.any():
            beta = (found - picture)[:, mask].sum() / (image - picture)[:, mask].sum()
            torch.testing.assert_close(found[:, mask], torch.lerp(picture, image, beta)[:, mask], atol=1e-4, rtol=1e-4)
            betas.append(float(beta))
    assert len(betas) > 6
    assert 0 <= min(betas) < max(betas) <= 0.8
    with pytest.raises(ValueError, match="no textures were given"):
        drawn(photographs, textures=("folder",))


def test_fields_of_several_resolutions_are_perlin_noise() -> None:
    """Each is what `perlin` draws from the same angles; and blobs are where it is above a half."""
    cells = torch.tensor([[1, 8], [4, 2], [8, 8]])
    torch.manual_seed(0)
    fields = varied_perlin(cells, 8, (32, 16))
    torch.manual_seed(0)
    angles = torch.rand(3, 9, 9)
    for field, (down, across), own in zip(fields, cells.tolist(), angles, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda *_, own=own[None, : down + 1, : across + 1], **__: own)
            expected = perlin(1, (32, 16), (down, across), torch.device("cpu"))[0]
        torch.testing.assert_close(field, expected, atol=1e-5, rtol=1e-5)


def test_labels_of_categories_decide_nothing(detector: Detector, images: Tensor) -> None:
    losses = []
    for categories in (CATEGORIES, torch.arange(4)):
        seed_everything(4)
        losses.append([float(term.detach()) for term in detector.training_step(Batch(images, categories)).values()])
    assert losses[0] == losses[1]


def test_turned_images_are_black_outside(photographs: Tensor) -> None:
    torch.manual_seed(0)
    many = photographs.repeat(10, 1, 1, 1)
    found = turned(many, 0.3, 90.0)
    moved = (found != many).flatten(1).any(dim=1)
    assert 0.15 < float(moved.float().mean()) < 0.45
    assert float((found[:, :, 0, 0] == 0).all(dim=1).float().mean()) > 0.1
    torch.manual_seed(0)
    assert torch.equal(turned(many, 0.0, 90.0), many)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_change_of_a_texture_is_one(photographs: Tensor, change: Any) -> None:
    torch.manual_seed(0)
    before = photographs.clone()
    found = change(photographs)
    assert torch.equal(photographs, before)
    assert found.shape == before.shape
    assert torch.isfinite(found).all()
    assert float((found.clamp(0, 1) - before).abs().mean()) > 1e-4
    for shade in (0.0, 0.5, 1.0):
        assert torch.isfinite(change(torch.full((2, 3, 8, 8), shade))).all()
    alone = change(photographs.double())
    assert alone.dtype == torch.float64


def test_changes_of_colour_are_what_their_names_say(photographs: Tensor) -> None:
    by_name = {change.__name__.lstrip("_"): change for change in CHANGES}
    torch.testing.assert_close(by_name["invert"](by_name["invert"](photographs)), photographs)
    stretched = by_name["autocontrast"](photographs).clamp(0, 1)
    assert float(stretched.amin()) == 0
    assert float(stretched.amax()) == 1
    equal = by_name["equalize"](photographs).flatten(2)
    assert float((equal.mean(dim=2) - 0.5).abs().max()) < 0.02
    grey = photographs.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    bright = by_name["brightness"](grey)
    torch.testing.assert_close(bright[:, :1].expand_as(bright), bright)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 0.5))  # no shift of hue or saturation
        torch.testing.assert_close(by_name["hue_and_saturation"](photographs), photographs, atol=1e-5, rtol=0)
        torch.testing.assert_close(by_name["turn"](photographs), photographs, atol=1e-4, rtol=0)


def test_three_changes_are_drawn_for_each_texture(photographs: Tensor) -> None:
    torch.manual_seed(0)
    assert changed(photographs, 0) is photographs
    found = changed(photographs, 3)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert bool((found != photographs).flatten(1).any(dim=1).all())


@pytest.mark.parametrize(
    ("changes", "message"), [({"pool": 20}, "pool 20 has no middle"), ({"window": 4}, "window 4 has no middle")]
)
def test_settings_that_cannot_work_are_one_line(encoder: FrozenEncoder, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message) as fault:
        METHOD(encoder, METHOD.Settings(**{**SMALL, **changes}), 2)
    assert "\n" not in str(fault.value)


def test_a_size_that_cannot_be_halved_five_times_is_refused(detector: Detector) -> None:
    with pytest.raises(InputError, match="image_size 72 does not fit; use a multiple of 32"):
        detector.anomaly_maps(torch.rand(1, 3, 72, 72))
    assert detector.eval().anomaly_maps(torch.rand(1, 3, 96, 96)).shape == (1, 96, 96)


def test_the_authors_textures_need_a_folder(tmp_path: Any) -> None:
    options = RunOptions(out=tmp_path, cache=tmp_path, device=torch.device("cpu"))
    with pytest.raises(InputError, match="give their folder by --textures DIR"):
        check_cells(plan(["mvtec/draem"], "named", (0,), {}), replace(options, data_root=tmp_path), SilentReporter())
