"""Transformer blocks: the attentions by their definitions, grouping of a decoder's outputs, and gradients that are scaled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.gradients import scaled_gradient
from mddbench.nn.token_levels import TokenDecoder, mean_of_blocks, require_token_levels, reversed_groups, token_levels
from mddbench.nn.transformer import (
    Block,
    CrossBlock,
    LinearAttention,
    PositiveCosineAttention,
    SelfAttention,
    as_map,
    as_tokens,
    initialise_narrowly,
)

HEADS, WIDTH = 2, 8


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(attention: SelfAttention, given: Tensor) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """Queries, keys and values (N, D) of each image and head, sliced out one by one."""
    projected, size = F.linear(given, attention.project_in.weight, attention.project_in.bias), WIDTH // HEADS
    return [
        [
            tuple(image[:, part * WIDTH + head * size : part * WIDTH + (head + 1) * size] for part in range(3))
            for head in range(HEADS)
        ]
        for image in projected
    ]


def joined(attention: SelfAttention, read: list[list[Tensor]]) -> Tensor:
    whole = torch.stack([torch.cat(image, dim=1) for image in read])
    return F.linear(whole, attention.project_out.weight, attention.project_out.bias)


def test_softmax_attention_is_that_of_its_definition() -> None:
    attention = SelfAttention(WIDTH, HEADS).double()
    read = [
        [(q @ k.T / (WIDTH // HEADS) ** 0.5).softmax(dim=1) @ v for q, k, v in image]
        for image in heads(attention, tokens(5))
    ]
    torch.testing.assert_close(attention(tokens(5)), joined(attention, read))


def test_linear_attention_is_that_of_its_definition() -> None:
    """Weights phi(q) . phi(k) / sum over keys, computed with the square matrix that it avoids."""
    attention = LinearAttention(WIDTH, HEADS).double()
    read = []
    for image in heads(attention, tokens(5)):
        weights = [(F.elu(q) + 1) @ (F.elu(k) + 1).T for q, k, _ in image]
        read.append([w / w.sum(dim=1, keepdim=True) @ values for w, (_, _, values) in zip(weights, image, strict=True)])
    torch.testing.assert_close(attention(tokens(5)), joined(attention, read))


def test_linear_attention_with_equal_keys_gives_the_mean_of_the_values() -> None:
    queries, values = torch.randn(1, 1, 5, 4), torch.randn(1, 1, 7, 4)
    read = LinearAttention(4, 1).attend(queries, torch.ones(1, 1, 7, 4), values)
    torch.testing.assert_close(read, values.mean(dim=2, keepdim=True).expand_as(read))


def test_a_query_without_a_positive_cosine_reads_nothing() -> None:
    attention = PositiveCosineAttention(4, 1)
    keys = torch.rand(1, 1, 6, 4)
    queries = torch.cat([-torch.rand(1, 1, 1, 4), torch.rand(1, 1, 1, 4)], dim=2)
    read = attention.attend(queries, keys, torch.ones(1, 1, 6, 4))
    assert torch.equal(read[0, 0, 0], torch.zeros(4))
    cosines = F.cosine_similarity(queries[0, 0, 1], keys[0, 0], dim=1)
    torch.testing.assert_close(read[0, 0, 1], cosines.sum().expand(4))  # not normalised


def test_the_length_of_a_query_does_not_matter_to_positive_cosines() -> None:
    attention, keys, values = PositiveCosineAttention(4, 1), torch.randn(1, 1, 6, 4), torch.randn(1, 1, 6, 4)
    query = torch.randn(1, 1, 3, 4)
    torch.testing.assert_close(attention.attend(5 * query, keys, values), attention.attend(query, keys, values))


@pytest.mark.parametrize("attention", [SelfAttention, LinearAttention])
def test_a_block_follows_a_permutation_of_its_tokens(attention: type[SelfAttention]) -> None:
    block, order = Block(WIDTH, HEADS, attention).double(), torch.randperm(6)
    torch.testing.assert_close(block(tokens(6)[:, order]), block(tokens(6))[:, order])


def test_a_block_without_residual_does_not_see_its_own_tokens_length() -> None:
    """With what is read at zero, the tokens themselves cannot pass; with a residual they do."""
    for residual in (False, True):
        block = CrossBlock(WIDTH, HEADS, residual=residual).double()
        with torch.no_grad():
            block.attention.project_out.weight.zero_()
        outputs = [block(tokens(3, seed), tokens(4)) for seed in (1, 2)]
        assert torch.equal(*outputs) is not residual


def test_the_last_outputs_answer_to_the_first_level() -> None:
    outputs = [torch.full((1, 2, 3), float(number)) for number in range(6)]
    assert [float(level.mean()) for level in reversed_groups(outputs, 3)] == [4.5, 2.5, 0.5]
    assert [float(level.mean()) for level in reversed_groups(outputs, 2)] == [4.0, 1.0]


def test_a_decoder_drops_class_and_register_tokens() -> None:
    torch.manual_seed(0)
    decoder = TokenDecoder(WIDTH, 2, 2).double()
    given = tokens(1 + 6)
    first = decoder.blocks[0](given)
    last = decoder.blocks[1](first)
    shallow, deep = decoder(given, 1, (2, 3))
    torch.testing.assert_close(shallow, as_map(last[:, 1:], 2, 3))
    torch.testing.assert_close(deep, as_map(first[:, 1:], 2, 3))


def test_class_tokens_come_first_and_positions_row_by_row() -> None:
    level, prefix = torch.arange(12.0).reshape(1, 2, 2, 3), torch.full((1, 2, 2), -1.0)
    (joint,) = token_levels([level, prefix], 1)
    assert joint[0, :, 0].tolist() == [-1, -1, 0, 1, 2, 3, 4, 5]
    assert torch.equal(as_map(as_tokens(level), 2, 3), level)


def test_every_block_counts_once_in_the_mean() -> None:
    levels = [torch.full((1, 2, 3), value) for value in (1.0, 4.0)]
    assert float(mean_of_blocks(levels, ((2, 3), (4, 5))).mean()) == 2.5
    assert float(mean_of_blocks(levels, ((2, 3), 4)).mean()) == 2.0


def test_what_is_no_plain_transformer_is_refused() -> None:
    with pytest.raises(InputError, match=r"x: expected levels of one size.*has strides \[2, 4\]"):
        require_token_levels(FrozenEncoder("test_efficientnet", (0, 1)), "x")
    with pytest.raises(InputError, match=r"x: 3 blocks cannot be divided among 2 levels; use a multiple"):
        require_token_levels(FrozenEncoder("test_vit", (0, 1)), "x", 3)


def test_a_scaled_gradient_leaves_the_values() -> None:
    values = torch.randn(2, 3, requires_grad=True)
    factors = torch.tensor([[0.0], [0.25]])
    scaled = scaled_gradient(values, factors)
    assert torch.equal(scaled, values)
    scaled.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, factors.expand(2, 3))


def test_narrow_weights_are_cut_off() -> None:
    torch.manual_seed(0)
    block = Block(64, 1)
    initialise_narrowly([block])
    weight = block.mlp.first.weight.detach()
    assert 0.0275 < float(weight.abs().max()) <= 0.03
    assert float(weight.std()) == pytest.approx(0.01, rel=0.03)
    assert not any(part.bias.any() for part in (block.mlp.first, block.mlp.second, block.attention.project_in))
