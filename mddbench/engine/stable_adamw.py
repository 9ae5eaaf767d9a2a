"""StableAdamW: AdamW whose step of a tensor becomes shorter when its gradient is larger than expected.

Paper: Wortsman et al., Stable and low-precision training for large-scale vision-language models, NeurIPS 2023.
Code read: the variant in guojiajeremy/Dinomaly at c5c76d0 (Apache-2.0), which keeps AMSGrad's maximum. None of it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class StableAdamW(Optimizer):
    """AdamW with update clipping.

    The root mean square of gradient / denominator over a tensor is about 1 while gradients keep their size.
    Where it is larger, the step of this tensor is divided by it. Weight decay is not.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        """Create the optimiser.

        Args:
            params: Parameters, or groups of them.
            lr: Learning rate.
            betas: Decay of the means of gradients and of squared gradients.
            eps: What is added to the denominator.
            weight_decay: Decay of weights per step, relative to the learning rate.
            amsgrad: True to divide by the largest mean of squared gradients so far.
        """
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change all parameters that have a gradient.

        Args:
            closure: Computes the loss once more; None if there is nothing to compute.

        Returns:
            The loss of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, group)
        return loss

    def _change(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient, (beta_mean, beta_square) = self.state[parameter], parameter.grad, group["betas"]
        if gradient is None:
            return
        names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
        if not state:
            state |= {"step": 0, **{name: torch.zeros_like(parameter) for name in names}}
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.mul_(beta_mean).add_(gradient, alpha=1 - beta_mean)
        square.mul_(beta_square).addcmul_(gradient, gradient, value=1 - beta_square)
        if group["amsgrad"]:
            square = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
        correction = float(1 - beta_square ** state["step"]) ** 0.5
        denominator = (square.sqrt() / correction).add_(group["eps"])
        excess = ((gradient / denominator).norm() / parameter.numel() ** 0.5).clamp_(min=1.0)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] / (1 - beta_mean ** state["step"])
        parameter.addcdiv_(mean, denominator.mul_(excess), value=-rate)
