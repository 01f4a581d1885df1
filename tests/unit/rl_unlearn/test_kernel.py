"""The denoising step against diffusers' own, and its log-prob against a slow Gaussian."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from rl_unlearn.errors import ConfigError
from rl_unlearn.families import variance_preserving
from rl_unlearn.kernel import MIN_STD

SHAPE = (3, 4, 8, 8)
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def scheduler(**changes) -> DDIMScheduler:
    settings = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
    }  # fmt: skip
    return DDIMScheduler(**(settings | changes))


def tensors(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("steps", [5, 10, 50])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("to_one", [True, False])
def test_every_step_is_that_of_diffusers(prediction, eta, steps, offset, to_one):
    # In float64 on their side: the difference left is the rounding of ours.
    theirs = scheduler(prediction_type=prediction, steps_offset=offset, set_alpha_to_one=to_one)
    kernel = variance_preserving.kernel(theirs, steps, eta)
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = (
        theirs.alphas_cumprod.double(),
        theirs.final_alpha_cumprod.double(),
    )
    output, latents, noise = tensors(3)
    assert kernel.timesteps.tolist() == theirs.timesteps.tolist()
    for index, t in enumerate(theirs.timesteps):
        wide = (output.double(), t, latents.double())
        mean = theirs.step(*wide, eta=eta, variance_noise=torch.zeros(SHAPE).double()).prev_sample
        sample = theirs.step(*wide, eta=eta, variance_noise=noise.double()).prev_sample
        action, _, our_mean = kernel.step(output, latents, index, noise=noise)
        # `sample` prediction divides by sqrt(1 - alpha) = 0.03 at t = 0; tolerances are relative to
        # the tensors' size.
        scale = max(1.0, mean.abs().max().item())
        torch.testing.assert_close(our_mean.double(), mean, atol=1e-6 * scale, rtol=1e-6)
        torch.testing.assert_close(action.double(), sample, atol=1e-6 * scale, rtol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("to_one", [True, False])
def test_the_prediction_of_x0_is_that_of_diffusers(prediction, eta, steps, to_one):
    theirs = scheduler(prediction_type=prediction, set_alpha_to_one=to_one)
    kernel = variance_preserving.kernel(theirs, steps, eta)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.final_alpha_cumprod.double()
    output, latents, _ = tensors(3)
    for index, t in enumerate(theirs.timesteps):
        expected = theirs.step(
            output.double(),
            t,
            latents.double(),
            eta=eta,
            variance_noise=torch.zeros(SHAPE).double(),
        )
        found = kernel.predicted_x0(kernel.mean(output, latents, index), latents, index).double()
        # Solved from the mean, of which x0 is a small part at high noise: a few digits of fp32 are
        # lost.
        size = max(1.0, expected.pred_original_sample.abs().max().item())
        torch.testing.assert_close(found, expected.pred_original_sample, atol=1e-4 * size, rtol=0)


def test_the_prediction_of_x0_after_a_step_that_changes_nothing_is_the_state():
    # Without an offset the last step goes from t = 0 to t = 0, if the scheduler's final alpha is
    # not 1.
    kernel = variance_preserving.kernel(scheduler(steps_offset=0), 10, 1.0)
    assert kernel.signal[-1] == kernel.signal_next[-1]
    output, latents, _ = tensors(3)
    index = torch.tensor([9, 0, 9])
    mean = kernel.mean(output, latents, index)
    found = kernel.predicted_x0(mean, latents, index)
    torch.testing.assert_close(found[0], latents[0], rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(found[1:2], kernel.predicted_x0(mean[1:2], latents[1:2], 0))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_log_prob_is_the_gaussian_density(prediction):
    kernel = variance_preserving.kernel(scheduler(prediction_type=prediction), 10, 0.7)
    output, latents, noise = tensors(3)
    for index in range(10):
        action, ours, mean = kernel.step(output, latents, index, noise=noise)
        std = float(kernel.std[index])
        for row in range(SHAPE[0]):
            total = 0.0
            a, m = action[row].double().numpy().ravel(), mean[row].double().numpy().ravel()
            for i in range(a.size):
                total += -0.5 * ((a[i] - m[i]) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
            assert float(ours[row]) == pytest.approx(total / a.size, rel=1e-4, abs=1e-5)


def test_log_prob_by_hand():
    kernel = variance_preserving.kernel(scheduler(), 10, 1.0)
    std = float(kernel.std[2])
    mean = torch.zeros(1, 1, 1, 2)
    action = torch.tensor(
        [[[[std, 2 * std]]]]
    )  # one and two standard deviations away: (1 + 4) / 2 / 2 = 1.25
    expected = -1.25 - math.log(std) - 0.5 * math.log(2 * math.pi)
    assert kernel.log_prob(action, mean, 2).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("eta", [0.0, -0.1])
def test_a_deterministic_sampler_is_refused(eta):
    with pytest.raises(ConfigError, match=r"sampler\.eta"):
        variance_preserving.kernel(scheduler(), 10, eta)


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(ConfigError, match="flow"):
        variance_preserving.kernel(scheduler(prediction_type="flow"), 10, 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_action_is_rounded_before_its_log_prob(dtype):
    kernel = variance_preserving.kernel(scheduler(), 10, 1.0)
    output, latents, noise = tensors(3)
    latents = latents.to(dtype)
    differs = False
    for index in range(10):
        action, acted, mean = kernel.step(output, latents, index, noise=noise)
        assert action.dtype == dtype
        assert mean.dtype == acted.dtype == torch.float32
        _, evaluated, again = kernel.step(output, latents, index, action=action)
        assert torch.equal(acted, evaluated)
        assert torch.equal(mean, again)
        unrounded = mean + kernel.std[index] * noise
        differs |= not torch.equal(acted, kernel.log_prob(unrounded, mean, index))
    assert differs, "rounding changes nothing here: the test has lost its point"


def test_mixed_indices_equal_single_calls():
    kernel = variance_preserving.kernel(scheduler(prediction_type="v_prediction"), 10, 1.0)
    output, latents, noise = tensors(3)
    index = torch.tensor([7, 0, 9])
    action, log_probs, mean = kernel.step(output, latents, index, noise=noise)
    for row, k in enumerate(index.tolist()):
        one = slice(row, row + 1)
        alone = kernel.step(output[one], latents[one], k, noise=noise[one])
        assert torch.equal(action[one], alone[0])
        assert torch.equal(log_probs[one], alone[1])
        assert torch.equal(mean[one], alone[2])


def test_a_step_without_noise_is_no_action():
    kernel = variance_preserving.kernel(scheduler(set_alpha_to_one=True), 10, 1.0)
    assert kernel.std[-1] == 0
    output, latents, noise = tensors(3)
    action, log_probs, mean = kernel.step(output, latents, 9, noise=noise)
    assert torch.equal(action, mean)
    assert torch.equal(log_probs, torch.zeros(3))
    assert 9 not in kernel.learned


@pytest.mark.parametrize(("steps", "to_one"), [(10, True), (10, False), (50, False)])
def test_learned_steps_are_those_with_noise_enough(steps, to_one):
    kernel = variance_preserving.kernel(scheduler(set_alpha_to_one=to_one), steps, 1.0)
    expected = [k for k in range(steps) if float(kernel.std[k]) >= MIN_STD]
    assert kernel.learned.tolist() == expected
    assert 0 < len(expected) < steps
    assert expected[0] == 0


def test_levels_are_the_timesteps_of_all_states():
    kernel = variance_preserving.kernel(scheduler(), 5, 1.0)
    assert kernel.levels.tolist() == [801, 601, 401, 201, 1, 0]
    assert len(kernel) == 5


def test_step_takes_noise_or_an_action():
    kernel = variance_preserving.kernel(scheduler(), 5, 1.0)
    output, latents, noise = tensors(3)
    with pytest.raises(ValueError, match="either"):
        kernel.step(output, latents, 0)
    with pytest.raises(ValueError, match="either"):
        kernel.step(output, latents, 0, noise=noise, action=noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_knows_the_answer_leads_to_x0(prediction):
    kernel = variance_preserving.kernel(scheduler(prediction_type=prediction), 10, 1.0)
    x0, eps, _ = tensors(3)
    index = torch.tensor([0, 5, 9])
    state, output = kernel.noisy(x0, eps, index), kernel.answer(x0, eps, index)
    mean = kernel.mean(output, state, index)
    # The mean of q(x_next | x, x0), by its own words: signal_next x0 and what is left of the noise.
    left = (kernel.noise_next[index] ** 2 - kernel.std[index] ** 2).sqrt()
    expected = kernel.signal_next[index].view(-1, 1, 1, 1) * x0 + left.view(-1, 1, 1, 1) * eps
    torch.testing.assert_close(mean.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kernel.predicted_x0(mean, state, index), x0, atol=2e-3, rtol=1e-3)


def test_the_kl_is_the_joint_one_of_torch():
    kernel = variance_preserving.kernel(scheduler(), 10, 1.0)
    mean, reference, _ = tensors(3)
    index = torch.tensor([0, 4, 8])
    wide = kernel.std.float()[index][:, None, None, None].expand_as(mean)
    distributions = (
        torch.distributions.Normal(mean, wide),
        torch.distributions.Normal(reference, wide),
    )
    expected = torch.distributions.kl_divergence(*distributions).flatten(1).sum(dim=1)
    torch.testing.assert_close(kernel.kl(mean, reference, index), expected)
    assert torch.equal(kernel.kl(mean, mean, index), torch.zeros(3))


@pytest.mark.parametrize("to_one", [True, False])
def test_the_forward_process_from_the_final_state(to_one):
    """Its own noise and that of the final state add up to the level's."""
    kernel = variance_preserving.kernel(scheduler(set_alpha_to_one=to_one), 10, 1.0)
    final, eps = torch.zeros(11, 1, 1, 1), torch.ones(11, 1, 1, 1)
    levels = torch.arange(11)
    fresh = kernel.renoised(final, eps, levels).flatten().double()
    assert fresh[-1] == 0
    assert torch.equal(kernel.renoised(eps, final, levels)[-1], eps[-1]), (
        "the final latents are themselves"
    )
    share = kernel.renoised(eps, final, levels).flatten().double()
    noise = torch.cat([kernel.noise, kernel.noise_next[-1:]])
    torch.testing.assert_close((share * noise[-1]) ** 2 + fresh**2, noise**2, atol=1e-6, rtol=1e-5)
