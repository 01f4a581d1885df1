"""Advantage estimators against slow loops, RLlib, and a policy gradient that is known exactly."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.impala.torch.vtrace_torch_v2 import vtrace_torch

from rl_unlearn.advantages import (
    PromptStatistics,
    centred,
    gae,
    group_advantages,
    scale,
    standardised,
    vtrace,
)
from rl_unlearn.losses import (
    control_variate,
    importance_weight,
    likelihood_ratio_loss,
    pathwise_loss,
)

BATCH, STEPS = 6, 7


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values (with the unused one of the final state), rewards, and ratios around 1."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(BATCH, STEPS + 1, generator=generator, dtype=torch.float64)
    rewards = torch.randn(BATCH, generator=generator, dtype=torch.float64)
    log_ratios = torch.randn(BATCH, STEPS, generator=generator, dtype=torch.float64)
    return values, rewards, log_ratios.exp()


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_the_discounted_sum_of_temporal_differences(lam):
    values, rewards, _ = sample()
    expected = torch.zeros(BATCH, STEPS, dtype=torch.float64)
    for n in range(BATCH):
        for k in range(STEPS):
            for m in range(k, STEPS):
                after = values[n, m + 1] if m + 1 < STEPS else rewards[n]
                expected[n, k] += lam ** (m - k) * (after - values[n, m])
    torch.testing.assert_close(gae(values, rewards, lam), expected)


def test_gae_by_hand():
    values, rewards = torch.tensor([[1.0, 3.0, 2.0, 99.0]]), torch.tensor([5.0])
    torch.testing.assert_close(gae(values, rewards, 0.0), torch.tensor([[2.0, -1.0, 3.0]]))
    torch.testing.assert_close(gae(values, rewards, 1.0), torch.tensor([[4.0, 2.0, 3.0]]))
    torch.testing.assert_close(
        gae(values, rewards, 0.5), torch.tensor([[2 - 0.5 + 0.75, -1 + 1.5, 3.0]])
    )


def test_the_value_of_the_final_state_plays_no_part():
    values, rewards, ratios = sample()
    other = values.clone()
    other[:, -1] = 1e6
    assert torch.equal(gae(values, rewards, 0.9), gae(other, rewards, 0.9))
    assert torch.equal(vtrace(values, rewards, ratios, 1.0), vtrace(other, rewards, ratios, 1.0))


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_gae_of_one_trace_is_that_of_its_halves(lam):
    # The first half ends where the second begins: its "reward" is V there, plus what lambda lets
    # through.
    values, rewards, _ = sample()
    cut = 3
    whole = gae(values, rewards, lam)
    tail = gae(values[:, cut:], rewards, lam)
    torch.testing.assert_close(whole[:, cut:], tail)
    head = gae(values[:, : cut + 1], values[:, cut] + lam * tail[:, 0], lam)
    torch.testing.assert_close(whole[:, :cut], head)


def slow_vtrace(values, rewards, ratios, bar):
    """Espeholt et al. 2018, eq. 1, close to the notation of the paper; gamma = 1, x_T terminal with
    V = 0.

    Without the policy gradient's factor rho_s, which is the loss's.
    """
    advantages = np.zeros(ratios.shape)
    for n in range(ratios.shape[0]):
        V = [*values[n, :-1], 0.0]
        T = ratios.shape[1]
        r = [0.0] * (T - 1) + [rewards[n]]
        rho = [min(bar, w) for w in ratios[n]]
        c = [min(bar, w) for w in ratios[n]]
        v = [
            V[s]
            + sum(
                math.prod(c[i] for i in range(s, t)) * rho[t] * (r[t] + V[t + 1] - V[t])
                for t in range(s, T)
            )
            for s in range(T)
        ] + [0.0]
        for s in range(T):
            advantages[n, s] = r[s] + v[s + 1] - V[s]
    return advantages


@pytest.mark.parametrize("truncation", [0.7, 1.0, 1.5, 100.0])
def test_vtrace_is_that_of_the_paper(truncation):
    values, rewards, ratios = sample()
    expected = slow_vtrace(values.numpy(), rewards.numpy(), ratios.numpy(), truncation)
    np.testing.assert_allclose(
        vtrace(values, rewards, ratios, truncation).numpy(), expected, rtol=1e-12
    )


def test_vtrace_is_that_of_rllib():
    # RLlib truncates c at 1 always: comparable where rho is truncated there, too.
    values, rewards, ratios = sample()
    discounts = torch.ones(STEPS, BATCH, dtype=torch.float64)
    discounts[-1] = 0
    all_rewards = torch.zeros(STEPS, BATCH, dtype=torch.float64)
    all_rewards[-1] = rewards
    _, expected = vtrace_torch(
        target_action_log_probs=ratios.log().T,
        behaviour_action_log_probs=torch.zeros(STEPS, BATCH, dtype=torch.float64),
        discounts=discounts,
        rewards=all_rewards,
        values=values[:, :-1].T,
        bootstrap_values=torch.zeros(BATCH, dtype=torch.float64),
    )
    # Its policy-gradient advantages carry the factor rho, which ours leave to the loss.
    rho = ratios.clamp(max=1)
    torch.testing.assert_close(rho * vtrace(values, rewards, ratios, 1.0), expected.T)


def test_vtrace_on_policy_is_gae_with_lambda_one():
    values, rewards, ratios = sample()
    torch.testing.assert_close(
        vtrace(values, rewards, torch.ones_like(ratios), 1.0), gae(values, rewards, 1.0)
    )


def test_standardised_divides_and_does_not_shift():
    advantages = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    torch.testing.assert_close(standardised(advantages), advantages / math.sqrt(5.0))
    assert torch.isfinite(standardised(torch.ones(2, 2))).all()


def test_scale_is_what_standardised_divides_by():
    advantages = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    assert scale(advantages) == pytest.approx(math.sqrt(5.0))
    assert torch.equal(standardised(advantages) * scale(advantages), advantages)


def test_group_advantages_are_those_of_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(3, (40, 2), generator=generator)
    rewards = torch.randn(40, generator=generator, dtype=torch.float64) + 5 * groups[:, 0]
    differences = []
    for n in range(40):
        own = [rewards[m] for m in range(40) if groups[m].tolist() == groups[n].tolist()]
        differences.append(float(rewards[n]) - float(sum(own)) / len(own))
    expected = np.array(differences) / np.std(differences)
    np.testing.assert_allclose(group_advantages(groups, rewards).numpy(), expected, rtol=1e-5)


def test_groups_are_of_one_prompt_and_one_round():
    rewards = torch.tensor([1.0, 3.0, 10.0, 30.0, 7.0])
    same_prompt = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 2], [1, 2]])
    expected = torch.tensor([-1.0, 1.0, -10.0, 10.0, 0.0]) / math.sqrt(202 / 5)
    torch.testing.assert_close(group_advantages(same_prompt, rewards), expected)
    assert not group_advantages(torch.arange(10).reshape(5, 2), rewards).any(), "alone in its group"


def test_centred_is_a_mean_for_each_step_and_each_kind_of_prompt():
    advantages = torch.tensor([[1.0, 10.0], [-4.0, 0.0], [3.0, 30.0], [-6.0, 4.0], [5.0, 20.0]])
    target = torch.tensor([True, False, True, False, True])
    expected = torch.tensor([[-2.0, -10.0], [1.0, -2.0], [0.0, 10.0], [-1.0, 2.0], [2.0, 0.0]])
    torch.testing.assert_close(centred(advantages, target), expected)
    assert advantages[0, 0] == 1, "what is given stays as it is"
    torch.testing.assert_close(
        centred(advantages[::2], target[::2]), expected[::2]
    )  # one kind is missing


ALL, NONE = torch.ones(10, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)


def test_prompt_statistics_by_hand():
    statistics = PromptStatistics(length=4, minimum=2)
    target = torch.tensor([True, True, True, False, False])
    first = statistics.advantages(
        torch.arange(5),
        torch.tensor([0, 1, 1, 2, 3]),
        target,
        torch.tensor([1.0, 2.0, 6.0, -70.0, -90.0]),
    )
    # Prompt 0 has one reward: all three of its kind (mean 3, variance 14/3). Prompt 1: mean 4, std
    # 2. Prompts 2 and 3 do not ask for the concept: mean -80, std 10.
    expected = torch.tensor([(1 - 3) / math.sqrt(14 / 3), -1.0, 1.0, 1.0, -1.0])
    torch.testing.assert_close(first, expected, atol=2e-4, rtol=0)
    second = statistics.advantages(
        torch.tensor([7]), torch.tensor([0]), ALL[:1], torch.tensor([5.0])
    )
    torch.testing.assert_close(second, torch.tensor([1.0]), atol=2e-4, rtol=0)  # prompt 0: {1, 5}


def test_prompt_statistics_count_a_replayed_trajectory_once():
    statistics = PromptStatistics(minimum=2)
    prompts, rewards = torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 3.0])
    first = statistics.advantages(torch.tensor([7, 8]), prompts, ALL[:2], rewards)
    for _ in range(5):
        statistics.advantages(torch.tensor([8]), prompts[:1], ALL[:1], rewards[1:])
    assert torch.equal(
        statistics.advantages(torch.tensor([7, 8]), prompts, ALL[:2], rewards), first
    )
    torch.testing.assert_close(first, torch.tensor([-1.0, 1.0]), atol=2e-4, rtol=0)


def test_prompt_statistics_forget_what_is_old():
    statistics, prompts = PromptStatistics(length=3, minimum=2), torch.zeros(3, dtype=torch.int64)
    statistics.advantages(torch.arange(3), prompts, ALL[:3], torch.full((3,), 1000.0))
    after = statistics.advantages(
        torch.arange(3, 6), prompts, ALL[:3], torch.tensor([1.0, 2.0, 3.0])
    )
    torch.testing.assert_close(
        after, torch.tensor([-1.0, 0.0, 1.0]) / math.sqrt(2 / 3), atol=2e-4, rtol=0
    )


def test_prompt_statistics_of_equal_rewards_are_zero():
    prompts = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(
        PromptStatistics(minimum=2).advantages(
            torch.arange(4), prompts, NONE[:4], torch.full((4,), 2.5)
        ),
        torch.zeros(4),
    )


def test_restored_prompt_statistics_are_those_that_were_kept():
    first, other = PromptStatistics(length=3, minimum=2), PromptStatistics(length=3, minimum=2)
    rewards = torch.tensor([1.0, 4.0, 9.0])
    first.advantages(torch.arange(3), torch.zeros(3, dtype=torch.int64), ALL[:3], rewards)
    other.advantages(torch.arange(5, 8), torch.arange(3), NONE[:3], -rewards)  # of another life
    other.load(json.loads(json.dumps(first.state())))
    assert other.state() == first.state()
    new = torch.arange(9, 11), torch.tensor([0, 5]), ALL[:2], torch.tensor([2.0, 3.0])
    assert torch.equal(other.advantages(*new), first.advantages(*new))


class Chain:
    """x_{k+1} = A x_k + theta + std_k * noise in two dimensions, reward -|x_T - goal|^2 / 2: all
    values are known.

    E[x_T] = A^T x_0 + S theta, S = sum of A^j for j < T; grad_theta J = -S^T (E[x_T] - goal).
    """

    steps, std = 3, torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
    transition = torch.tensor([[0.9, 0.2], [-0.1, 0.7]], dtype=torch.float64)
    start = torch.tensor([1.0, -0.5], dtype=torch.float64)
    goal = torch.tensor([0.3, 0.8], dtype=torch.float64)

    def mean(self, states: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return states @ self.transition.T + theta

    def power(self, n: int) -> torch.Tensor:
        return torch.linalg.matrix_power(self.transition, n)

    def drift(self, left: int) -> torch.Tensor:
        return sum((self.power(j) for j in range(left)), torch.zeros(2, 2, dtype=torch.float64))

    def expected_end(self, states: torch.Tensor, left: int, theta: torch.Tensor) -> torch.Tensor:
        return states @ self.power(left).T + self.drift(left) @ theta

    def spread(self, left: int) -> float:
        """Trace of the covariance of x_T seen from ``left`` steps before."""
        return sum(
            float(self.std[self.steps - 1 - j] ** 2 * (self.power(j) @ self.power(j).T).trace())
            for j in range(left)
        )

    def value(self, states: torch.Tensor, k: int, theta: torch.Tensor) -> torch.Tensor:
        left = self.steps - k
        off = self.expected_end(states, left, theta) - self.goal
        return -0.5 * (off.square().sum(dim=1) + self.spread(left))

    def gradient(self, theta: torch.Tensor) -> torch.Tensor:
        end = self.expected_end(self.start[None], self.steps, theta)[0]
        return -self.drift(self.steps).T @ (end - self.goal)

    def log_probs(
        self, actions: torch.Tensor, states: torch.Tensor, k: int, theta: torch.Tensor
    ) -> torch.Tensor:
        """Joint over the two dimensions: D = 1 in the product's per-dimension units."""
        return -(actions - self.mean(states, theta)).square().sum(dim=1) / (2 * self.std[k] ** 2)

    def rollout(self, theta: torch.Tensor, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        states = [self.start.expand(count, 2)]
        for k in range(self.steps):
            noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
            states.append(self.mean(states[-1], theta) + self.std[k] * noise)
        return torch.stack(states, dim=1)

    def exact_gradient(self, at: torch.Tensor, level: int) -> torch.Tensor:
        """grad V of a perfect critic of the policy THETA."""
        at = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.value(at, level, THETA).sum(), at)
        return gradient

    def wrong_gradient(self, at: torch.Tensor, level: int) -> torch.Tensor:
        """That of a bad critic: twice as large, and a noise that depends on where it is asked."""
        return 2 * self.exact_gradient(at, level) + 3 * torch.sin(2 * at + 1)


