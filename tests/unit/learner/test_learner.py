"""The learner: an update changes the adapter and nothing else, holds the budget, and refuses to go
on blindly.
"""

import dataclasses
import itertools
import math

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401
from tiny_batches import collect, learn, scored

from learner import diagnostics
from learner.adapter_optimizer import MAX_SKIPPED
from learner.learner import Learner
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.advantages import PromptStatistics, gae, group_advantages, vtrace
from rl_unlearn.errors import ConfigError, TrainingError
from rl_unlearn.trajectory import Scored

pytestmark = pytest.mark.usefixtures("quick")


def ready(**changes) -> tuple[Learner, Scored]:
    config = tiny.config(**changes)
    learner = Learner(config)
    learned = learner.policy.kernel.learned
    return learner, scored(collect(config, learner), None, config.estimator, learned)


def test_an_update_changes_the_adapter_and_nothing_else():
    learner, batch = ready()
    before, base = learner.weights(), learner.base_digest()
    frozen = {
        n: p.clone() for n, p in learner.policy.network.named_parameters() if ".lora_" not in n
    }
    metrics = learn(learner, batch)
    after = learner.weights()
    assert (before.version, after.version, metrics["policy_version"]) == (0, 1, 1)
    assert before.digest != after.digest == digest(after.state)
    assert all(
        torch.equal(p, frozen[n])
        for n, p in learner.policy.network.named_parameters()
        if n in frozen
    )
    assert learner.base_digest() == base
    assert metrics["skipped_steps"] == 0
    assert metrics["grad_norm"] > 0
    learn(learner, batch)
    assert learner.weights().version == 2
    assert learner.weights().digest != after.digest
    assert digest(before.state) == before.digest, (
        "weights handed over must not change under the receiver"
    )


