"""Fixtures of the tests of single methods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """New tensors have double precision, so that two ways to compute the same can be compared closely."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
