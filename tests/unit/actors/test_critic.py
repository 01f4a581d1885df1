"""The critic: what it depends on, its gradient, its trunk, and that it learns."""

import dataclasses

import pytest
import tiny
import torch
from torch import nn

from actors.critic import CriticActor
from rl_unlearn.clip.zeroshot import load_open_clip
from rl_unlearn.config import EstimatorConfig
from rl_unlearn.critic import Critic, timestep_features, valued_gradients, values
from rl_unlearn.errors import DataError
from rl_unlearn.noise import generator
from rl_unlearn.states import States, choose
from rl_unlearn.trajectory import Trajectory

CONDITION = 7
OUTCOMES = 5


def make(grid: int = 2, size: int = 8, layers: int = 2) -> Critic:
    clip, _ = load_open_clip(str(tiny.clip_folder()), "reward")
    torch.manual_seed(0)
    critic = Critic(clip, (4, size, size), grid, layers, CONDITION, OUTCOMES)
    for part in (critic.fine, critic.coarse):
        nn.init.normal_(
            part.conv_out.weight, std=0.1
        )  # they start at zero, so that the blocks do nothing
    return critic


def inputs(batch: int = 3, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 4, size, size, generator=draw)
    return (
        latents,
        torch.tensor([900, 500, 0])[:batch],
        torch.randn(batch, CONDITION, generator=draw),
    )


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_outcomes_depend_on_latents_timestep_and_condition(layers):
    critic = make(layers=layers)
    latents, timesteps, condition = inputs()
    found = critic(latents, timesteps, condition)
    assert found.shape == (3, OUTCOMES)
    others = [
        critic(latents + 0.5, timesteps, condition),
        critic(latents, timesteps.flip(0) + 1, condition),
        critic(latents, timesteps, condition + 0.5),
    ]
    for other in others:
        assert ((found - other).abs() > 1e-6).all()


def test_the_mean_is_where_the_outcomes_start():
    critic = make()
    found = critic(*inputs())
    critic.mean += torch.arange(5.0)
    torch.testing.assert_close(critic(*inputs()) - found, torch.arange(5.0).expand(3, 5))


def test_a_value_weighs_the_outcomes():
    critic = make()
    weights = torch.tensor([[1.0, 0, 0, 0, 0], [0, 2.0, 0, -1.0, 0], [0, 0, 0, 0, 0]])
    found = critic(*inputs())
    expected = torch.stack([found[0, 0], 2 * found[1, 1] - found[1, 3], torch.zeros(())])
    torch.testing.assert_close(values(critic, *inputs(), weights), expected)


def test_a_value_does_not_depend_on_its_company():
    critic = make()
    latents, timesteps, condition = inputs()
    together = critic(latents, timesteps, condition)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(
            together[one], critic(latents[one], timesteps[one], condition[one])
        )


def test_timestep_features_tell_all_timesteps_apart():
    features = timestep_features(torch.arange(1000), 64)
    distances = torch.cdist(features, features) + torch.eye(1000) * 9
    assert distances.min() > 0.05
    assert timestep_features(torch.tensor([0]), 4).tolist() == [[1, 1, 0, 0]]


def test_action_gradients_are_finite_differences():
    critic = make().double()
    latents, timesteps, _ = (v.double() if v.is_floating_point() else v for v in inputs())
    withheld = torch.zeros(3, CONDITION).double()
    weights = torch.randn(3, OUTCOMES, generator=torch.Generator().manual_seed(3)).double()
    # The features of the timestep are fp32: let the network see them as float64.
    critic.context.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    critic.condition.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    valued, gradients = valued_gradients(critic, latents, timesteps, weights)
    assert gradients.shape == latents.shape
    assert torch.equal(valued, values(critic, latents, timesteps, withheld, weights))
    draw = torch.Generator().manual_seed(2)
    for _ in range(5):
        direction = torch.randn(latents.shape, generator=draw).double()
        ahead = values(critic, latents + 1e-5 * direction, timesteps, withheld, weights)
        behind = values(critic, latents - 1e-5 * direction, timesteps, withheld, weights)
        slope = (gradients * direction).flatten(1).sum(dim=1)
        torch.testing.assert_close(slope, ((ahead - behind) / 2e-5).detach(), rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in critic.parameters()), (
        "action gradients must not train the critic"
    )