@pytest.mark.parametrize("name", tiny.ESTIMATORS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_every_estimator_runs(name, dtype):
    learner, batch = ready(estimator={"name": name}, model={"dtype": dtype})
    before = learner.weights().digest
    metrics = learn(learner, batch)
    assert learner.weights().digest != before
    assert metrics["skipped_steps"] == 0
    flat = {k: v for k, v in metrics.items() if k != "kl" and not isinstance(v, list | str)}
    assert all(math.isfinite(v) for v in flat.values()), flat
    for key in ("explained_variance", "critic_correlation"):
        assert len(metrics.get(key, [])) == (0 if name in ("terminal", "group", "backprop") else 5)


def along_gradients(name: str) -> bool:
    """Whether nothing but gradients by the actions says what an action is worth."""
    return name in ("pathwise", "pathwise_no_t", "backprop")


def slow_gradients(learner: Learner, batch: Scored) -> list[torch.Tensor]:
    """Of the mean loss of an update, one step of one trajectory at a time, with torch's own
    Gaussian.
    """
    config, policy, trajectory = learner._config, learner.policy, batch.trajectory
    estimator, clip, exponent = (
        config.estimator,
        config.learner.clip_range,
        config.estimator.ratio_exponent,
    )
    ratios, target = learner.gradient.log_ratios(trajectory), learner._target[trajectory.prompts]
    offsets = torch.zeros(len(trajectory), 4)
    if estimator.name == "terminal":
        known = PromptStatistics().advantages(
            trajectory.ids, trajectory.prompts, target, trajectory.rewards
        )
        worth = known[:, None].expand(-1, 4)
    elif estimator.name == "group":
        groups = torch.stack([trajectory.prompts, trajectory.rounds], dim=1)
        worth = group_advantages(groups, trajectory.rewards)[:, None].expand(-1, 4)
    elif estimator.name == "vtrace":
        worth = vtrace(
            batch.values, trajectory.rewards, (exponent * ratios).exp(), estimator.truncation
        )
    elif not along_gradients(estimator.name):
        worth = gae(batch.values, trajectory.rewards, estimator.gae_lambda)
    divisor = 1
    if estimator.name in ("critic", "critic_no_t", "vtrace", "x0hat", "qprop"):
        for n, k in itertools.product(range(len(worth)), range(4)):
            offsets[n, k] = sum(
                worth[m, k] for m in range(len(worth)) if target[m] == target[n]
            ) / sum(target == target[n])
        worth = worth - offsets
        divisor = worth.std(correction=0)
    losses = []
    for n in range(len(trajectory)):
        for k in policy.kernel.learned.tolist():
            state, action = trajectory.latents[n : n + 1, k], trajectory.latents[n : n + 1, k + 1]
            output = policy.predict(
                state, k, learner.gradient._conditions[trajectory.prompts[n : n + 1]]
            )
            mean = policy.kernel.mean(output, state, k)
            log_prob = (
                torch.distributions.Normal(mean, float(policy.kernel.std[k])).log_prob(action).sum()
            )
            ratio = float(log_prob.detach() - policy.dimensions * trajectory.log_probs[n, k])
            assert ratio == pytest.approx(float(ratios[n, k]), abs=1e-3)
            weight = math.exp(exponent * min(ratio, clip))
            gradient = (
                None
                if batch.action_gradients is None
                else batch.action_gradients[n : n + 1, batch.steps[n].tolist().index(k)]
            )
            if along_gradients(estimator.name):
                losses.append(-weight * (gradient * mean).sum())
                continue
            advantage, loss = worth[n, k] / divisor, 0.0
            if gradient is not None:
                gradient = gradient / divisor
                advantage = (
                    advantage
                    - estimator.nu * (gradient * (action - trajectory.means[n : n + 1, k])).sum()
                )
                loss = -estimator.nu * (gradient * mean).sum()
            if (advantage > 0 and ratio > clip) or (advantage < 0 and ratio < -clip):
                weight = 0.0
            losses.append(loss - weight * advantage * log_prob)
    return torch.autograd.grad(torch.stack(losses).mean(), learner._optimizer.parameters)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("name", tiny.ESTIMATORS)
def test_the_gradient_of_an_update_is_that_of_a_slow_loop(name, exponent):
    # Off-policy, with actions on both sides of the clip.
    learner, batch = ready(
        estimator={"name": name, "ratio_exponent": exponent, "nu": 0.7, "gae_lambda": 0.9},
        learner={"minibatches": 1, "max_grad_norm": 1e9, "clip_range": 1.0},
    )
    draws = torch.Generator().manual_seed(1)
    for parameter in learner._optimizer.parameters:
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=draws)
    expected = slow_gradients(learner, batch)
    learner._optimizer.adamw = torch.optim.SGD(learner._optimizer.parameters, lr=0.0)
    metrics = learn(learner, batch)
    assert 0.1 < metrics["clip_fraction"] < 0.9, "the test has lost its point"
    size = max(gradient.abs().max().item() for gradient in expected)
    for parameter, gradient in zip(learner._optimizer.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=2e-4 * size, rtol=2e-3)


def test_the_gradient_of_a_batch_is_what_an_update_would_follow():
    learner, batch = ready(
        estimator={"name": "critic"}, learner={"minibatches": 1, "max_grad_norm": 1e9}
    )
    before = learner.weights().digest
    gradient = learner.gradient.of(batch)
    assert learner.weights().digest == before
    learn(learner, batch)
    followed = torch.cat([p.grad.flatten() for p in learner._optimizer.parameters])
    torch.testing.assert_close(gradient, followed, atol=1e-6, rtol=1e-4)
    assert gradient.abs().max() > 1e-4


def test_qprop_without_its_control_variate_is_the_critic():
    digests = []
    for settings in ({"name": "qprop", "nu": 0.0}, {"name": "critic"}, {"name": "qprop"}):
        learner, batch = ready(estimator=settings)
        learn(learner, batch)
        digests.append(learner.weights().digest)
    assert digests[0] == digests[1] != digests[2]


def test_terminal_counts_a_replayed_batch_once():
    learner, batch = ready(estimator={"name": "terminal"})
    target = learner._target[batch.trajectory.prompts]
    first = learner.gradient.objective.advantages(batch, target, torch.empty(0).clone).values
    assert torch.equal(
        learner.gradient.objective.advantages(batch, target, torch.empty(0).clone).values, first
    )


