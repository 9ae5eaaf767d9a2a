"""A greedy coreset: few points that are near to all others."""

from __future__ import annotations

import torch
from torch import Tensor

from mddbench.nn.precision import at_least_single, full_precision

STARTS = 10
"""Number of random points whose mean distance to a point is that point's first distance to the coreset."""
CANDIDATES = 256
"""Number of points among which the next ones are picked before all distances are computed again."""
MOST_DISTANCES = 2**22
"""Number of distances that are in memory at once."""


def greedy_coreset(points: Tensor, count: int, candidates: int = CANDIDATES) -> Tensor:
    """Pick points one after another, each time the one that is farthest from those that are picked already.

    In the beginning nothing is picked. A point's distance to the coreset is then its mean distance to STARTS random
    points, which are not picked by that. They are drawn from PyTorch's global generator.

    Distances to the coreset can only become smaller. So the next pick is among the `candidates` points that are
    farthest now, as long as one of them is still at least as far as the nearest of them was. Only then the distances of
    all points are computed, to all new picks at once. This gives the picks of the plain way, apart from rounding,
    by products of matrices instead of one pass over all points for each pick.

    Source: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022, algorithm 1.
    The random starting points are in the authors' code (Apache-2.0) alone.

    Args:
        points: (N, D).
        count: Number of points to pick, from 1 to N.
        candidates: Number of candidates. It decides about speed only.

    Returns:
        (count,) distinct indices, in the order of picking.
    """
    starts = torch.randperm(len(points))[:STARTS].to(points.device)
    if count >= len(points):
        return torch.arange(len(points), device=points.device)
    points = at_least_single(points)
    with full_precision(points):
        points = points - points.mean(dim=0)  # numbers near 0 lose less in products
        squares = points.square().sum(dim=1)
        farness = _mean_distance(points, squares, starts).square()
        picked: list[Tensor] = []
        left = count
        while left:
            new = _picked_among(points, farness, min(candidates, len(points) - count + left), left)
            for rows in _rows(len(points), len(new)):
                farness[rows] = farness[rows].minimum(_squared(points, squares, rows, new).amin(dim=1))
            farness[new] = -1.0
            picked.append(new)
            left -= len(new)
    return torch.cat(picked)


def _picked_among(points: Tensor, farness: Tensor, candidates: int, most: int) -> Tensor:
    """Pick up to `most` points among the farthest, as long as no other point can be the farthest.

    Args:
        points: (N, D).
        farness: (N,) squared distances to the coreset; -1 for what is picked already.
        candidates: Number of the farthest points.
        most: Greatest number of picks.

    Returns:
        Indices of at least one point, in the order of picking.
    """
    far, indices = farness.topk(candidates)
    own = points[indices]
    between = torch.cdist(own, own, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
    current = far.cpu()
    least = current[-1].item()
    chosen: list[int] = []
    while len(chosen) < min(most, candidates):
        distance, index = current.max(dim=0)
        if chosen and distance.item() < least:
            break
        chosen.append(int(index))
        current = current.minimum(between[chosen[-1]])
        current[chosen[-1]] = -1.0
    return indices[torch.tensor(chosen, device=indices.device)]


def _mean_distance(points: Tensor, squares: Tensor, others: Tensor) -> Tensor:
    """Compute the mean distance (N,) of each point to some of the points, given by their indices."""
    parts = [_squared(points, squares, rows, others).sqrt().mean(dim=1) for rows in _rows(len(points), len(others))]
    return torch.cat(parts)


def _squared(points: Tensor, squares: Tensor, rows: slice, others: Tensor) -> Tensor:
    """Compute the squared distances (rows, others) between some of the points and others, given by their indices."""
    distances = torch.addmm(squares[rows, None], points[rows], points[others].T, alpha=-2.0)
    return distances.add_(squares[others]).clamp_(min=0.0)


def _rows(points: int, columns: int) -> list[slice]:
    """Cut the points into ranges that have MOST_DISTANCES distances to so many others."""
    step = max(1, MOST_DISTANCES // columns)
    return [slice(start, start + step) for start in range(0, points, step)]