def test_the_trunk_is_clips():
    clip, _ = load_open_clip(str(tiny.clip_folder()), "reward")
    critic = Critic(
        clip, (4, 16, 16), 4, 2, CONDITION, OUTCOMES
    )  # the grid of this CLIP: positions are taken as they are
    for ours, theirs in (
        (critic.trunk, clip.visual.transformer),
        (critic.norm_in, clip.visual.ln_pre),
        (critic.norm_out, clip.visual.ln_post),
    ):
        state, expected = ours.state_dict(), theirs.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[k], expected[k]) for k in state)
    assert torch.equal(critic.positions, clip.visual.positional_embedding)
    assert torch.equal(critic.class_token, clip.visual.class_embedding)
    assert all(p.requires_grad for p in critic.parameters())
    assert not any(p.requires_grad for p in clip.parameters()), "the reward CLIP must stay frozen"
    with torch.no_grad():
        critic.trunk.resblocks[0].ln_1.weight.add_(1)
    assert not torch.equal(
        critic.trunk.resblocks[0].ln_1.weight, clip.visual.transformer.resblocks[0].ln_1.weight
    )


def test_the_trunk_computes_what_clip_does():
    clip, _ = load_open_clip(str(tiny.clip_folder()), "reward")
    critic = Critic(clip, (4, 16, 16), 4, 2, CONDITION, OUTCOMES)
    tokens = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    visual = clip.visual
    with torch.no_grad():
        expected = visual.ln_post(
            visual.transformer(visual.ln_pre(tokens + visual.positional_embedding))
        )
        ours = critic.norm_out(critic.trunk(critic.norm_in(tokens + critic.positions)))
        torch.testing.assert_close(ours, expected)
        # Rows of the batch are sequences of their own: attention runs over tokens, not over the
        # batch.
        alone = critic.norm_out(critic.trunk(critic.norm_in(tokens[:1] + critic.positions)))
        torch.testing.assert_close(ours[:1], alone)


@pytest.mark.parametrize(
    ("size", "grid", "tokens"), [(8, 2, 4), (8, 8, 64), (8, 64, 64), (16, 4, 16), (4, 4, 16)]
)
def test_positions_are_resampled_to_the_grid(size, grid, tokens):
    critic = make(grid, size)
    assert critic.positions.shape == (tokens + 1, 32)
    assert critic(*inputs(size=size)).shape == (3, OUTCOMES)
    assert torch.isfinite(critic.positions).all()


def test_a_clip_without_a_vit_is_refused():
    with pytest.raises(DataError, match="ViT"):
        Critic(
            type("Clip", (nn.Module,), {"visual": nn.Linear(2, 2)})(),
            (4, 8, 8),
            2,
            2,
            CONDITION,
            OUTCOMES,
        )


# -- the actor -------------------------------------------------------------------------------------


def trajectories(count: int = 24, steps: int = 4) -> Trajectory:
    """The outcomes are plain to see in the latents: the mean of the first channel, plus 2 for even
    prompts.
    """
    draw = generator("critic test")
    latents = torch.randn(count, steps + 1, *tiny.SHAPE, generator=draw)
    signal = torch.randn(count, generator=draw)
    latents[:, :, 0] += signal[:, None, None, None]
    prompts = torch.arange(count) % 6
    outcomes = (signal + 2.0 * (prompts % 2 == 0))[:, None].repeat(1, 10)
    return Trajectory(
        ids=torch.arange(count),
        rounds=torch.zeros(count, dtype=torch.int64),
        policy_versions=torch.zeros(count, dtype=torch.int64),
        prompts=prompts,
        latents=latents,
        log_probs=torch.zeros(count, steps),
        outcomes=outcomes,
        rewards=torch.zeros(count),
        evidence=torch.zeros(count),
    )


def rewarded(actor: CriticActor, batch: Trajectory) -> torch.Tensor:
    return (batch.outcomes * actor._weights[batch.prompts]).sum(dim=1)


def states(actor: CriticActor, batch: Trajectory) -> States:
    """As many as the actor's steps take."""
    config = actor._config.critic
    return choose(batch, config.steps * config.fresh, config.renoised, generator("states"))


