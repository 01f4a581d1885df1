"""The floor of rounding: measured once, taken off both KLs, and refused where it is too high."""

import math
from typing import Any

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401
from tiny_batches import collect, learn, scored

from cluster import program
from experiments import settings
from experiments.__main__ import main
from learner import rounding
from learner.learner import Learner
from learner.rounding import Floor
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.trajectory import Trajectory

pytestmark = pytest.mark.usefixtures("quick")

HALF = ["fp16", "bf16"]


def rough(dtype: str, images: int = 8, guidance: float = 20.0, **learner: Any) -> Config:
    """A configuration whose rounding is as large as that of a real network: guidance stands for
    dimensions.
    """
    return tiny.config(
        model={"dtype": dtype},
        sampler={"guidance": guidance},
        rollout={"images": images, "batch": images},
        learner={"batch": images, "kl_budget": 3.0, "step_kl": 3.0, "clip_range": 5.0} | learner,
    )


def kept(config: Config) -> tuple[Learner, Trajectory]:
    learner = Learner(config)
    trajectory = collect(config, learner)
    learner.make_pool(trajectory)
    return learner, trajectory


def moved(learner: Learner, size: float, seed: int) -> None:
    """Changes the adapter by something of no consequence, in a direction of its own."""
    draws = torch.Generator().manual_seed(seed)
    state = learner.policy.adapter_state()
    for name in state:
        state[name] = state[name] + size * torch.randn(state[name].shape, generator=draws) * (
            ".lora_B." in name
        )
    learner.policy.load_adapter(state)


def test_in_fp32_it_is_zero_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the floor was measured")

    monkeypatch.setattr(rounding, "drawn_anew", never)
    learner, trajectory = kept(rough("fp32"))
    assert learner._floor.state() == [0.0] * 4
    metrics = learn(learner, scored(trajectory))
    assert metrics["kl_floor"] == 0.0
    ratio = torch.randn(8)
    assert torch.equal(ratio + learner._floor.at(torch.arange(8) % 4), ratio), (
        "what is steered by keeps its bits"
    )


@pytest.mark.parametrize("dtype", HALF)
def test_it_is_measured_and_leaves_no_trace(dtype: str) -> None:
    config = rough(dtype)
    learner = Learner(config)
    trajectory = collect(config, learner)
    before = learner.weights().digest
    learner.make_pool(trajectory)
    learned = learner.policy.kernel.learned.tolist()
    floor = learner._floor.state()
    assert [k for k in range(4) if floor[k] > 0] == learned
    assert learner.weights().digest == before
    learner.make_pool(trajectory)
    assert learner._floor.state() == floor, "the same states give the same floor"
    metrics = learn(learner, scored(trajectory))
    assert (metrics["first_ratio_min"], metrics["first_ratio_max"]) == (1.0, 1.0)
    assert metrics["kl_floor"] == pytest.approx(sum(floor) / len(learned))


def test_the_adapter_comes_back_where_the_measurement_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = rough("bf16")
    learner = Learner(config)
    trajectory, before = collect(config, learner), learner.weights().digest
    predict, digests = learner.policy.predict, []

    def fails_when_nudged(*asked: Any) -> Any:
        digests.append(digest(learner.policy.adapter_state()))
        if digests[-1] != before:
            raise ZeroDivisionError
        return predict(*asked)

    monkeypatch.setattr(learner.policy, "predict", fails_when_nudged)
    with pytest.raises(ZeroDivisionError):
        learner._floor.measure(trajectory, learner._ranks)
    assert digests[-1] != before == learner.weights().digest


