"""Linear layers, dropout and attention over tokens, beside PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from mddbench.nn import tokens as tokens_module
from mddbench.nn.tokens import Dropout, Linear, MultiheadAttention, dropout, linear
from mddbench.seeding import seed_everything


@pytest.fixture(autouse=True)
def seeded() -> None:
    seed_everything(0)


def gradients(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum(), inputs)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_linear_layer_is_pytorchs(batch: int) -> None:
    tokens = torch.randn(batch, 10, 24, requires_grad=True)
    ours, theirs = Linear(24, 40), nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    found, expected = ours(tokens), theirs(tokens)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        gradients(found, tokens, ours.weight, ours.bias), gradients(expected, tokens, theirs.weight, theirs.bias)
    )


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.usefixtures("one_thread")
def test_it_is_on_one_thread_too(batch: int) -> None:
    test_a_linear_layer_is_pytorchs(batch)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
def test_one_thread_has_onednn_too() -> None:
    """To which PyTorch hands a convolution of one pixel on one thread only if it is of many images."""
    tokens, weight, bias = torch.randn(4, 64, 16), torch.randn(32, 16), torch.zeros(32)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        linear(tokens, weight, bias)
    assert "aten::mkldnn_convolution" in {each.key for each in profiler.key_averages()}


@pytest.mark.parametrize("batch", [4, 8])
def test_what_a_linear_layer_gives_lies_as_what_it_got(batch: int) -> None:
    """Token by token, and nothing was copied for it: what follows is elementwise, and many times slower in another order."""
    found = linear(torch.randn(batch, 10, 16), torch.randn(32, 16), torch.zeros(32))
    assert found.is_contiguous()
    assert found._is_view()


@pytest.mark.usefixtures("one_thread")
def test_it_lies_so_on_one_thread_too() -> None:
    test_what_a_linear_layer_gives_lies_as_what_it_got(8)


def test_a_linear_layer_is_compiled_whole() -> None:
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    given = torch.randn(4, 12, 16), torch.randn(32, 16), torch.zeros(32)
    torch.testing.assert_close(compiled(*given), linear(*given))


def test_without_onednn_a_linear_layer_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, weight, bias = torch.randn(2, 5, 8), torch.randn(4, 8), torch.randn(4)
    monkeypatch.setattr(tokens_module, "ONEDNN", False)
    assert torch.equal(linear(tokens, weight, bias), F.linear(tokens, weight, bias))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(probability: float) -> None:
    values = torch.ones(400, 1001)
    found = dropout(values, probability)
    deviation = (probability * (1 - probability) / values.numel()) ** 0.5
    assert (found == 0).float().mean().item() == pytest.approx(probability, abs=4 * deviation)
    assert found.mean().item() == pytest.approx(1.0, abs=4 * deviation / (1 - probability))
    assert found[found != 0].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-4)


def test_dropout_draws_each_place_by_itself() -> None:
    """Four numbers come out of one draw: neighbours, and places four apart, must not go together."""
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for apart in (1, 2, 3, 4, 8):
        both = torch.corrcoef(torch.stack([dropped[:-apart], dropped[apart:]]))[0, 1].item()
        assert abs(both) < 4 / 400_000**0.5


def test_dropout_of_nothing_of_all_and_of_odd_shapes() -> None:
    values = torch.randn(3, 5)
    assert torch.equal(dropout(values, 0.0), values)
    assert torch.equal(dropout(values, 1.0), torch.zeros(3, 5))
    assert dropout(torch.ones(0), 0.5).shape == (0,)
    assert dropout(torch.ones(7, 1, 3).transpose(0, 2), 0.5).shape == (3, 1, 7)


def test_dropout_follows_the_seed_and_stops_in_evaluation() -> None:
    layer, values = Dropout(0.5), torch.randn(64, 64)
    seed_everything(3)
    first = layer(values)
    second = layer(values)
    seed_everything(3)
    assert torch.equal(layer(values), first)
    assert not torch.equal(first, second)
    assert layer.eval()(values) is values


def test_the_gradient_of_dropout_is_its_mask() -> None:
    values = torch.ones(32, 32, requires_grad=True)
    found = dropout(values, 0.25)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


@pytest.fixture
def pair() -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    ours, theirs = MultiheadAttention(24, 3, 0.0), nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        for value in ours.parameters():
            value.add_(0.1 * torch.randn_like(value))  # zero biases would hide an error
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("way", ["drawn", "kernel"])
@pytest.mark.parametrize("same_queries", [True, False])
def test_attention_is_pytorchs(
    pair: tuple[MultiheadAttention, nn.MultiheadAttention], way: str, same_queries: bool
) -> None:
    """Both ways through it; drawn: with a dropout that rounds to none."""
    ours, theirs = pair
    ours.dropout = 1e-9 if way == "drawn" else 0.0
    queries, keys, values = (torch.randn(4, length, 24, requires_grad=True) for length in (6, 7, 7))
    asking = queries[:1] if same_queries else queries
    hidden = torch.rand(6, 7) < 0.4
    hidden[:, 0] = False
    found = ours(asking, keys, values, hidden)
    expected, _ = theirs(asking.expand(4, -1, -1), keys, values, attn_mask=hidden, need_weights=False)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        gradients(found, queries, keys, values, *ours.parameters()),
        gradients(expected, queries, keys, values, *theirs.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_attention_starts_as_pytorchs() -> None:
    seed_everything(1)
    ours = MultiheadAttention(16, 2, 0.1).state_dict()
    seed_everything(1)
    theirs = nn.MultiheadAttention(16, 2, 0.1, batch_first=True).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_attention_drops_weights_in_training_only(pair: tuple[MultiheadAttention, nn.MultiheadAttention]) -> None:
    ours, _ = pair
    ours.dropout = 0.5
    tokens, hidden = torch.randn(2, 6, 24), torch.zeros(6, 6, dtype=torch.bool)
    assert not torch.equal(ours(tokens, tokens, tokens, hidden), ours(tokens, tokens, tokens, hidden))
    ours.eval()
    assert torch.equal(ours(tokens, tokens, tokens, hidden), ours(tokens, tokens, tokens, hidden))


def test_attention_in_half_precision(pair: tuple[MultiheadAttention, nn.MultiheadAttention]) -> None:
    ours, _ = pair
    ours.dropout = 1e-9
    tokens, hidden = torch.randn(2, 6, 24), torch.eye(6, dtype=torch.bool)
    exact = ours(tokens, tokens, tokens, hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(tokens, tokens, tokens, hidden)
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.03)
