"""Exact search of the nearest vectors in a bank, in parts that fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

from mddbench.nn.precision import at_least_single, full_precision

QUERIES, VECTORS = 2048, 8192
"""Numbers of queries and of vectors of the bank that are compared at once."""


def nearest(
    queries: Tensor, bank: Tensor, count: int = 1, queries_at_once: int = QUERIES, vectors_at_once: int = VECTORS
) -> tuple[Tensor, Tensor]:
    """Find the nearest vectors of a bank for each query.

    They are found by products of matrices. Their distances are then computed from the differences, so a query that is
    in the bank has distance 0 to itself, as far as the search does not confuse it with an almost equal vector.

    Args:
        queries: (Q, D).
        bank: (N, D).
        count: Number of vectors to find, at most N.
        queries_at_once: Number of queries that are compared at once.
        vectors_at_once: Number of vectors of the bank that are compared at once.

    Returns:
        (Q, count) squared distances and (Q, count) indices of the bank, near to far.
    """
    queries, bank = at_least_single(queries), at_least_single(bank)
    with full_precision(queries):
        squares = torch.einsum("nd,nd->n", bank, bank)  # without a copy of the bank
        found = [
            _nearest_of(queries[start : start + queries_at_once], bank, squares, count, vectors_at_once)
            for start in range(0, len(queries), queries_at_once)
        ]
    return torch.cat([distances for distances, _ in found]), torch.cat([indices for _, indices in found])


def _nearest_of(
    queries: Tensor, bank: Tensor, squares: Tensor, count: int, vectors_at_once: int
) -> tuple[Tensor, Tensor]:
    """Find the nearest vectors of queries (Q, D) as `nearest` does, all queries at once.

    Args:
        queries: (Q, D).
        bank: (N, D).
        squares: (N,) squared lengths of the vectors of the bank.
        count: Number of vectors to find.
        vectors_at_once: Number of vectors of the bank that are compared at once.

    Returns:
        (Q, count) squared distances and (Q, count) indices of the bank, near to far.
    """
    indices = _search(queries, bank, squares, count, vectors_at_once)
    distances = [(queries - bank[indices[:, place]]).square().sum(dim=1) for place in range(indices.shape[1])]
    return torch.stack(distances, dim=1), indices


def _search(queries: Tensor, bank: Tensor, squares: Tensor, count: int, vectors_at_once: int) -> Tensor:
    """Return the indices (Q, count) of the nearest vectors, near to far.

    Args:
        queries: (Q, D).
        bank: (N, D).
        squares: (N,) squared lengths of the vectors of the bank.
        count: Number of vectors to find.
        vectors_at_once: Number of vectors of the bank that are compared at once.
    """
    best = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), vectors_at_once):
        part = slice(start, start + vectors_at_once)
        # Squared distances without the query's own length, which changes no order.
        near = torch.addmm(squares[part], queries, bank[part].T, alpha=-2.0)
        values, places = _smallest(near, count)
        best, order = _smallest(torch.cat([best, values], dim=1), count)
        indices = torch.cat([indices, places + start], dim=1).gather(1, order)
    return indices


def _smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the smallest values of each row, in rising order, and their places; all values if there are fewer."""
    if count == 1:
        least, places = values.min(dim=1, keepdim=True)
        return least, places
    least, places = values.topk(min(count, values.shape[1]), dim=1, largest=False, sorted=True)
    return least, places