def test_fit_learns_and_is_deterministic():
    critic = {
        "minibatch": 32,
        "lr": 3e-3,
        "renoised": 0.0,
        "withheld": 0.2,
        "rehearsal": 0.0,
        "steps": 80,
    }
    config = tiny.config(critic=critic)
    batch = trajectories()
    one, other = CriticActor(config), CriticActor(config)
    rewards = rewarded(one, batch)
    variance = rewards.var(correction=0).item()
    metrics = one.fit(states(one, batch), 0)
    torch.manual_seed(99)
    assert other.fit(states(other, batch), 0) == metrics
    after = one.score(batch, 0).values
    assert torch.equal(after.nan_to_num(), other.score(batch, 0).values.nan_to_num())
    off = (after - rewards[:, None]).square()
    assert off[after.isfinite()].mean().item() < 0.4 * variance
    still = CriticActor(tiny.config(critic={"steps": 0}))
    assert still.fit(states(still, batch), 1) == {}, "a loss of 0 would be a perfect critic"


def test_the_warm_up_starts_at_the_mean_and_is_rehearsed():
    config = tiny.config(critic={"rehearsal": 0.5, "warmup_steps": 0})
    actor = CriticActor(config)
    batch = trajectories()
    actor.warm_up(batch, 0, 1)
    torch.testing.assert_close(actor._critic.mean, batch.outcomes.mean(dim=0))
    seen: list[torch.Tensor] = []
    actor._critic.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    elsewhere = dataclasses.replace(
        trajectories(6), latents=torch.full_like(trajectories(6).latents, 7.0)
    )
    ours = dataclasses.replace(
        states(actor, elsewhere), final=torch.zeros(8 * actor._config.critic.steps).bool()
    )
    actor.fit(ours, 1)
    assert [(row == 7).all().item() for row in seen[0]] == [True] * 8 + [False] * 8


