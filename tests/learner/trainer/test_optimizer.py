import math

import numpy as np
import pytest
import torch

from learner.trainer.config import OptimizerConfig
from learner.trainer.optimizer import Optimizer, learning_rate


def make_optimizer(values=(1.0, -2.0, 3.0), **options):
    parameter = torch.nn.Parameter(torch.tensor(values))
    return parameter, Optimizer({"weight": parameter}, OptimizerConfig(**options))


def test_one_step_is_adamws():
    parameter, optimizer = make_optimizer(beta1=0.9, beta2=0.95, epsilon=1e-3, weight_decay=0.1, clip_norm=100.0)
    gradient = np.array([0.5, -1.0, 2.0])
    parameter.grad = torch.tensor(gradient, dtype=torch.float32)
    stepped = optimizer.step(1.0, 0.01)
    # first step: both bias corrections cancel the decays
    expected = np.array([1.0, -2.0, 3.0]) * (1 - 0.01 * 0.1) - 0.01 * gradient / (np.abs(gradient) + 1e-3)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)
    assert stepped.applied
    assert stepped.gradient_norm == pytest.approx(math.sqrt(0.25 + 1 + 4))
    assert parameter.grad is None


def test_the_gradient_is_clipped_to_the_global_norm():
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    optimizer = Optimizer({"a": first, "b": second}, OptimizerConfig(clip_norm=1.0, beta1=0.5))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert optimizer.step(0.0, 0.1).gradient_norm == pytest.approx(5.0)
    # exp_avg = (1 - beta1) * the clipped gradient
    np.testing.assert_allclose(optimizer.tensors()["exp_avg.a"].numpy(), [0.3, 0.0], rtol=1e-5)
    np.testing.assert_allclose(optimizer.tensors()["exp_avg.b"].numpy(), [0.4], rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (1.0, 3e38)]
)
def test_what_is_not_finite_reaches_neither_parameters_nor_moments(loss, gradient):
    parameter, optimizer = make_optimizer()
    parameter.grad = torch.full((3,), 0.1)
    optimizer.step(1.0, 0.01)
    before = {name: value.clone() for name, value in optimizer.tensors().items()}
    value = parameter.detach().clone()
    parameter.grad = torch.full((3,), gradient)  # squares of 3e38 overflow: the norm is inf
    assert not optimizer.step(loss, 0.01).applied
    torch.testing.assert_close(parameter.detach(), value, rtol=0, atol=0)
    for name, tensor in optimizer.tensors().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert parameter.grad is None


def test_moments_that_are_restored_continue_as_if_nothing_had_happened():
    gradients = [torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 0.1, 0.0]), torch.tensor([-0.3, 0.2, 0.2])]
    straight, optimizer = make_optimizer()
    for gradient in gradients:
        straight.grad = gradient.clone()
        optimizer.step(0.0, 0.01)
    first, half = make_optimizer()
    first.grad = gradients[0].clone()
    half.step(0.0, 0.01)
    second, rest = make_optimizer(first.detach().tolist())
    rest.restore({name: value.clone() for name, value in half.tensors().items()})
    for gradient in gradients[1:]:
        second.grad = gradient.clone()
        rest.step(0.0, 0.01)
    torch.testing.assert_close(second.detach(), straight.detach(), rtol=0, atol=0)


def rates(steps=10, **options):
    config = OptimizerConfig(learning_rate=1.0, **options)
    return [learning_rate(step, steps, config) for step in range(1, steps + 1)]


def test_schedules():
    assert rates(schedule="constant") == [1.0] * 10
    assert rates(schedule="constant", warm_up=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(schedule="linear") == pytest.approx([1 - n / 10 for n in range(10)])
    assert rates(schedule="linear", warm_up=2, final_share=0.2) == pytest.approx(
        [0.5, 1.0, *(1 - 0.8 * n / 8 for n in range(8))]
    )
    assert rates(schedule="cosine")[5] == pytest.approx(0.5)
    assert rates(schedule="cosine", final_share=0.1)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_step_of_a_run_moves(schedule):
    for steps in (1, 2, 24):
        for warm_up in (0, 1, 24):
            assert all(rate > 0 for rate in rates(steps, schedule=schedule, warm_up=warm_up))
