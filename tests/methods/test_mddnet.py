"""MDD-Net: every part against a naive loop, and who learns from what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import load_method, method_settings
from mddbench.errors import InputError
from mddbench.methods.mddnet import losses, scoring
from mddbench.methods.mddnet.memory import ClassAwareMemory, MemorySettings
from mddbench.methods.mddnet.scoring import ScoringSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth

SIZES = ((3, 8), (5, 4), (7, 2))


def levels(seed: int, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, channels, side, side, generator=generator) for channels, side in SIZES]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def build(encoder: FrozenEncoder, **settings: Any) -> Any:
    method = load_method("mddnet")
    torch.manual_seed(0)
    return method(encoder, method_settings(method, settings, "test"), 2)


def batch(count: int = 4, size: int = 64) -> Batch:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(count) % 2)


@pytest.mark.parametrize("loss", [losses.restoration, losses.identity])
def test_restoration_and_identity_equal_a_loop(loss: Any) -> None:
    one, other = levels(0), levels(1)
    expected = 0.0
    for a, b in zip(one, other, strict=True):
        expected += np.mean([1 - cosine(x.flatten().numpy(), y.flatten().numpy()) for x, y in zip(a, b, strict=True)])
    assert float(loss(one, other)) == pytest.approx(expected, abs=1e-6)
    assert float(loss(one, one)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("balanced", [True, False])
def test_discrepancy_equals_a_loop(balanced: bool) -> None:
    one, other = levels(0), levels(1)
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 3:9, 5:6] = True
    expected = 0.0
    for a, b in zip(one, other, strict=True):
        step = 16 // a.shape[-1]
        terms, shares = [], []
        for image in range(2):
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    found = 1 - cosine(a[image, :, y, x].numpy(), b[image, :, y, x].numpy())
                    cell = masks[image, y * step : (y + 1) * step, x * step : (x + 1) * step]
                    shares.append(float(cell.float().mean()))
                    terms.append(abs(found - shares[-1]))
        halves = np.average(terms, weights=shares), np.average(terms, weights=1 - np.array(shares))
        expected += np.mean(halves) if balanced else np.mean(terms)
    assert float(losses.discrepancy(one, other, masks, balanced)) == pytest.approx(expected, abs=1e-5)


def test_a_thin_defect_is_seen_at_the_deepest_level() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 10, 10] = True
    for mask in losses.mask_levels(masks, levels(0)):
        assert float(mask.max()) > 0
        assert float(mask.mean()) == pytest.approx(1 / 64**2)


def test_the_memory_losses_equal_a_loop() -> None:
    weights = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    categories, normal = torch.tensor([1, 0]), torch.rand(2, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    items, asked = torch.rand(6, 4), torch.rand(2, 5, 4)
    terms, distances = [], []
    for image in range(2):
        for place in range(5):
            if normal[image, place]:
                own = weights[image, place, 3 * categories[image] : 3 * categories[image] + 3]
                terms.append(-np.log(float(own.sum())))
                distances.append(1 - cosine((weights[image, place] @ items).numpy(), asked[image, place].numpy()))
    assert float(losses.class_discrimination(weights, categories, 3, normal)) == pytest.approx(np.mean(terms), abs=1e-5)
    assert float(losses.compactness(weights, items, asked, normal)) == pytest.approx(np.mean(distances), abs=1e-5)
    nothing = torch.zeros_like(normal)
    assert float(losses.class_discrimination(weights, categories, 3, nothing)) == 0


@pytest.mark.parametrize("addressing", ["soft", "topk", "sparse"])
def test_the_memory_equals_a_loop(addressing: Any) -> None:
    settings = MemorySettings(items=3, temperature=0.2, addressing=addressing, keep=2, blend=0.75)
    memory = ClassAwareMemory(4, 2, settings)
    queries = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(3))
    read, weights = memory(queries)
    items = memory.items.detach().numpy().astype(np.float64)
    for image in range(2):
        for place in range(5):
            query = queries[image, place].numpy().astype(np.float64)
            logits = np.array([cosine(query, item) for item in items]) / 0.2
            if addressing == "topk":
                logits[np.argsort(logits)[:-2]] = -np.inf
            expected = np.exp(logits - logits.max())
            expected /= expected.sum()
            if addressing == "sparse":
                expected = np.where(expected > 1 / 6, expected, 0)
                expected /= expected.sum()
            mixture = expected @ items
            mixture *= np.linalg.norm(query) / np.linalg.norm(mixture)
            np.testing.assert_allclose(weights[image, place].detach().numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(read[image, place].detach().numpy(), 0.25 * query + 0.75 * mixture, atol=1e-5)
    with torch.no_grad():
        _, confined = memory(queries, torch.tensor([1, 0]))
    assert float(confined[0, :, :3].sum() + confined[1, :, 3:].sum()) == 0


def test_averaging_learns_from_normal_positions_of_the_own_category_only() -> None:
    memory = ClassAwareMemory(4, 2, MemorySettings(items=3, update="ema", decay=0.5))
    memory.waiting = False
    before = memory.items.clone()
    queries, normal = torch.rand(1, 5, 4), torch.tensor([[True, True, False, True, False]])
    other = queries.clone()
    other[0, 2] = 1e3  # a pseudo-anomaly, whatever it is
    _, weights = memory(queries)
    states = []
    for asked in (queries, other):
        memory.items.copy_(before)
        memory.learn(asked, weights, torch.tensor([1]), normal)
        states.append(memory.items.clone())
    torch.testing.assert_close(states[0], states[1])
    torch.testing.assert_close(states[0][:3], before[:3])
    assert not torch.equal(states[0][3:], before[3:])
    assert not list(memory.parameters())


def test_averaging_moves_each_item_towards_the_normal_positions_that_ask_it() -> None:
    memory = ClassAwareMemory(4, 2, MemorySettings(items=3, temperature=0.2, update="ema", decay=0.9))
    memory.waiting = False
    generator = torch.Generator().manual_seed(4)
    queries, normal = torch.rand(3, 5, 4, generator=generator), torch.rand(3, 5, generator=generator) < 0.7
    categories, items, weights = torch.tensor([1, 0, 1]), memory.items.numpy().copy(), memory(queries)[1]
    memory.learn(queries, weights, categories, normal)
    for row in range(6):
        asking = [(i, p) for i in range(3) for p in range(5) if normal[i, p] and categories[i] == row // 3]
        shares = [float(weights[i, p, row]) for i, p in asking]
        directions = [F.normalize(queries[i, p], dim=0).numpy() for i, p in asking]
        expected = 0.9 * items[row] + 0.1 * np.average(directions, axis=0, weights=shares)
        np.testing.assert_allclose(memory.items[row].numpy(), expected, atol=1e-6)


def test_first_items_are_normal_positions_of_the_own_category() -> None:
    memory = ClassAwareMemory(4, 3, MemorySettings(items=3, update="learnt"))
    before = memory.items.detach().clone()
    queries, normal = torch.rand(3, 5, 4), torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    _, weights = memory(queries)
    memory.learn(queries, weights, torch.tensor([0, 2, 2]), normal)
    directions = F.normalize(queries, dim=-1)
    for category, images in ((0, [0]), (2, [1, 2])):
        allowed = directions[images][normal[images]]
        for item in memory.items.detach()[3 * category : 3 * category + 3]:
            assert float((allowed - item).abs().sum(dim=1).min()) < 1e-6
    torch.testing.assert_close(memory.items.detach()[3:6], before[3:6])
    assert memory.started.tolist() == [True, False, True]


def test_the_memory_learns_from_clean_images_only(encoder: FrozenEncoder) -> None:
    """Whatever defects are drawn, the prototypes end up the same."""
    states = []
    for kind in ("perlin", "scar"):
        detector = build(encoder, synthesis={"kinds": [kind], "area": [0.05, 0.3]}, memory={"items": 4}).train()
        before = [memory.items.clone() for memory in detector.memories]
        for memory in detector.memories:
            memory.waiting = False  # first items are drawn by the generator that draws defects, too
        for _ in range(3):
            detector.training_step(batch())
        states.append([memory.items.clone() for memory in detector.memories])
        assert not any(torch.equal(*pair) for pair in zip(before, states[-1], strict=True))
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("place", ["before", "restoration"])
@pytest.mark.parametrize("update", ["ema", "learnt"])
def test_mixed_precision_trains_and_leaves_the_memory_in_full(encoder: FrozenEncoder, place: str, update: str) -> None:
    detector = build(encoder, memory_at=place, memory={"items": 4, "update": update}).train()
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = detector.training_step(batch())
        assert all(bool(torch.isfinite(term)) for term in terms.values())
    found = detector.memories[0].items
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())


def test_a_told_category_confines_a_test_image_to_its_own_items(encoder: FrozenEncoder) -> None:
    detector = build(encoder, memory={"label_at_test": True, "blend": 1.0}).eval()
    assert detector.wants_test_labels
    maps = {}
    with torch.inference_mode():
        for category in (0, 1):
            maps[category] = detector.anomaly_maps_of(batch().images, category)
        untold = detector.anomaly_maps(batch().images)
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], untold)
    assert not build(encoder).wants_test_labels
    assert not build(encoder, memory_at="none", memory={"label_at_test": True}).wants_test_labels


def test_usage_tells_even_use_from_dead_items() -> None:
    memory = ClassAwareMemory(4, 2, MemorySettings(items=4))
    memory.usage.copy_(torch.tensor([1.0, 1, 1, 1, 4, 0, 0, 0]))
    assert memory.usage_entropy().tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert memory.dead().tolist() == [0, 3]


def test_diagnostics_sum_up_all_memories(encoder: FrozenEncoder) -> None:
    detector = build(encoder, memory_at="before", memory={"items": 4})
    for memory, usage in zip(detector.memories, ([1.0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]), strict=True):
        memory.usage.copy_(torch.tensor([*usage, 1, 1, 1, 1]))
    found = detector.diagnostics()
    assert found["prototype_usage_entropy_0"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["prototype_usage_entropy_1"] == pytest.approx(1)
    assert (found["dead_prototypes_0"], found["dead_prototypes_1"]) == (5, 0)


LEARNT = {"memory_at": "restoration", "memory": {"update": "learnt"}}
TERMS = {
    "restoration": {"bottleneck", "restoration_decoder", "memories"},
    "identity": {"bottleneck", "identity_decoder"},
    "discrepancy": {"bottleneck", "restoration_decoder", "identity_decoder", "memories"},
    "classes": {"bottleneck", "memories"},
    "compactness": {"memories"},
}
AVERAGED = {
    "restoration": {"bottleneck", "restoration_decoder"},
    "identity": {"bottleneck", "identity_decoder"},
    "discrepancy": {"bottleneck", "restoration_decoder", "identity_decoder"},
}


@pytest.mark.parametrize(("settings", "term"), [(1, term) for term in TERMS] + [(0, term) for term in AVERAGED])
def test_gradients_reach_exactly_the_parts_that_they_should(encoder: FrozenEncoder, settings: int, term: str) -> None:
    """With a learnt memory after the bottleneck, and with the defaults: averaged memories before it."""
    detector = build(encoder, **(LEARNT if settings else {})).train()
    torch.manual_seed(3)
    detector.training_step(batch())[term].backward()
    reached = {
        name.partition(".")[0]
        for name, value in detector.named_parameters()
        if value.grad is not None and float(value.grad.abs().sum()) > 0
    }
    assert reached == (TERMS if settings else AVERAGED)[term]


def test_a_term_of_weight_zero_is_left_out_and_others_scale(encoder: FrozenEncoder) -> None:
    found = {}
    for name, weights in {"one": {}, "two": {"identity": 2.0, "classes": 0.0, "discrepancy": 0.0}}.items():
        detector = build(encoder, weights=weights, **LEARNT).train()
        torch.manual_seed(3)
        found[name] = {key: term.detach() for key, term in detector.training_step(batch()).items()}
    assert set(found["two"]) == {"restoration", "identity", "compactness"}
    assert float(found["two"]["identity"]) == pytest.approx(2 * float(found["one"]["identity"]), rel=1e-5)


def test_the_restoration_target_is_the_clean_image(encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}
    monkeypatch.setattr(losses, "restoration", lambda _, target: seen.setdefault("normal", target)[0].sum() * 0)
    monkeypatch.setattr(losses, "identity", lambda _, target: seen.setdefault("abnormal", target)[0].sum() * 0)
    detector, given = build(encoder).train(), batch()
    torch.manual_seed(3)
    detector.training_step(given)
    for target, clean in zip(seen["normal"], encoder(given.images), strict=True):
        torch.testing.assert_close(target, clean, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen["abnormal"][0], seen["normal"][0])


@pytest.mark.parametrize("place", ["restoration", "both", "before", "none"])
@pytest.mark.parametrize("update", ["learnt", "ema"])
def test_every_place_of_the_memory_trains_and_scores(encoder: FrozenEncoder, place: str, update: str) -> None:
    detector = build(encoder, memory_at=place, memory={"items": 4, "update": update}).train()
    terms = detector.training_step(batch())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert ("classes" in terms) == (place in ("restoration", "both") or (place == "before" and update == "learnt"))
    assert len(detector.diagnostics()) == (0 if place == "none" else 4)
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(batch().images)
    assert maps.shape == (4, 64, 64)
    assert bool(torch.isfinite(maps).all())


def test_one_decoder_alone(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match=r"use signals \[teacher\]"):
        build(encoder, weights={"identity": 0.0})
    detector = build(encoder, weights={"identity": 0.0}, memory_at="none", scoring={"signals": ["teacher"]}).train()
    assert set(detector.training_step(batch())) == {"restoration"}


@pytest.mark.parametrize("signals", [("teacher",), ("decoders",), ("teacher", "decoders")])
@pytest.mark.parametrize("fusion", ["sum", "product"])
def test_maps_equal_a_loop(signals: Any, fusion: Any) -> None:
    settings = ScoringSettings(signals=signals, fusion=fusion, levels=(0, 2), sigma=2.0)
    given = {"teacher": (levels(0), levels(1)), "decoders": (levels(1), levels(2))}
    distances = {name: scoring.distances(*pair, settings) for name, pair in given.items()}
    found = scoring.anomaly_maps(distances, (16, 16), settings)
    maps = []
    for name in signals:
        for level in (0, 2):
            one, other = given[name][0][level], given[name][1][level]
            distance = torch.zeros(2, 1, *one.shape[2:])
            for image in range(2):
                for y in range(one.shape[2]):
                    for x in range(one.shape[3]):
                        distance[image, 0, y, x] = 1 - cosine(
                            one[image, :, y, x].numpy(), other[image, :, y, x].numpy()
                        )
            maps.append(F.interpolate(distance, (16, 16), mode="bilinear", align_corners=True)[:, 0])
    expected = sum(maps) if fusion == "sum" else torch.stack(maps).prod(dim=0) ** (1 / len(maps))
    torch.testing.assert_close(found, gaussian_smooth(expected, 2.0), atol=1e-5, rtol=1e-4)  # type: ignore[arg-type]


def test_image_scores_follow_their_rule() -> None:
    maps = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    highest = maps.flatten(1).sort(dim=1, descending=True).values
    for rule, expected in {
        "max": highest[:, 0],
        "top": highest[:, :4].mean(dim=1),
        "pooled": torch.stack([
            max(m[y : y + 4, x : x + 4].mean() for y in range(17) for x in range(17)) for m in maps
        ]),
    }.items():
        found = scoring.image_scores(maps, ScoringSettings(image=rule, top=0.01, pool=4))  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected)


def test_a_size_that_does_not_fit_is_named_as_it_was_given(encoder: FrozenEncoder) -> None:
    """And not as the teacher's rounded-up maps would have it."""
    for count in (build(encoder).eval().anomaly_maps, lambda images: build(encoder).training_step(batch(size=70))):
        with pytest.raises(InputError, match="image_size 70 does not fit; use a multiple of 32"):
            count(torch.rand(1, 3, 70, 70))