def test_no_exponent_is_that_of_the_root():
    assert Learner(tiny.config()).gradient.objective.exponent == 1 / 256
    assert Learner(tiny.config(estimator={"ratio_exponent": 0.0})).gradient.objective.exponent == 0


@pytest.mark.parametrize("name", ["critic", "pathwise"])
def test_an_update_is_deterministic(name):
    digests = set()
    for _ in range(2):
        learner, batch = ready(estimator={"name": name})
        learner.make_pool(batch.trajectory)
        learn(learner, batch)
        digests.add(learner.weights().digest)
        torch.manual_seed(7)
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["critic", "qprop", "pathwise"])
def test_accumulation_gives_the_same_update(name):
    states = []
    for microbatch in (3, 64):
        learner, batch = ready(
            estimator={"name": name},
            learner={"microbatch": microbatch, "minibatches": 1, "kl_states": 10},
        )
        learner.make_pool(batch.trajectory)
        # AdamW's first step is the sign of the gradient: compare gradients, not steps.
        learner._optimizer.adamw = torch.optim.SGD(learner._optimizer.parameters, lr=1.0)
        metrics = learn(learner, batch)
        states.append((learner.weights().state, metrics["grad_norm"]))
    (one, norm), (other, other_norm) = states
    assert norm == pytest.approx(other_norm, rel=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-4)


