"""Muon, an optimiser with orthogonalised updates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hrseg.errors import ConfigError
from hrseg.utils.checks import is_number

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a s + b s^3 + c s^5 drives every s in (0, 1] to about 1


class Muon(Optimizer):
    """Muon for convolutions and other matrices; AdamW for norms and biases.

    A matrix is updated along the orthogonal matrix nearest to its Nesterov momentum. Updates are scaled to the size of
    AdamW's, so that learning rates and weight decay of the same order apply. In short trainings from scratch on CamVid,
    one run each, the training loss fell in about half the steps of AdamW; longer trainings and fine-tuning have not
    been measured. The overhead is a few small matrix products per layer, which matters only for batches of tiny images.

    The Muon of torch and timm computes in bfloat16, many times slower on a CPU; torch's does not support convolutions.

    Args:
        params: Parameters or groups of them; those of two or more dimensions are matrices, one row per output.
        lr: The learning rate.
        momentum: Decay of the momentum of matrices.
        betas: Decays of AdamW's running means of gradients and squared gradients.
        eps: Added to AdamW's denominator.
        weight_decay: Decoupled, as in AdamW.

    Raises:
        ConfigError: A number is outside its range.

    Source:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scale of its updates from
        Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        are_rates = all(is_number(rate, 0) for rate in (lr, eps, weight_decay)) and eps > 0
        are_shares = isinstance(betas, list | tuple) and all(is_number(share, 0, 1) for share in (momentum, *betas))
        if not are_rates or not are_shares or len(betas) != 2:
            raise ConfigError(
                f"Muon: lr {lr}, momentum {momentum}, betas {betas}, eps {eps}, weight_decay {weight_decay}; "
                "expected none below 0, momentum and both betas below 1, eps above 0"
            )
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Args:
            closure: Recomputes the loss.

        Returns:
            The loss that the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if parameter.ndim > 1:
                    matrices[tuple(parameter.shape)].append(parameter)
                else:
                    self._step_vector(parameter, parameter.grad, group)
            for same_shape in matrices.values():
                self._step_matrices(same_shape, group)
        return loss

    def _step_matrices(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Updates matrices of equal shape as a batch."""
        share = group["momentum"]
        updates = []
        for matrix in matrices:
            gradient = matrix.grad
            assert gradient is not None
            (momentum,) = self._averages(matrix, "momentum_buffer")
            momentum.lerp_(gradient, 1 - share)
            updates.append(gradient.lerp(momentum, share).flatten(1))  # Nesterov momentum
        directions = orthogonalize(torch.stack(updates))
        size = 0.2 * max(directions.shape[1:]) ** 0.5  # the root mean square of AdamW's updates
        for matrix, direction in zip(matrices, directions, strict=True):
            matrix.add_(direction.view(matrix.shape), alpha=-group["lr"] * size)

    def _step_vector(self, vector: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Updates a vector as AdamW does."""
        beta1, beta2 = group["betas"]
        mean, square = self._averages(vector, "exp_avg", "exp_avg_sq")
        self.state[vector]["step"] = step = self.state[vector].get("step", 0) + 1
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient.square(), 1 - beta2)
        std = (square / (1 - beta2**step)).sqrt_()
        vector.addcdiv_(mean, std.add_(group["eps"]), value=-group["lr"] / (1 - beta1**step))

    def _averages(self, parameter: Tensor, *names: str) -> list[Tensor]:
        """Running averages by name, initialised to zero."""
        state = self.state[parameter]
        if names[0] not in state:
            state.update({name: torch.zeros_like(parameter) for name in names})
        return [state[name] for name in names]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Moves the singular values of matrices to about 1 (0.7 to 1.2) by Newton-Schulz iteration.

    Iterates on the Gram matrices of the rows, which for convolutions are far smaller than the matrices.

    Args:
        matrices: (N, rows, columns) float32 or float64.
        steps: Number of iterations; 5 suffice for singular values down to 1/100 of the Frobenius norm.

    Returns:
        (N, rows, columns).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    gram = x @ x.mT
    a, b, c = _COEFFICIENTS
    total: Tensor | None = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        total = factor if total is None else factor @ total
        if step + 1 < steps:
            gram = factor @ gram @ factor
    result: Tensor = x if total is None else total @ x
    return result.mT if tall else result