class OneStep(Chain):
    """A chain of one action: whoever acts, the state is the same, and only the action is
    off-policy.
    """

    steps, std = 1, torch.tensor([0.8], dtype=torch.float64)


def standard_errors(samples: torch.Tensor, truth: torch.Tensor) -> float:
    """How many of them the mean is away from the truth, in the worse of the two coordinates."""
    return (
        ((samples.mean(dim=0) - truth) / (samples.std(dim=0) / math.sqrt(len(samples))))
        .abs()
        .max()
        .item()
    )


COUNT = 40_000
GROUP = 4
THETA = torch.tensor([0.1, -0.2], dtype=torch.float64)
ELSEWHERE = torch.tensor([0.35, -0.5], dtype=torch.float64)


def gradients(
    name: str,
    chain: Chain,
    *,
    nu: float = 1.0,
    critic: str = "exact",
    wrong_values: bool = False,
    offset: float = 0.0,
    centre: bool = False,
    at: str = "mean",
    behaviour: torch.Tensor = THETA,
    exponent: float = 1.0,
    shift: int = 0,
) -> torch.Tensor:
    """Single-trajectory policy gradients at THETA by one estimator, put together as the learner
    does (no scaling).

    ``critic``: whose gradients are taken. ``at``: where qprop's critic gradient is taken.
    ``shift``: of the levels whose values the critic gives, ``wrong_values``: another function of
    them, ``offset``: is added to them. ``centre``: whether advantages are centred.
    """
    states = chain.rollout(behaviour, COUNT)
    rewards = chain.value(states[:, -1], chain.steps, THETA)
    levels = range(chain.steps + 1)
    values = torch.stack(
        [chain.value(states[:, k], min(k + shift, chain.steps), THETA) for k in levels], dim=1
    )
    if wrong_values:
        values = values.sin() - 3
    values = values + offset
    slope = chain.exact_gradient if critic == "exact" else chain.wrong_gradient
    ones = torch.ones(COUNT, chain.steps, dtype=torch.float64)
    # Each sample gets its own copy of theta: one backward pass gives all single gradients.
    theta = THETA.expand(COUNT, 2).clone().requires_grad_()
    total = torch.zeros(COUNT, dtype=torch.float64)
    if name == "group":
        groups = torch.stack(
            [torch.arange(COUNT) // GROUP, torch.ones(COUNT, dtype=torch.int64)], dim=1
        )
        means = rewards.reshape(-1, GROUP).mean(dim=1).repeat_interleave(GROUP)
        advantages = group_advantages(groups, rewards)[:, None] * scale(rewards - means) * ones
    elif name.startswith("terminal"):
        baseline = chain.value(chain.start[None], 0, THETA) if name == "terminal, baseline" else 0.0
        advantages = (rewards - baseline)[:, None] * ones
    elif name == "vtrace":
        log_ratios = [
            chain.log_probs(states[:, k + 1], states[:, k], k, THETA)
            - chain.log_probs(states[:, k + 1], states[:, k], k, behaviour)
            for k in range(chain.steps)
        ]
        advantages = vtrace(values, rewards, torch.stack(log_ratios, dim=1).exp(), 1e9)
    else:
        advantages = gae(values, rewards, float(name.split()[1]) if " " in name else 1.0)
    if centre:
        advantages = centred(advantages, torch.ones(COUNT, dtype=torch.bool))
    for k in range(chain.steps):
        state, action, worth = states[:, k], states[:, k + 1], advantages[:, k]
        log_prob = chain.log_probs(action, state, k, theta)
        log_ratio = log_prob.detach() - chain.log_probs(action, state, k, behaviour)
        mean, acted_around = chain.mean(state, theta), chain.mean(state, behaviour)
        if name == "pathwise":
            total = total + pathwise_loss(
                mean, slope(action, k + 1), importance_weight(log_ratio, exponent, 1e9)
            )
            continue
        if name == "qprop":
            gradient = slope(acted_around if at == "mean" else action, k + 1)
            worth = worth - nu * control_variate(action - acted_around, gradient)
            total = total + nu * pathwise_loss(mean, gradient)
        total = total + likelihood_ratio_loss(log_prob, log_ratio, worth, exponent, 1e9)
    (found,) = torch.autograd.grad(total.sum(), theta)
    return -found


UNBIASED = {
    "terminal": {},
    "terminal, baseline": {},
    "critic 0": {},
    "critic 0.5": {},
    "critic 1": {},
    "critic 1, wrong values": {"wrong_values": True},
    "critic 1, values too low": {"offset": -5.0},
    "critic 1, values too low, centred": {"offset": -5.0, "centre": True},
    "vtrace": {},
    "qprop, nu=0": {"nu": 0.0},
    "qprop, nu=0.5": {"nu": 0.5},
    "qprop, nu=1": {"nu": 1.0},
    "qprop, nu=0.5, wrong critic": {"nu": 0.5, "critic": "wrong"},
    "qprop, nu=1, wrong critic": {"nu": 1.0, "critic": "wrong"},
    "pathwise": {},
}


def by_label(label: str, chain: Chain, **settings) -> torch.Tensor:
    name = label if label.startswith("terminal") else label.split(",")[0]
    return gradients(name, chain, **UNBIASED.get(label, {}), **settings)


@pytest.mark.parametrize("label", UNBIASED)
def test_the_gradient_is_unbiased(label):
    chain = Chain()
    assert standard_errors(by_label(label, chain), chain.gradient(THETA)) < 4


def test_a_group_with_its_own_mean_as_baseline_finds_a_smaller_gradient():
    # An image's reward is part of its group's mean: of the gradient (n - 1) / n is left, its
    # direction is right.
    chain = Chain()
    groups = (
        by_label("group", chain).reshape(-1, GROUP, 2).mean(dim=1)
    )  # members of a group depend on each other
    assert standard_errors(groups, (GROUP - 1) / GROUP * chain.gradient(THETA)) < 4
    assert standard_errors(groups, chain.gradient(THETA)) > 8


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("critic 0", {"shift": 1}),
        ("critic 0", {"wrong_values": True}),
        ("pathwise", {"critic": "wrong"}),
        ("qprop", {"critic": "wrong", "at": "action"}),
    ],
    ids=[
        "a critic one level off",
        "wrong values that are all there is",
        "the path through a wrong critic",
        "a control variate that knows the action",
    ],
)
def test_what_is_biased_would_show(name, settings):
    # The power of the test above. Only a gradient taken at the mean is a function of the state
    # alone.
    chain = Chain()
    assert standard_errors(gradients(name, chain, **settings), chain.gradient(THETA)) > 8