@pytest.mark.parametrize("dtype", HALF)
def test_it_is_the_same_for_every_small_change(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, trajectory = kept(rough(dtype))
    known = learner._floor.mean
    for size in (1e-3, 6e-3):
        monkeypatch.setattr(rounding, "NUDGE", size)
        learner._floor.measure(trajectory, learner._ranks)
        assert learner._floor.mean == pytest.approx(known, rel=0.35), size
    monkeypatch.setattr(rounding, "NUDGE", 1e-6)  # rounded away itself
    learner._floor.measure(trajectory, learner._ranks)
    assert learner._floor.mean < known / 100


def test_log_ratios_of_stored_actions_hold_it_once_however_far_back_they_were_drawn() -> None:
    learner, trajectory = kept(rough("bf16", images=48))
    learned, floor = learner.policy.kernel.learned, learner._floor
    expected = floor.at(learned)
    for changes in range(1, 4):
        moved(learner, 1e-4, seed=changes)
        ratios = learner.gradient.log_ratios(trajectory)[:, learned]
        error = (2 * floor.mean / ratios.numel()) ** 0.5
        assert -ratios.mean().item() == pytest.approx(floor.mean, abs=3 * error), changes
        assert -ratios.mean().item() > 3 * error, "the test has lost its point"
        spread = ratios.var(dim=0) / 2  # of a Gaussian log-ratio it is the KL, too
        torch.testing.assert_close(spread, expected, rtol=0.5, atol=0.0)


def test_the_retention_kl_holds_it_once() -> None:
    learner, trajectory = kept(rough("bf16"))
    moved(learner, 1e-4, seed=1)
    batch = scored(trajectory)
    retained, nothing = learner._retention.draw(0, 0), torch.zeros(0, 2, dtype=torch.int64)
    worth, scaler = learner.gradient.advantages(batch), learner._optimizer.scaler
    seen = learner.gradient.backward(batch, worth, nothing, retained, scaler)

    def above() -> float | None:
        return learner._retention.above_floor(seen.kl, retained)

    floor = learner._floor.mean
    assert above() < 0.3 * floor
    learner._floor.load([0.0] * 4)
    assert above() == pytest.approx(floor, rel=0.3)
    learner._floor.load([10.0] * 4)
    assert above() == 0.0


def steered(dtype: str, without: bool = False) -> tuple[list[float], list[float]]:
    """Step sizes and multipliers of some updates on fresh batches; ``without``: nothing is taken
    off.
    """
    config = rough(
        dtype,
        24,
        lr=1e-2,
        lr_constant=1.0,
        lr_floor=1e-3,
        kl_rate=0.2,
        minibatches=2,
        kl_states=24,
        microbatch=64,
    )
    learner, _ = kept(config)
    if without:
        learner._floor.load([0.0] * 4)
    rows = [learn(learner, scored(collect(config, learner))) for _ in range(5)]
    return [row["lr"] for row in rows], [row["kl_weight"] for row in rows]


@pytest.mark.slow
def test_half_precision_is_steered_as_fp32_is() -> None:
    def apart(one: list[float], other: list[float]) -> float:
        return max(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))

    exact = steered("fp32")
    for dtype in HALF:
        found = steered(dtype)
        # Two turns of the step size's controller, and a fifth of the multiplier.
        assert apart(exact[0], found[0]) <= 2 * math.log(1.5) + 1e-6, dtype
        assert apart(exact[1], found[1]) <= math.log(1.2), dtype
    blind = steered("bf16", without=True)
    assert apart(exact[0], blind[0]) > 3 * math.log(1.5), "the test has lost its point"
    assert apart(exact[1], blind[1]) > math.log(1.5), "the test has lost its point"


# -- budgets ---------------------------------------------------------------------------------------


def floor_of(
    k0: float,
    guidance: float = 5.0,
    estimator: str = "pathwise",
    dtype: str = "bf16",
    **learner: Any,
) -> Floor:
    config = tiny.config(
        model={"dtype": dtype},
        sampler={"guidance": guidance},
        estimator={"name": estimator},
        learner=learner,
    )
    found = Learner(config)._floor
    found.load([k0] * 4)
    return found


def test_budgets_of_three_floors_are_taken() -> None:
    floor_of(0.16, kl_budget=0.5, step_kl=0.5, clip_range=1.0, estimator="critic").check(
        retains=True
    )