def test_retained_states_and_actions_share_passes_and_their_gradients_add_up():
    learner, batch = ready(learner={"microbatch": 5, "minibatches": 1, "kl_states": 7})
    learn(learner, batch)  # away from the frozen model, so that there is a KL
    learner.make_pool(batch.trajectory)
    retained, scaler = learner._retention.draw(1, 0), torch.amp.GradScaler(enabled=False)
    (pairs,) = learner.gradient.minibatches(batch, 1)
    worth, parameters = learner.gradient.advantages(batch), learner.policy.parameters()
    rows = []

    def gradient(pairs, retained):
        learner._optimizer.clear()
        rows.clear()
        seen = learner.gradient.backward(batch, worth, pairs, retained, scaler)
        return seen, torch.cat([p.grad.flatten() for p in parameters])

    learner.policy.network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    both, together = gradient(pairs, retained)
    count = len(pairs) + len(retained)
    assert sum(rows) == count
    assert len(rows) == math.ceil(count / 5), "one pass at most is not full"
    assert set(rows[:-1]) == {5}
    acted, policy = gradient(pairs, None)
    kept, retention = gradient(pairs[:0], retained)
    assert retention.norm() > 0
    torch.testing.assert_close(together, policy + retention, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(both.losses, acted.losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(both.kl, kept.kl, rtol=1e-3, atol=1e-7)


def test_a_share_of_the_steps_is_learned_from():
    learner, batch = ready(learner={"steps_share": 0.34, "minibatches": 2})
    rows = torch.arange(len(batch.trajectory))[:, None]
    chosen = batch.steps[:, 1:2]
    some = dataclasses.replace(
        batch, steps=chosen, action_gradients=batch.action_gradients[rows, chosen]
    )
    parts = learner.gradient.minibatches(some, 0)
    pairs = torch.cat(parts)
    assert {tuple(pair) for pair in pairs.tolist()} == {(i, 1) for i in range(len(rows))}
    worth = learner.gradient.advantages(some).at(
        *pairs.unbind(dim=1), some.steps, torch.device("cpu")
    )
    assert torch.equal(worth.gradients, batch.action_gradients[pairs[:, 0], pairs[:, 1]])
    learn(learner, some)
    assert learner.weights().version == 1


def test_the_pool_is_no_larger_than_what_a_run_looks_at():
    config = tiny.config(learner={"kl_states": 1, "minibatches": 1}, loop={"rounds": 2})
    learner = Learner(config)
    assert learner.make_pool(collect(config, learner)) == 2


def test_minibatches_are_steps_of_their_own():
    one, batch = ready(learner={"minibatches": 1})
    learn(one, batch)
    four, batch = ready(learner={"minibatches": 4})
    metrics = learn(four, batch)
    assert one.weights().digest != four.weights().digest
    assert metrics["ratio_max"] > metrics["first_ratio_max"] == 1.0, (
        "later minibatches see the moved policy"
    )


def test_pathwise_updates_raise_the_value_they_follow():
    # The critic's gradient points everywhere along +1: the mean of the actions must rise, and fall
    # for -1.
    moved = []
    for sign in (1.0, -1.0):
        config = tiny.config(learner={"minibatches": 1, "lr": 1e-2})
        learner = Learner(config)
        trajectory = collect(config, learner)
        for _ in range(5):
            learn(learner, scored(trajectory, fill=sign))
        after = collect(config, learner)
        moved.append((after.latents[:, 1:3].mean() - trajectory.latents[:, 1:3].mean()).item())
    assert moved[0] > 1e-3
    assert moved[1] < -1e-3


def test_a_likelihood_ratio_update_makes_good_actions_more_likely():
    config = tiny.config(
        estimator={"name": "critic"}, learner={"minibatches": 1, "clip_range": 1e4, "lr": 3e-3}
    )
    learner = Learner(config)
    trajectory = collect(config, learner)
    good = torch.arange(len(trajectory)) % 2 == 0
    rewards = torch.where(good, 1.0, -1.0)
    learned = learner.policy.kernel.learned
    rewarded = dataclasses.replace(trajectory, rewards=rewards)
    batch = Scored(rewarded, learned.expand(8, -1), torch.zeros(len(rewards), 5), None)
    for _ in range(6):
        learn(learner, batch)
    ratios = learner.gradient.log_ratios(trajectory)[:, learner.policy.kernel.learned]
    assert ratios[good].mean() > ratios[~good].mean()


def test_the_pool_holds_learned_steps_of_retained_prompts_only():
    config = tiny.config()
    learner = Learner(config)
    trajectory = collect(config, learner)
    learned = learner.policy.kernel.learned
    retained = [
        i for i, p in enumerate(trajectory.prompts.tolist()) if p >= 2
    ]  # prompts 0 and 1 are the cats
    assert 0 < len(learned) < 4
    assert 0 < len(retained) < len(trajectory)
    assert learner.make_pool(trajectory) == len(retained) * len(learned)
    pool = learner._retention._pool
    assert pool is not None
    assert set(pool.prompts.tolist()) == {trajectory.prompts[i].item() for i in retained}
    assert set(pool.steps.tolist()) == set(learned.tolist())
    for row in range(len(pool.steps)):
        source = trajectory.latents[retained[row // len(learned)], pool.steps[row]]
        assert torch.equal(pool.latents[row], source)


def test_of_a_large_pool_a_choice_by_name_is_kept():
    config = tiny.config(learner={"pool": 5})
    learner, again = Learner(config), Learner(config)
    trajectory = collect(config, learner)
    assert learner.make_pool(trajectory) == again.make_pool(trajectory) == 5
    pool, other = learner._retention._pool, again._retention._pool
    assert pool is not None and other is not None  # noqa: PT018
    assert torch.equal(pool.latents, other.latents)
    assert torch.equal(pool.reference, other.reference)
    whole = Learner(tiny.config())
    whole.make_pool(trajectory)
    states = whole._retention._pool
    assert states is not None
    for row in range(5):
        same = (states.latents == pool.latents[row]).flatten(1).all(dim=1) & (
            states.steps == pool.steps[row]
        )
        (found,) = same.nonzero().flatten().tolist()
        assert states.prompts[found] == pool.prompts[row]
        torch.testing.assert_close(states.reference[found], pool.reference[row])


def test_the_reference_is_the_frozen_model_whenever_the_pool_is_made():
    learner, batch = ready(learner={"minibatches": 1})
    learn(learner, batch)
    learner.make_pool(batch.trajectory)
    assert learn(learner, batch)["kl"] > 1e-6


def test_no_retained_trajectory_is_no_pool():
    config = tiny.config()
    learner = Learner(config)
    trajectory = collect(config, learner)
    targets = torch.tensor([i for i, p in enumerate(trajectory.prompts.tolist()) if p < 2])
    assert learner.make_pool(trajectory[targets]) == 0
    assert math.isnan(learn(learner, scored(trajectory))["kl"])


def test_the_multiplier_rises_above_the_budget_and_falls_below():
    learner, batch = ready(
        learner={"kl_budget": 1e-9, "kl_rate": 0.5, "kl_weight": 0.1, "minibatches": 1}
    )
    learner.make_pool(batch.trajectory)
    first = learn(learner, batch)
    assert first["kl"] == pytest.approx(0, abs=1e-12), (
        "before the first step the policy is the frozen model"
    )
    assert first["kl_weight"] == pytest.approx(0.1 * math.exp(-0.5), rel=1e-5)
    second = learn(learner, batch)
    assert second["kl"] > 1e-9
    assert second["kl_weight"] == pytest.approx(0.1, rel=1e-5)
    generous, batch = ready(
        learner={"kl_budget": 1e9, "kl_rate": 0.5, "kl_weight": 0.1, "minibatches": 1}
    )
    generous.make_pool(batch.trajectory)
    weights = [learn(generous, batch)["kl_weight"] for _ in range(3)]
    assert weights == pytest.approx([0.1 * math.exp(-0.5 * n) for n in (1, 2, 3)], rel=1e-4)


def test_a_heavy_multiplier_keeps_the_policy_close():
    drift = []
    for weight in (0.0, 1e4):
        learner, batch = ready(learner={"kl_weight": weight, "kl_rate": 0.0, "lr": 1e-2})
        learner.make_pool(batch.trajectory)
        for _ in range(4):
            metrics = learn(learner, batch)
        drift.append(metrics["kl"])
    assert drift[1] < drift[0]


def anchored(**changes: float) -> tuple[Learner, Scored]:
    """A cat shall become a dog: prompts 0 and 1 ask for cats in two styles, 2 and 3 for dogs."""
    settings = {"anchor_weight": 256.0, "minibatches": 1, **changes}
    learner, batch = ready(reward={"anchor": "dog"}, learner=settings)
    return learner, batch


def test_an_anchors_states_are_asked_for_as_the_concept():
    learner, batch = anchored(anchor_states=1000)
    trajectory, learned = batch.trajectory, learner.policy.kernel.learned
    count = learner.make_pool(trajectory)
    dogs = [i for i, p in enumerate(trajectory.prompts.tolist()) if p in (2, 3)]
    held = learner._retention.draw(0, 0)
    assert len(held) - held.retained == len(dogs) * len(learned) > 0
    kept = int((trajectory.prompts >= 2).sum()) * len(learned)
    assert count == kept + len(dogs) * len(learned)
    assert held.weights[: held.retained].sum().item() == pytest.approx(1.0 + 1.0)
    assert held.weights[held.retained :].sum().item() == pytest.approx(1.0)
    conditions = learner.gradient._conditions
    for row in range(held.retained, len(held)):
        asked, step = int(held.prompts[row]), held.steps[row : row + 1]
        assert asked in (0, 1), "the concept's prompt of the same style"
        latents = held.latents[row : row + 1]
        with torch.no_grad(), learner.policy.adapter_enabled(False):
            output = learner.policy.predict(
                latents, step, conditions[held.prompts[row : row + 1] + 2]
            )
        mean = learner.policy.kernel.mean(output, latents, step)
        torch.testing.assert_close(held.reference[row], mean[0], atol=1e-5, rtol=1e-5)
    metrics = learn(learner, batch)
    assert metrics["anchor_kl"] > 0, "a concept is not its anchor"
    assert metrics["kl"] == pytest.approx(0, abs=1e-12), "of the retained states alone"


def test_a_concept_is_drawn_to_its_anchor_without_any_reward():
    found = []
    for weight in (1e-6, 256.0):
        learner, batch = anchored(anchor_weight=weight, lr=1e-2, anchor_states=1000)
        assert batch.action_gradients is not None
        silent = dataclasses.replace(batch, action_gradients=0 * batch.action_gradients)
        learner.make_pool(batch.trajectory)
        found.append([learn(learner, silent)["anchor_kl"] for _ in range(6)])
    assert found[0][0] == pytest.approx(found[1][0])
    assert found[1][-1] < 0.8 * found[1][0]
    assert found[1][-1] < 0.9 * found[0][-1]


def test_nothing_is_held_at_an_anchor_unless_it_is_asked_for():
    learner, batch = ready(reward={"anchor": "dog"}, learner={"minibatches": 1})
    learner.make_pool(batch.trajectory)
    held = learner._retention.draw(0, 0)
    assert held.retained == len(held)
    assert "anchor_kl" not in learn(learner, batch)


def poisoned(batch: Scored) -> Scored:
    assert batch.action_gradients is not None
    return dataclasses.replace(batch, action_gradients=batch.action_gradients * float("nan"))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_non_finite_gradients_are_skipped_and_then_fatal(dtype):
    learner, batch = ready(learner={"minibatches": 1}, model={"dtype": dtype})
    before = learner.weights().digest
    metrics = learn(learner, poisoned(batch))
    assert metrics["skipped_steps"] == 1
    assert learner.weights().digest == before
    assert learn(learner, batch)["skipped_steps"] == 0
    assert learner.weights().digest != before
    for _ in range(MAX_SKIPPED - 1):
        learn(learner, poisoned(batch))
    with pytest.raises(TrainingError, match="not finite"):
        learn(learner, poisoned(batch))


def test_rewards_and_rates_are_reported_by_kind_of_prompt():
    learner, batch = ready()
    trajectory = batch.trajectory
    target = trajectory.prompts < 2
    rewards = torch.where(target, 3.0, -1.0)
    evidence = torch.where(target, 0.25, 0.75)
    metrics = learn(
        learner, scored(dataclasses.replace(trajectory, rewards=rewards, evidence=evidence))
    )
    assert (metrics["reward"], metrics["retain_reward"]) == (3.0, -1.0)
    assert (metrics["forget_rate"], metrics["retain_rate"]) == (0.75, 0.75)


def test_a_batch_of_one_kind_only():
    learner, batch = ready()
    targets = (batch.trajectory.prompts < 2).nonzero().flatten()
    metrics = learn(learner, scored(batch.trajectory[targets]))
    assert "retain_reward" not in metrics
    assert "reward" in metrics


def test_more_minibatches_than_pairs():
    learner, batch = ready(learner={"minibatches": 50})
    metrics = learn(learner, scored(batch.trajectory[:1]))
    assert metrics["policy_version"] == 1


def test_a_sampler_too_quiet_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match=r"sampler\.eta"):
        Learner(tiny.config(sampler={"eta": 0.001}))


def test_trajectories_of_several_versions():
    learner, batch = ready()
    versions = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
    for _ in range(2):
        learn(learner, batch)
    metrics = learn(
        learner, scored(dataclasses.replace(batch.trajectory, policy_versions=versions))
    )
    assert metrics["policy_lag_max"] == 2
    assert metrics["policy_lag"] == pytest.approx((2 * 2 + 2 * 1) / 8)
    assert metrics["policy_lag_counts"] == [4, 2, 2]


@pytest.mark.parametrize("name", ["qprop", "x0hat"])
def test_the_batch_is_not_changed(name):
    learner, batch = ready(estimator={"name": name})
    before = {name: tensor.clone() for name, tensor in batch.trajectory.tensors().items()}
    learn(learner, batch)
    after = batch.trajectory.tensors()
    assert before.keys() == after.keys() >= {"means" if name == "qprop" else "predicted"}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_repeated_update_only_answers_again():
    learner, batch = ready()
    metrics = learn(learner, batch, 0)
    updated = learner.weights()
    assert learn(learner, batch, 0) == metrics
    assert learner.weights().digest == updated.digest == metrics["weights"]
    assert learner.weights().version == 1
    with pytest.raises(
        TrainingError, match="an update of policy version 5 reached a learner at version 1"
    ):
        learn(learner, batch, 5)


def test_a_round_of_one_update_is_that_update():
    learner, batch = ready()
    learner.make_pool(batch.trajectory)
    metrics = learn(learner, batch)
    assert diagnostics.of_round([metrics | {"weights": 0.0, "batch": 0.0}]) == metrics | {
        "weights": 0.0,
        "batch": 0.0,
    }


def test_a_round_of_several_updates_loses_nothing():
    first = {"lr": 0.1, "policy_version": 4, "skipped_steps": 2, "ratio_max": 3.0, "ratio_min": 0.5,
             "ess": 0.2,
             "policy_lag_counts": [3, 1], "explained_variance": [0.0, 1.0],
             "reward": -4.0}  # fmt: skip
    second = {"lr": 0.2, "policy_version": 5, "skipped_steps": 0, "ratio_max": 2.0,
              "ratio_min": 0.1, "ess": 0.6,
              "policy_lag_counts": [1, 1, 2], "explained_variance": [0.5, 0.5],
              "critic_loss": 7.0}  # fmt: skip
    assert diagnostics.of_round([first, second]) == {
        "lr": 0.2, "policy_version": 5, "skipped_steps": 2, "ratio_max": 3.0, "ratio_min": 0.1,
        "ess": pytest.approx(0.4), "policy_lag_counts": [4, 2, 2],
        "explained_variance": [0.25, 0.75],
        "reward": -4.0, "critic_loss": 7.0,
    }  # fmt: skip


def test_ratios_by_hand():
    # Of 256 dimensions; weights of the bare ratios 1, 2 and 4, clipped at 2.
    steps = [torch.tensor([0.0]), torch.tensor([2.0, 4.0]).log()]
    found = diagnostics.of_ratios(steps, dimensions=256, exponent=0.5, clip=math.log(2.0))
    assert found["ess_exact"] == pytest.approx(7**2 / (3 * 21))
    assert found["ess"] == pytest.approx((1 + 2 * math.sqrt(2)) ** 2 / (3 * 5))
    assert found["clip_fraction"] == pytest.approx(1 / 3)
    assert found["log_ratio_quantiles"][1] == pytest.approx(math.log(2.0))
    assert (found["first_ratio_min"], found["first_ratio_max"]) == (1.0, 1.0)
    assert found["ratio_max"] == pytest.approx(4 ** (1 / 256))


def test_the_critic_is_rated_level_by_level_on_target_prompts_alone():
    config = tiny.config()
    trajectory = collect(config, Learner(config))[:6]
    rewards, target = (
        torch.tensor([1.0, 2.0, 3.0, 4.0, 90.0, -90.0]),
        torch.tensor([True] * 4 + [False] * 2),
    )
    values = torch.stack([torch.zeros(6), rewards, -rewards, rewards + 7, rewards / 2], dim=1)
    values[4:] = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    trajectory = dataclasses.replace(
        trajectory, rewards=rewards, prompts=torch.tensor([0, 0, 1, 1, 2, 3])
    )
    steps = torch.zeros(6, 0, dtype=torch.int64)
    found = diagnostics.of_batch(Scored(trajectory, steps, values, None), target, 0)
    assert found["explained_variance"] == pytest.approx([0.0, 1.0, -3.0, 1.0, 0.75])
    assert found["critic_correlation"] == pytest.approx([0.0, 1.0, -1.0, 1.0, 1.0])
    values[:, 0] = torch.nan
    values[2:4, 4] = torch.nan
    found = diagnostics.of_batch(Scored(trajectory, steps, values, None), target, 0)
    assert found["explained_variance"][0] is None, "nobody asked for a value there"
    assert found["explained_variance"][1:] == pytest.approx([1.0, -3.0, 1.0, 0.75])
    assert found["critic_correlation"][4] == pytest.approx(1.0), "of those that have a value"
    assert (found["reward"], found["retain_reward"]) == (2.5, 0.0)