def test_the_warm_up_comes_in_parts_and_each_fits_on_all_that_came():
    batch, config = trajectories(6), tiny.config(critic={"warmup_steps": 5})
    actor = CriticActor(config)
    seen: list[torch.Tensor] = []
    actor._critic.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    losses = [actor.warm_up(batch[part : part + 2], part // 2, 3) for part in (0, 2, 4)]
    assert len(seen) == 5, "the steps of all parts together"
    assert torch.equal(actor._rehearsed.ids, batch.ids)
    assert torch.allclose(actor._critic.mean, batch.outcomes[:2].mean(dim=0))
    assert actor.warm_up(batch[4:6], 2, 3) == losses[-1], "a repeated call only answers again"
    assert len(seen) == 5
    assert len(actor._rehearsed) == 6
    again = CriticActor(config)
    for part in (0, 2, 4):
        again.warm_up(batch[part : part + 2], part // 2, 3)
    ours, theirs = actor._critic.state_dict(), again._critic.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_share_of_the_steps_is_scored_and_other_steps_are_not_valued():
    batch = trajectories(6)
    config = tiny.config(learner={"steps_share": 0.5})
    actor, whole = CriticActor(config), CriticActor(tiny.config())
    scored, full = actor.score(batch, 3), whole.score(batch, 3)
    assert scored.steps.shape == (6, 1)
    assert len(scored.steps.unique()) > 1, "each trajectory has a choice of its own"
    assert torch.equal(scored.steps, actor.score(batch, 3).steps)
    assert not torch.equal(scored.steps, actor.score(batch, 4).steps)
    rows = torch.arange(6)[:, None]
    torch.testing.assert_close(scored.action_gradients, full.action_gradients[rows, scored.steps])
    valued = scored.values.isfinite()
    assert torch.equal(valued.nonzero()[:, 1], scored.steps.flatten() + 1)
    torch.testing.assert_close(scored.values[valued], full.values[valued])


def test_states_are_the_trajectorys_or_the_final_image_under_fresh_noise():
    batch = trajectories(200)
    stored = choose(batch, 64, 0.0, generator("states"))
    known = {
        tuple(row.flatten()[:4].tolist()): level
        for rows in batch.latents
        for level, row in enumerate(rows)
    }
    assert [
        known[tuple(row.flatten()[:4].tolist())] for row in stored.latents
    ] == stored.levels.tolist()
    assert not stored.final.any()
    fresh = choose(batch, 64, 1.0, generator("states"))
    levels, outcomes = fresh.levels, fresh.outcomes
    assert torch.equal(levels, stored.levels), "the same draws"
    assert fresh.final.all()
    actor = CriticActor(tiny.config())
    again = actor._fit.noisy(fresh, torch.randn(fresh.latents.shape, generator=generator("noise")))
    assert torch.equal(actor._fit.noisy(stored, torch.randn(stored.latents.shape)), stored.latents)
    kernel = actor._fit._kernel
    signal = torch.cat([kernel.signal, torch.ones(1)])[levels].float()
    rows = [int((batch.outcomes[:, 0] == o[0]).nonzero()[0]) for o in outcomes]
    noise = again - signal[:, None, None, None] * batch.latents[rows, -1]
    noisy = levels < 4
    torch.testing.assert_close(again[~noisy], batch.latents[rows, -1][~noisy])
    spread = noise[noisy].flatten(1).std(dim=1) / (1 - signal[noisy] ** 2).sqrt()
    torch.testing.assert_close(spread, torch.ones_like(spread), rtol=0.2, atol=0)


def test_a_withheld_prompt_cannot_be_seen():
    actor = CriticActor(tiny.config(critic={"withheld": 1.0, "warmup_steps": 0, "steps": 1}))
    seen = []
    actor._critic.condition.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    actor.fit(states(actor, trajectories()), 1)
    actor.score(trajectories(2), 0)
    assert len(seen) == 2
    assert not torch.cat(seen).any(), "neither the fit nor an action gradient knows the prompt"
    seen.clear()
    actor._row = EstimatorConfig(name="critic").row
    actor.score(trajectories(2), 0)
    (condition,) = seen
    assert len(condition) == 2 * 5, "the states of all levels go through in one pass"
    assert condition.any(dim=1).all(), "values know the prompt"


def fitted(name: str, batch: Trajectory, withheld: bool = False) -> CriticActor:
    """An actor of this estimator after five steps; ``withheld``: its values do not know the prompt,
    as gradients do.
    """
    actor = CriticActor(tiny.config(critic={"lr": 3e-3, "steps": 5}, estimator={"name": name}))
    if withheld:
        actor._conditions.zero_()
    actor.fit(states(actor, batch), 0)
    return actor


def test_score_values_every_level_and_gradients_belong_to_the_actions():
    batch = trajectories(6)
    actor = fitted("critic", batch, withheld=True)
    plain, full = actor.score(batch, 0), fitted("pathwise", batch, withheld=True).score(batch, 0)
    assert plain.action_gradients is None
    assert plain.values.shape == (6, 5)
    learned = torch.tensor([0, 1])
    assert torch.equal(full.steps, learned.expand(6, -1)), "the other steps are too quiet"
    valued = torch.full((6, 5), torch.nan)
    valued[:, learned + 1] = plain.values[:, learned + 1]
    torch.testing.assert_close(full.values, valued, equal_nan=True)
    assert full.action_gradients is not None
    assert full.action_gradients.shape == (6, 2, *tiny.SHAPE)
    # Step k's action is state k + 1 at level k + 1: nudge it along its gradient and that value
    # alone rises.
    for k in learned:
        latents = batch.latents.clone()
        gradient = full.action_gradients[:, k]
        latents[:, k + 1] += 1e-2 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        change = actor.score(dataclasses.replace(batch, latents=latents), 0).values - plain.values
        expected = 1e-2 * gradient.flatten(1).norm(dim=1)
        torch.testing.assert_close(change[:, k + 1], expected, rtol=0.05, atol=1e-4)
        change[:, k + 1] = 0
        assert torch.equal(change, torch.zeros_like(change))


def test_predictions_are_what_values_are_made_of():
    batch = trajectories(6)
    actor = fitted("critic", batch, withheld=True)
    weights = actor._weights[batch.prompts]
    predicted = [actor.predict(batch.latents[:, level], level) for level in range(5)]
    expected = torch.stack([(outcomes * weights).sum(dim=1) for outcomes in predicted], dim=1)
    torch.testing.assert_close(actor.score(batch, 0).values, expected)


def test_the_gradients_of_qprop_are_taken_at_the_behaviour_means():
    batch = trajectories(6)
    means = torch.randn(6, 4, *tiny.SHAPE, generator=generator("means"))
    there = torch.cat([batch.latents[:, :1], means], dim=1)
    expected = fitted("pathwise", batch).score(dataclasses.replace(batch, latents=there), 0)
    found = fitted("qprop", batch).score(dataclasses.replace(batch, means=means), 0)
    assert torch.equal(found.action_gradients, expected.action_gradients)
    torch.testing.assert_close(found.values, fitted("critic", batch).score(batch, 0).values)
    # Whatever was drawn around them, they stay: the control variate must not know the action.
    other = dataclasses.replace(batch, means=means, latents=torch.randn_like(batch.latents))
    assert torch.equal(
        fitted("qprop", batch).score(other, 0).action_gradients, found.action_gradients
    )


@pytest.mark.parametrize("name", ["critic_no_t", "pathwise_no_t"])
def test_a_critic_without_t_does_not_depend_on_it(name):
    batch = trajectories(6)
    batch.latents[:] = batch.latents[:, :1]  # the same latents at all levels
    actor = fitted(name, batch)
    found = actor.score(batch, 0)
    valued = found.values[:, 1:3]
    assert torch.equal(valued, valued[:, :1].expand(-1, 2))
    if name == "pathwise_no_t":
        first = found.action_gradients[:, :1]
        assert torch.equal(found.action_gradients, first.expand(-1, 2, -1, -1, -1))
    seen = []
    actor._critic.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    actor.fit(states(actor, batch), 1)
    assert not torch.cat(seen).any(), "it was not told in training either"


def test_the_rewards_own_gradients_of_the_chosen_steps_are_passed_on():
    batch = trajectories(6)
    slopes = torch.randn(6, 4, *tiny.SHAPE)
    config = tiny.config(estimator={"name": "backprop"}, learner={"steps_share": 0.5})
    found = CriticActor(config).score(dataclasses.replace(batch, slopes=slopes), 3)
    assert found.values is None
    for row, steps in enumerate(found.steps.tolist()):
        assert torch.equal(found.action_gradients[row], slopes[row, steps])


@pytest.mark.parametrize("name", ["terminal", "group", "x0hat"])
def test_where_no_critic_is_needed_none_is_fitted_or_asked(name):
    batch = trajectories(6)
    actor = CriticActor(tiny.config(estimator={"name": name}))
    before = {key: value.clone() for key, value in actor._critic.state_dict().items()}
    actor._critic.register_forward_pre_hook(lambda *_: pytest.fail("the critic was asked"))
    assert actor.warm_up(batch, 0, 1) == actor.fit(states(actor, batch), 1) == {}
    predicted = torch.randn(6, 4) if name == "x0hat" else None
    rewarded = dataclasses.replace(batch, predicted=predicted, rewards=torch.arange(6.0))
    found = actor.score(rewarded, 0)
    assert found.action_gradients is None
    if predicted is None:
        assert found.values is None
    else:
        assert torch.equal(found.values[:, :4], predicted)
        assert torch.equal(found.values[:, 4], torch.arange(6.0))
    assert all(torch.equal(value, before[key]) for key, value in actor._critic.state_dict().items())


def test_the_same_latents_have_another_value_at_another_level_or_prompt():
    batch = trajectories(6)
    same = batch.latents[:1, :1].expand(6, 5, *tiny.SHAPE).clone()
    found = fitted("critic", batch).score(dataclasses.replace(batch, latents=same), 0).values
    assert len(found[0].unique()) == 5
    assert len(found[:, 0].unique()) == 6


def test_half_precision_latents_are_read_in_fp32():
    actor = CriticActor(tiny.config())
    batch = trajectories(3)
    half = dataclasses.replace(batch, latents=batch.latents.bfloat16())
    assert states(actor, half).latents.dtype == torch.bfloat16, "half the bytes are sent"
    actor.fit(states(actor, half), 0)
    assert actor.score(half, 0).values.dtype == torch.float32
