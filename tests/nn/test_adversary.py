"""A convolution with a spectral norm of 1: against the singular values, and frozen."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mddbench.nn.adversary import SpectralConv2d


def test_the_norm_is_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(3, 6, 4, stride=2).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for _ in range(50):
        out = layer.train()(images)
    values = torch.linalg.svdvals(layer.weight.flatten(1))
    torch.testing.assert_close(layer.norm_of(layer.weight), values[0])
    torch.testing.assert_close(out, F.conv2d(images, layer.weight / values[0], layer.bias, 2, 1))
    assert torch.linalg.svdvals((layer.weight / layer.norm_of(layer.weight)).flatten(1))[0].item() < 1 + 1e-6


def test_the_gradient_is_that_of_the_quotient() -> None:
    """As PyTorch's own parametrisation gives it, from the same singular vectors."""
    torch.manual_seed(0)
    layer = SpectralConv2d(2, 5, 3).double().eval()
    images = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    weight = layer.weight.detach().clone().requires_grad_()
    right = F.normalize(weight.detach().flatten(1).T @ layer.left, dim=0)
    sigma = torch.einsum("i,ij,j->", layer.left, weight.flatten(1), right)
    F.conv2d(images, weight / sigma, padding=1).square().sum().backward()
    layer(images).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_a_frozen_pass_moves_nothing_but_its_input() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(2, 5, 3)
    images, before = torch.randn(2, 2, 6, 6, requires_grad=True), layer.left.clone()
    plain = layer.eval()(images)
    out = layer.train()(images, frozen=True)
    out.square().sum().backward()
    torch.testing.assert_close(out, plain)
    assert layer.weight.grad is None
    assert layer.bias is not None
    assert layer.bias.grad is None
    assert images.grad is not None
    assert torch.equal(layer.left, before)
    layer(images)
    assert not torch.equal(layer.left, before)