@pytest.mark.parametrize(
    "settings",
    [{"name": "terminal"}, {"name": "critic"}, {"name": "vtrace"}, {"name": "pathwise"},
     {"name": "qprop"},
     {"name": "qprop", "critic": "wrong"}],
    ids=lambda settings: " ".join(settings.values()),
)  # fmt: skip
def test_exact_weights_make_another_policys_actions_unbiased(settings):
    chain = OneStep()
    truth = chain.gradient(THETA)
    assert (
        standard_errors(
            gradients(**settings, chain=chain, behaviour=ELSEWHERE, exponent=1.0), truth
        )
        < 4
    )
    assert (
        standard_errors(
            gradients(**settings, chain=chain, behaviour=ELSEWHERE, exponent=0.0), truth
        )
        > 8
    )


def test_vtrace_values_the_policy_it_learns_for_whoever_acted():
    # Without truncation and whatever the values, E_mu[rho_0 (r_0 + v_1)] is V of the target policy.
    chain = Chain()
    near = THETA + 0.1
    states = chain.rollout(near, COUNT)
    rewards = chain.value(states[:, -1], chain.steps, THETA)
    log_ratios = [
        chain.log_probs(states[:, k + 1], states[:, k], k, THETA)
        - chain.log_probs(states[:, k + 1], states[:, k], k, near)
        for k in range(chain.steps)
    ]
    ratios = torch.stack(log_ratios, dim=1).exp()
    values = torch.zeros(COUNT, chain.steps + 1, dtype=torch.float64)
    found = ratios[:, :1] * vtrace(values, rewards, ratios, 1e9)[:, :1]
    expected = chain.value(chain.start[None], 0, THETA)
    assert standard_errors(found, expected) < 4
    assert standard_errors(rewards[:, None], expected) > 8, (
        "the acting policy is worth something else"
    )


