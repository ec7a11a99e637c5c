"""The noise schedule of the DDPM families, in float64 (FACTS section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEPS = 1000
_FIRST_BETA = 0.00085
_LAST_BETA = 0.012


def alphas_cumprod(*, zero_terminal_snr: bool) -> Tensor:
    """Return the share of signal power at each timestep, [1000] float64.

    Args:
        zero_terminal_snr: shift and stretch the square roots so that the last is exactly 0 and the first keeps its
            value (arXiv 2305.08891).
    """
    import torch

    betas = torch.linspace(_FIRST_BETA**0.5, _LAST_BETA**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    if not zero_terminal_snr:
        return alphas
    roots = alphas.sqrt()
    return ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
