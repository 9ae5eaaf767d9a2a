"""A memory of items: its reading written again plainly, its threshold, its diagnostics; and blocks of a map."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mddbench.errors import InputError
from mddbench.nn.memory_items import AddressedMemory, AddressingSettings, BlockMemory, assembled, divided, entropy
from mddbench.settings import validated


def plain_read(
    query: list[float], items: list[list[float]], settings: AddressingSettings
) -> tuple[list[float], list[float]]:
    """One query, number by number."""
    products = [sum(a * b for a, b in zip(query, item, strict=True)) for item in items]
    if settings.similarity == "cosine":
        length = math.hypot(*query)
        products = [product / (length * math.hypot(*item)) for product, item in zip(products, items, strict=True)]
    powers = [math.exp(product / settings.temperature) for product in products]
    weights = [power / sum(powers) for power in powers]
    if settings.shrink:
        weights = [weight if weight > settings.shrink / len(items) else 0.0 for weight in weights]
        total = sum(weights)
        weights = [weight / total if total else 0.0 for weight in weights]
    read = [sum(w * item[place] for w, item in zip(weights, items, strict=True)) for place in range(len(query))]
    return read, weights


def memory_of(channels: int, **settings: object) -> AddressedMemory:
    torch.manual_seed(0)
    return AddressedMemory(channels, AddressingSettings(**settings)).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("shrink", [0.0, 1.0, 2.0])
def test_reading_equals_the_plain_way(similarity: str, shrink: float) -> None:
    memory = memory_of(5, items=12, similarity=similarity, shrink=shrink, temperature=0.2)
    queries = torch.randn(7, 5, dtype=torch.float64)
    read, weights = memory(queries)
    for query, row, weight in zip(queries.tolist(), read.tolist(), weights.tolist(), strict=True):
        expected, plain = plain_read(query, memory.items.tolist(), memory.settings)
        assert weight == pytest.approx(plain, abs=1e-9)
        assert row == pytest.approx(expected, abs=1e-9)


def test_what_is_read_is_a_mixture_of_items() -> None:
    """Whatever the query is: weights are at least 0 and sum to 1, so nothing outside of the items is rebuilt."""
    memory = memory_of(4, items=9, temperature=0.1)
    read, weights = memory(100 * torch.randn(50, 4, dtype=torch.float64))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(50, dtype=torch.float64))
    assert (read <= memory.items.max(dim=0).values + 1e-12).all()
    assert (read >= memory.items.min(dim=0).values - 1e-12).all()


def test_a_low_temperature_reads_the_nearest_item() -> None:
    memory = memory_of(6, items=8, similarity="cosine", temperature=0.001)
    read, _ = memory(3 * memory.items.detach())
    torch.testing.assert_close(read, memory.items, atol=1e-6, rtol=0)


def test_a_threshold_above_twice_an_equal_part_is_refused() -> None:
    """At 5 / N, as in public code, normalised features behind a LeakyReLU get hardly any answer at first; at 2 / N all do."""
    with pytest.raises(InputError, match=r"shrink.*less than or equal to 2"):
        validated(AddressingSettings, {"shrink": 5.0}, "test")
    torch.manual_seed(0)
    queries = torch.nn.functional.leaky_relu(torch.randn(12, 256), 0.2)
    answered = {}
    for factor in (2.0, 5.0):
        settings = AddressingSettings(items=2000).model_copy(update={"shrink": factor})
        torch.manual_seed(1)
        answered[factor] = (AddressedMemory(256, settings)(queries)[1].sum(dim=1) > 0).float().mean().item()
    assert answered[2.0] == 1.0
    assert answered[5.0] < 0.1


def test_entropy_is_that_of_its_definition() -> None:
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert float(entropy(weights)) == pytest.approx(math.log(2) / 2)


def test_items_that_nothing_reads_die_and_count_as_dead() -> None:
    memory = memory_of(2, items=4, similarity="cosine", temperature=0.01)
    with torch.no_grad():
        memory.items.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    queries = torch.tensor([[1.0, 0.01], [0.01, 1.0]], dtype=torch.float64)
    assert memory.diagnostics() == {"alive_items": 1.0, "answered_queries": 1.0}
    for _ in range(100):
        memory.train()(queries)
    assert memory.diagnostics()["alive_items"] == 0.5
    before = memory.use.clone()
    memory.eval()(queries)
    assert torch.equal(memory.use, before)


def test_queries_without_an_answer_are_counted() -> None:
    """Equal similarities: no weight is above 1 / N."""
    memory = memory_of(3, items=5)
    read, weights = memory.train()(torch.zeros(6, 3, dtype=torch.float64))
    assert not weights.any()
    assert not read.any()
    assert memory.diagnostics()["answered_queries"] == pytest.approx(0.95)


@pytest.mark.parametrize(("side", "groups"), [(1, 1), (2, 1), (2, 3), (4, 2)])
def test_blocks_are_put_together_as_they_were(side: int, groups: int) -> None:
    features = torch.randn(2, 6, 8, 4)
    blocks = divided(features, side, groups)
    assert blocks.shape == (2, groups, 8 // side, 4 // side, 6 // groups * side * side)
    assert torch.equal(assembled(blocks, side), features)
    part = 6 // groups
    expected = features[1, (groups - 1) * part :, side : 2 * side, :side].flatten()
    assert torch.equal(blocks[1, groups - 1, 1, 0], expected)


def test_blocks_that_do_not_fill_a_map_are_refused() -> None:
    with pytest.raises(InputError, match=r"a map of 6x6 positions is not filled by blocks of 4x4"):
        divided(torch.zeros(1, 1, 6, 6), 4, 1)


def test_a_block_is_answered_by_itself_alone() -> None:
    torch.manual_seed(0)
    memory = BlockMemory(4, 2, 2, AddressingSettings(items=7)).eval()
    features = torch.randn(1, 4, 4, 4)
    changed: Tensor = features.clone()
    changed[0, 0, 0, 0] += 5.0
    differs = (memory(features)[0] != memory(changed)[0])[0]
    assert differs[:2, :2, :2].all()
    assert not differs[2:].any()
    assert not differs[:, 2:].any()
    assert not differs[:, :, 2:].any()