def test_the_variance_of_the_estimators():
    """Of one trajectory's gradient, as the trace of the covariance; `pytest -s` shows the table."""
    chain = Chain()
    labels = [*UNBIASED, "group"]
    variance = {label: by_label(label, chain).var(dim=0).sum().item() for label in labels}
    print(f"\nexact gradient {chain.gradient(THETA).tolist()}, {COUNT} trajectories")  # noqa: T201
    for label in sorted(labels, key=variance.__getitem__, reverse=True):
        print(f"{label:30} {variance[label]:9.2f}")  # noqa: T201
    assert variance["qprop, nu=0"] == pytest.approx(variance["critic 1"])
    assert variance["vtrace"] == pytest.approx(variance["critic 1"])
    order = ["pathwise", "qprop, nu=1", "qprop, nu=0.5", "critic 1", "terminal"]
    for lower, higher in itertools.pairwise(order):
        assert variance[lower] < 0.95 * variance[higher], (lower, higher)
    assert variance["terminal, baseline"] < variance["terminal"]
    # What all values are wrong by is noise, and centring takes all of it away.
    assert variance["critic 1, values too low"] > 2 * variance["critic 1"]
    assert variance["critic 1, values too low, centred"] == pytest.approx(
        variance["critic 1"], rel=0.05
    )
