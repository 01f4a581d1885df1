"""The reward's own gradient by each action: that of autograd through the whole chain."""

import pytest
import tiny
import tiny_families
import torch
from tiny import quick  # noqa: F401

from actors.rollout import RolloutActor
from learner.learner import Learner
from rl_unlearn import backprop, consistency
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.messages import Request
from rl_unlearn.noise import trajectory_noise
from rl_unlearn.policy import DiffusionPolicy

pytestmark = pytest.mark.usefixtures("quick")


def policy_of(family, guidance):
    model = {} if family == "stable_diffusion" else {"path": str(getattr(tiny_families, family)())}
    config = tiny.config(model=model, sampler={"guidance": guidance, "steps": 4})
    policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
    draws = torch.Generator().manual_seed(1)
    state = policy.adapter_state()
    for tensor in state.values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=draws)
    policy.load_adapter(state)
    return policy


@pytest.mark.parametrize(
    ("family", "guidance"), [("stable_diffusion", 1.0), ("stable_diffusion", 3.0), ("sd3", 2.0)]
)
def test_the_sum_over_the_steps_is_the_gradient_of_the_whole_chain(family, guidance):
    policy, seeds = policy_of(family, guidance), [3, 4]
    condition = policy.encode(["a cat", "a dog"])
    latents, *_ = policy.rollout(condition, seeds)
    towards = torch.randn(latents[:, -1].shape, generator=torch.Generator().manual_seed(2))

    def reward(final):
        return (final * towards).flatten(1).sum(dim=1) - final.square().flatten(1).mean(dim=1)

    slopes = backprop.by_actions(policy, latents, condition, reward)
    assert slopes.shape == latents[:, 1:].shape

    # The slow way: one graph through all steps, with the same noise.
    noise = trajectory_noise(seeds, len(policy.kernel), policy.latent_shape)
    state, actions = latents[:, 0], []
    for step in range(len(policy.kernel)):
        mean = policy.kernel.mean(policy.predict(state, step, condition), state, step)
        state = mean + policy.kernel.std[step].float() * noise[:, step + 1]
        state.retain_grad()
        actions.append(state)
    torch.testing.assert_close(state, latents[:, -1], atol=1e-4, rtol=1e-4)
    reward(state).sum().backward()
    expected = torch.stack([action.grad for action in actions], dim=1)
    torch.testing.assert_close(slopes, expected, atol=1e-5, rtol=1e-3)
    whole = torch.cat([p.grad.flatten() for p in policy.parameters()])

    # What an update makes of them: the sum over the steps of <slope, mean>.
    for parameter in policy.parameters():
        parameter.grad = None
    for step in range(len(policy.kernel)):
        before = latents[:, step]
        mean = policy.kernel.mean(policy.predict(before, step, condition), before, step)
        (mean * slopes[:, step]).sum().backward()
    summed = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(summed, whole, atol=1e-4 * whole.abs().max().item(), rtol=1e-3)
    assert whole.abs().max() > 1e-3


def test_a_step_along_the_slopes_raises_the_reward():
    config = tiny.config(estimator={"name": "draft"}, learner={"microbatch": 2})
    actor, weights = RolloutActor(config), Learner(config).weights()
    found = actor.sample(Request(1, (0, 1, 2, 3, 4), 0), weights)
    assert found.slopes.dtype == torch.float32
    assert found.slopes.flatten(2).norm(dim=2).min() > 0
    moved = found.latents[:, -1] + 1e-3 * found.slopes[:, -1] / found.slopes[:, -1].norm()
    seen, _ = actor._see(moved)
    after = (seen * actor._weights[found.prompts]).sum(dim=1)
    gained = (after - found.rewards).sum().item()
    assert gained == pytest.approx(1e-3 * found.slopes[:, -1].norm().item(), rel=0.1)


def test_a_part_of_a_batch_has_the_same_slopes():
    one, all_at_once = (
        RolloutActor(tiny.config(estimator={"name": "backprop"}, learner={"microbatch": rows}))
        for rows in (1, 8)
    )
    weights = Learner(tiny.config()).weights()
    request = Request(1, (0, 3, 5), 0)
    torch.testing.assert_close(
        one.sample(request, weights).slopes,
        all_at_once.sample(request, weights).slopes,
        atol=1e-4,
        rtol=1e-3,
    )


def test_rewards_without_a_gradient_are_refused():
    config = tiny.config(
        estimator={"name": "backprop"}, reward={"images": {"jpeg_kilobytes": -1.0}}
    )
    with pytest.raises(ConfigError, match="leave jpeg_kilobytes out"):
        consistency.check(config)


def test_a_trait_without_a_gradient_is_refused():
    config = tiny.config(
        concept="image:jpeg_kilobytes",
        estimator={"name": "backprop"},
        prompts={"targets": ("cat",)},
    )
    with pytest.raises(ConfigError, match="lets no gradient through"):
        consistency.check(config)