@pytest.mark.parametrize(
    ("k0", "learner", "told"),
    [
        (0.199, {}, r"^learner\.kl_budget=0\.5 cannot be held: in bf16 rounding alone moves a "
                    r"step by 0\.2 nats.*"
                  r"model\.dtype=fp16 or fp32, a sampler\.guidance below 5, or "
                  r"learner\.kl_budget=0\.6$"),
        (8.0, {"kl_budget": 100.0}, r"^learner\.step_kl=1\.33 cannot.*by 8 nats.*, or "
                                    r"learner\.step_kl=24$"),
        (8.06, {}, r"^learner\.kl_budget=0\.5 and learner\.step_kl=1\.33 cannot.*"
                   r"or learner\.kl_budget=25 learner\.step_kl=25$"),
        (math.nan, {}, r"^learner\.kl_budget=0\.5 and learner\.step_kl=1\.33 cannot"),
    ],
)  # fmt: skip
def test_a_budget_below_three_floors_is_refused(
    k0: float, learner: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        floor_of(k0, **learner).check(retains=True)


def test_the_remedies_are_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"use model\.dtype=fp32, or learner\.kl_budget=0\.9$"):
        floor_of(0.299, guidance=1.0, dtype="fp16").check(retains=True)


@pytest.mark.parametrize("name", ["critic", "qprop", "terminal"])
def test_a_clip_that_rounding_alone_reaches_is_refused_where_it_counts(name: str) -> None:
    budgets = {"kl_budget": 9.0, "step_kl": 9.0, "clip_range": 1.6}
    with pytest.raises(
        ConfigError, match=r"^learner\.clip_range=1\.6 cannot.*or learner\.clip_range=1\.8$"
    ):
        floor_of(0.5, estimator=name, **budgets).check(retains=True)
    floor_of(0.5, estimator="pathwise", **budgets).check(retains=True)  # weights of the root are 1


def test_what_steers_nothing_is_not_refused() -> None:
    floor_of(8.0, kl_rate=0.0, lr_floor=1.0).check(retains=True)
    floor_of(8.0, lr_floor=1.0).check(retains=False)


def test_a_run_is_refused_after_its_warm_up_and_before_it_learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was learned")

    monkeypatch.setattr(Learner, "update", never)
    events: list[tuple[str, dict[str, Any]]] = []
    with pytest.raises(
        ConfigError, match=r"^learner\.kl_budget=0\.05 cannot be held: in bf16 rounding alone"
    ):
        program.train(rough("bf16", kl_budget=0.05), tiny.into(events))
    assert "warm-up" not in [name for name, _ in events], "the run has not begun"


def test_the_command_ends_in_one_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        settings.dump(rough("bf16", kl_budget=0.05).model_copy(update={"output": str(tmp_path)}))
    )
    assert (
        main(["train", "--config", str(file), "--inline", "--no-evaluate", "--name", "mine"]) == 2
    )
    told = " ".join(capsys.readouterr().err.split())
    assert "learner.kl_budget=0.05 cannot be held" in told
    assert "model.dtype=fp16 or fp32" in told


def test_a_learner_that_goes_on_does_not_measure_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = rough("bf16")
    learner, trajectory = kept(config)
    learn(learner, scored(trajectory))
    taken, other = learner.snapshot(), Learner(config)

    def never(*_: object) -> None:
        raise AssertionError("the floor was measured")

    monkeypatch.setattr(rounding, "drawn_anew", never)
    other.restore(taken, trajectory)
    assert other._floor.state() == learner._floor.state()
    assert other._floor.mean > 0
    assert learn(other, scored(trajectory)) == learn(learner, scored(trajectory))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_a_whole_run_trains(dtype: str) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    result = program.train(rough(dtype, guidance=5.0), tiny.into(events))
    rounds = [row for name, row in events if name == "round"]
    assert result.updates == 3
    assert len(set(tiny.versions(events))) == 3
    assert all(row["skipped_steps"] == 0 for row in rounds)
    assert all(math.isfinite(row["kl"]) for row in rounds)
    assert {row["kl_floor"] for row in rounds} == {rounds[0]["kl_floor"]}
    assert rounds[0]["kl_floor"] > 0
