from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from trainer_bridge import fields  # noqa: E402
from trainer_bridge.engine import optim  # noqa: E402


def values(**changes: Any) -> dict[str, Any]:
    return {**fields.defaults(), **changes}


def vector(*numbers: float, grad: tuple[float, ...] = ()) -> Any:
    made = nn.Parameter(torch.tensor(numbers))
    made.grad = torch.tensor(grad or numbers)
    return made


@given(
    total=st.integers(1, 5000),
    warmup=st.integers(0, 400),
    step=st.integers(0, 5000),
    kind=st.sampled_from(["cosine", "constant", "constant_with_warmup"]),
)
def test_schedules(total: int, warmup: int, step: int, kind: str) -> None:
    chosen = values(max_train_steps=total, lr_warmup_steps=warmup, lr_scheduler=kind)
    factor = optim.rate_factor(chosen, step)
    assert 0.0 <= factor <= 1.0
    following = optim.rate_factor(chosen, step + 1)
    if step + 1 <= warmup:
        assert following > factor
    elif kind == "cosine":
        assert following <= factor + 1e-12
    elif step >= warmup:
        assert factor == following == 1.0


def test_cosine_at_its_ends_and_middle() -> None:
    chosen = values(max_train_steps=1100, lr_warmup_steps=100, lr_scheduler="cosine")
    assert optim.rate_factor(chosen, 0) == 0.0
    assert optim.rate_factor(chosen, 50) == 0.5
    assert optim.rate_factor(chosen, 100) == 1.0
    assert optim.rate_factor(chosen, 600) == pytest.approx(0.5)
    assert optim.rate_factor(chosen, 350) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert optim.rate_factor(chosen, 1100) == pytest.approx(0.0, abs=1e-12)


def test_groups_have_their_rates_and_zero_leaves_a_part_out() -> None:
    parts = {"unet": vector(1.0), "te1": vector(1.0), "te2": vector(1.0)}
    made = optim.make_optimizer(parts, values(unet_lr=1e-3, text_encoder_lr=1e-4))
    assert [(group["part"], group["lr"]) for group in made.param_groups] == [
        ("unet", 1e-3),
        ("te1", 1e-4),
        ("te2", 1e-4),
    ]
    assert optim.set_rate(made, 0.5) == 5e-4
    assert made.param_groups[1]["lr"] == 5e-5
    assert [g["part"] for g in optim.make_optimizer(parts, values(text_encoder_lr=0.0)).param_groups] == ["unet"]


def test_a_step_is_adamw_as_its_authors_wrote_it() -> None:
    """Decoupled weight decay (arXiv 1711.05101), in float64 by hand, over three steps."""
    parts = {"unet": vector(0.5, -2.0, 3.0)}
    made = optim.make_optimizer(parts, values(unet_lr=0.01, weight_decay=0.1))
    weights, first, second = [0.5, -2.0, 3.0], [0.0] * 3, [0.0] * 3
    for step in range(1, 4):
        grads = [0.3 * step, -0.1, 2.0 / step]
        parts["unet"].grad = torch.tensor(grads)
        made.step()
        for place, grad in enumerate(grads):
            first[place] = 0.9 * first[place] + 0.1 * grad
            second[place] = 0.999 * second[place] + 0.001 * grad * grad
            weights[place] *= 1 - 0.01 * 0.1
            mean, square = first[place] / (1 - 0.9**step), second[place] / (1 - 0.999**step)
            weights[place] -= 0.01 * mean / (math.sqrt(square) + 1e-8)
    assert parts["unet"].tolist() == pytest.approx(weights, rel=1e-5)


def test_clipping_goes_over_all_parts_together() -> None:
    parts = {"unet": vector(0.0, 0.0, grad=(3.0, 0.0)), "te1": vector(0.0, grad=(4.0,))}
    assert float(optim.clip(parts, 0.0)) == pytest.approx(5.0)
    assert parts["unet"].grad.tolist() == [3.0, 0.0]
    assert float(optim.clip(parts, 10.0)) == pytest.approx(5.0)
    assert parts["unet"].grad.tolist() == [3.0, 0.0]
    assert float(optim.clip(parts, 1.0)) == pytest.approx(5.0)
    assert parts["unet"].grad.tolist() == pytest.approx([0.6, 0.0], rel=1e-5)
    assert parts["te1"].grad.tolist() == pytest.approx([0.8], rel=1e-5)


def test_memory_of_the_optimiser_comes_back_bit_by_bit() -> None:
    def run(split: bool) -> Any:
        parts = {"unet": vector(*[0.1 * n for n in range(9)])}
        made = optim.make_optimizer(parts, values(unet_lr=0.05))
        for step in range(6):
            if split and step == 3:
                kept = {name: tensor.clone() for name, tensor in optim.optimizer_tensors(made).items()}
                assert set(kept) == {"unet.step", "unet.exp_avg", "unet.exp_avg_sq"}
                parts = {"unet": nn.Parameter(parts["unet"].detach().clone())}
                made = optim.make_optimizer(parts, values(unet_lr=0.05))
                optim.load_optimizer(made, kept)
            parts["unet"].grad = torch.sin(torch.arange(9.0) + step)
            made.step()
        return parts["unet"].detach()

    assert torch.equal(run(False), run(True))
