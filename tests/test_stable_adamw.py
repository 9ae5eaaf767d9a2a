"""StableAdamW: AdamW where gradients keep their size; a sudden gradient makes its step shorter; its state is saved."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mddbench.engine.stable_adamw import StableAdamW


def trained(kind: type[torch.optim.Optimizer], gradients: list[Tensor], **options: object) -> Tensor:
    """A parameter of ones after a step with each gradient."""
    parameter = torch.nn.Parameter(torch.ones_like(gradients[0]))
    optimizer = kind([parameter], **options)  # type: ignore[arg-type]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_falling_gradients_give_adamw(amsgrad: bool) -> None:
    """Then the root mean square of gradient / denominator stays below 1."""
    start = torch.linspace(-1, 1, 12, dtype=torch.float64)
    options = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": amsgrad, "eps": 1e-10}
    gradients = [start * 0.8**step for step in range(6)]
    torch.testing.assert_close(
        trained(StableAdamW, gradients, **options), trained(torch.optim.AdamW, gradients, **options), rtol=1e-9, atol=0
    )


def test_a_gradient_a_thousand_times_as_large_makes_the_step_shorter() -> None:
    """By the root mean square of gradient / denominator, computed by hand: about 1.41 in the second step."""
    options = {"lr": 0.01, "eps": 1e-10, "amsgrad": True, "weight_decay": 0.0}
    gradients = [torch.ones(5, dtype=torch.float64), torch.full((5,), 1000.0, dtype=torch.float64)]
    first = trained(StableAdamW, gradients[:1], **options)
    own = first - trained(StableAdamW, gradients, **options)
    theirs = first - trained(torch.optim.AdamW, gradients, **options)
    square = (0.999 * 0.001 + 0.001 * 1000.0**2) / (1 - 0.999**2)
    assert float((theirs / own)[0]) == pytest.approx(1000.0 / math.sqrt(square), rel=1e-9)
    assert float((theirs / own)[0]) == pytest.approx(1.414, abs=1e-3)


def test_weight_decay_is_not_shortened() -> None:
    options = {"lr": 0.01, "amsgrad": True, "weight_decay": 0.5}
    gradients = [torch.ones(5, dtype=torch.float64), torch.full((5,), 1000.0, dtype=torch.float64)]
    plain = trained(StableAdamW, gradients, **{**options, "weight_decay": 0.0})
    first = trained(StableAdamW, gradients[:1], **options)
    step = trained(StableAdamW, gradients[:1], **{**options, "weight_decay": 0.0}) - plain
    torch.testing.assert_close(trained(StableAdamW, gradients, **options), first * (1 - 0.01 * 0.5) - step)


def test_each_tensor_has_its_own_step() -> None:
    """A sudden gradient of one tensor leaves the other's step as it is."""
    one, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = StableAdamW([{"params": [one]}, {"params": [other]}], lr=0.01)
    for factor in (1.0, 1000.0):
        one.grad, other.grad = torch.full((3,), factor), torch.ones(3)
        optimizer.step()
    alone = trained(StableAdamW, [torch.ones(3), torch.ones(3)], lr=0.01)
    assert torch.equal(other.detach(), alone)


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    gradients = [torch.randn(4, generator=torch.Generator().manual_seed(step)) for step in range(4)]
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = StableAdamW([parameter], lr=0.1, amsgrad=True)
    for step, gradient in enumerate(gradients):
        if step == 2:
            saved = optimizer.state_dict()
            optimizer = StableAdamW([parameter], lr=0.1, amsgrad=True)
            optimizer.load_state_dict(saved)
        parameter.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(parameter.detach(), trained(StableAdamW, gradients, lr=0.1, amsgrad=True))


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert StableAdamW([parameter], lr=0.1, weight_decay=0.5).step(lambda: 2.0) == 2.0
    assert torch.equal(parameter.detach(), torch.ones(3))
