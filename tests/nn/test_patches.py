"""Embeddings of patches, the greedy coreset and the search in a bank, beside naive ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.nn.coreset import STARTS, greedy_coreset
from mddbench.nn.nearest import nearest
from mddbench.nn.patches import embedding_width, patch_embeddings


def naive_ranges(numbers: Tensor, width: int) -> Tensor:
    """Means of `width` ranges, each rounded outwards to whole numbers."""
    total = len(numbers)
    return torch.stack([
        numbers[math.floor(i * total / width) : math.ceil((i + 1) * total / width)].mean() for i in range(width)
    ])


def naive_neighbourhood(level: Tensor, row: int, column: int) -> Tensor:
    """(C, H, W) -> (9 C,): of each channel the nine numbers around a position, zeros outside."""
    channels, height, columns = level.shape
    numbers = []
    for channel in range(channels):
        for y in range(row - 1, row + 2):
            for x in range(column - 1, column + 2):
                inside = 0 <= y < height and 0 <= x < columns
                numbers.append(level[channel, y, x] if inside else level.new_zeros(()))
    return torch.stack(numbers)


def naive_between(grid: Tensor, v: float, u: float) -> Tensor:
    """Bilinear, from what lies beside a place; at the border the nearest: (H, W, K) -> (K,)."""
    height, columns = grid.shape[:2]
    v, u = min(max(v, 0.0), height - 1.0), min(max(u, 0.0), columns - 1.0)
    top, left = int(v), int(u)
    a, b = v - top, u - left
    low, right = min(top + 1, height - 1), min(left + 1, columns - 1)
    upper = (1 - b) * grid[top, left] + b * grid[top, right]
    return (1 - a) * upper + a * ((1 - b) * grid[low, left] + b * grid[low, right])


def naive_embeddings(levels: list[Tensor], width: int) -> Tensor:
    """One image's (C_l, H_l, W_l), as the authors do it: resized before anything is averaged."""
    height, columns = levels[0].shape[1:]
    grids = [
        torch.stack([
            torch.stack([naive_neighbourhood(level, row, column) for column in range(level.shape[2])])
            for row in range(level.shape[1])
        ])
        for level in levels
    ]
    out = torch.zeros(height, columns, width, dtype=levels[0].dtype)
    for row in range(height):
        for column in range(columns):
            parts = []
            for grid in grids:
                v = (row + 0.5) * grid.shape[0] / height - 0.5
                u = (column + 0.5) * grid.shape[1] / columns - 0.5
                parts.append(naive_ranges(naive_between(grid, v, u), width))
            out[row, column] = naive_ranges(torch.cat(parts), width)
    return out


@pytest.fixture
def levels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(3, 6, 5), (5, 3, 3)]
    return [torch.randn(2, *size, generator=generator, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize("width", [4, 7, 27, 50])
def test_embeddings_equal_the_naive_ones(levels: list[Tensor], width: int) -> None:
    """Ranges that overlap, that are whole, and that are more than there are numbers."""
    expected = torch.stack([naive_embeddings([level[index] for level in levels], width) for index in range(2)])
    torch.testing.assert_close(patch_embeddings(levels, width), expected, rtol=1e-9, atol=1e-9)
    last = [level.to(memory_format=torch.channels_last) for level in levels]
    torch.testing.assert_close(patch_embeddings(last, width), expected, rtol=1e-9, atol=1e-9)


def test_ranges_of_nine_are_average_pools_in_which_padded_zeros_count() -> None:
    """WideResNet-50-2's third level has 9 x 1024 numbers for a width of 1024."""
    level = torch.rand(1, 6, 4, 4, dtype=torch.float64)
    pooled = F.avg_pool2d(level, 3, 1, 1, count_include_pad=True).movedim(1, -1)
    torch.testing.assert_close(patch_embeddings([level], 6), pooled, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(patch_embeddings([level], None), pooled, rtol=1e-12, atol=1e-12)
    assert pooled[0, 0, 0, 0] == pytest.approx(level[0, 0, :2, :2].sum().item() / 9)


def test_without_a_width_channels_are_joined(levels: list[Tensor]) -> None:
    embedded = patch_embeddings(levels, None)
    assert embedded.shape == (2, 6, 5, 8)
    assert embedding_width((3, 5), None) == 8
    deep = F.avg_pool2d(levels[1], 3, 1, 1)
    resized = F.interpolate(deep, (6, 5), mode="bilinear", align_corners=False).movedim(1, -1)
    torch.testing.assert_close(embedded[..., 3:], resized, rtol=1e-12, atol=1e-12)


def naive_coreset(points: Tensor, count: int) -> list[int]:
    """One after another, with all distances each time."""
    starts = points[torch.randperm(len(points))[:STARTS]]
    far = torch.stack([(point - starts).norm(dim=1).mean() for point in points])
    picked: list[int] = []
    for _ in range(count):
        index = max((each for each in range(len(points)) if each not in picked), key=lambda each: far[each].item())
        picked.append(index)
        far = far.minimum((points - points[index]).norm(dim=1))
    return picked


@pytest.mark.parametrize("candidates", [1, 2, 7, 64, 500])
def test_the_coreset_is_the_plain_greedy_one(candidates: int) -> None:
    torch.manual_seed(1)
    centres = torch.randn(6, 5, dtype=torch.float64)
    points = centres[torch.arange(120) % 6] + 0.2 * torch.randn(120, 5, dtype=torch.float64)
    torch.manual_seed(2)
    expected = naive_coreset(points, 40)
    torch.manual_seed(2)
    assert greedy_coreset(points, 40, candidates).tolist() == expected


def covering_radius(points: Tensor, kept: Tensor) -> float:
    return torch.cdist(points, points[kept]).amin(dim=1).max().item()


def test_the_coreset_covers_more_than_a_random_subset() -> None:
    torch.manual_seed(0)
    points = torch.randn(3000, 8) * torch.rand(3000, 1)
    kept = greedy_coreset(points, 300)
    assert len(set(kept.tolist())) == 300
    radii = [covering_radius(points, torch.randperm(3000)[:300]) for _ in range(5)]
    assert covering_radius(points, kept) < 0.8 * min(radii)


@pytest.mark.parametrize("count", [1, 30, 49, 50])
def test_equal_points_are_picked_once_each(count: int) -> None:
    kept = greedy_coreset(torch.ones(50, 4), count)
    assert len(set(kept.tolist())) == count


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("queries_at_once", "vectors_at_once"), [(2048, 8192), (7, 5), (40, 1), (1, 3)])
def test_the_search_in_parts_finds_what_is_nearest(count: int, queries_at_once: int, vectors_at_once: int) -> None:
    torch.manual_seed(0)
    queries, bank = torch.randn(33, 6, dtype=torch.float64), torch.randn(29, 6, dtype=torch.float64)
    expected, places = (queries[:, None] - bank).square().sum(dim=2).topk(count, largest=False)
    distances, indices = nearest(queries, bank, count, queries_at_once, vectors_at_once)
    assert torch.equal(indices, places)
    torch.testing.assert_close(distances, expected, rtol=1e-12, atol=1e-12)


def test_a_vector_of_the_bank_is_at_distance_zero_however_long_it_is() -> None:
    """What products of matrices lose is not in the distance."""
    torch.manual_seed(0)
    bank = 100 + torch.randn(50, 64)
    distances, indices = nearest(bank, bank)
    assert torch.equal(indices[:, 0], torch.arange(50))
    assert distances.max() == 0
