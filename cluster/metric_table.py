"""The metrics that a run publishes: one table, which the Prometheus rules and the Grafana board are
tested against.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_"
"""Ray puts it before every name."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    ``kind`` says what a value means: as it is, the total so far, how many more, or one of many.
    """

    name: str
    event: str
    """The event that brings it: one of the run's, or `start`, `any`, `progress` (see
    telemetry.PROGRESS)."""
    key: str
    """Field of the event's row; `replay.held` is the field of a field."""
    description: str
    kind: Literal["gauge", "total", "more", "histogram"] = "gauge"
    tag: str | None = None
    """Beside the run's name, the tag that tells apart the values of a field that holds several."""


METRICS = (
    Metric("rl_unlearn_running", "start", "running", "1 while the run trains"),
    Metric("rl_unlearn_kl_budget_nats_per_step", "start", "kl_budget", "learner.kl_budget"),
    Metric("rl_unlearn_policy_lag_limit_updates", "start", "max_lag", "replay.max_lag"),
    Metric("rl_unlearn_output_free_bytes", "any", "free", "free space where the run folder is"),
    Metric("rl_unlearn_progress_timestamp_seconds", "progress", "now",
            "Unix time of the last phase or update"),
    Metric("rl_unlearn_warnings_total", "warning", "one", "warnings", "more"),
    Metric("rl_unlearn_restarts_total", "restart", "one", "times that the actors were made anew",
            "more"),
    Metric("rl_unlearn_nonfinite_values_total", "round", "nonfinite", "values that are not finite",
            "more", "value"),
    Metric("rl_unlearn_rounds", "round", "round", "rounds done"),
    Metric("rl_unlearn_rounds_wanted", "round", "rounds", "rounds of the whole run"),
    Metric("rl_unlearn_round_seconds", "round", "took", "time of a round", "histogram"),
    Metric("rl_unlearn_images_total", "round", "images", "images drawn", "total"),
    Metric("rl_unlearn_updates_total", "round", "policy_version", "policy updates", "total"),
    Metric("rl_unlearn_skipped_steps_total", "round", "skipped_steps",
            "steps without a finite gradient", "more"),
    Metric("rl_unlearn_reward", "round", "reward", "mean reward of target prompts"),
    Metric("rl_unlearn_retain_reward", "round", "retain_reward",
            "mean reward of retained prompts"),
    Metric("rl_unlearn_forget_share", "round", "forget_rate",
            "1 - probability of the concept on target prompts"),
    Metric("rl_unlearn_retain_share", "round", "retain_rate",
            "probability of what was asked on retained prompts"),
    Metric("rl_unlearn_kl_nats_per_step", "round", "kl",
            "KL to the frozen model on retained prompts"),
    Metric("rl_unlearn_kl_floor_nats_per_step", "round", "kl_floor",
            "KL of rounding alone, taken off the others"),
    Metric("rl_unlearn_kl_weight", "round", "kl_weight", "Lagrange multiplier of the KL budget"),
    Metric("rl_unlearn_step_kl_nats_per_step", "round", "step_kl",
            "KL that one update brings about"),
    Metric("rl_unlearn_learning_rate", "round", "lr", "AdamW step size of the adapter"),
    Metric("rl_unlearn_gradient_norm", "round", "grad_norm", "gradient norm before the clip"),
    Metric("rl_unlearn_ratio_max", "round", "ratio_max",
            "largest importance ratio, per latent dimension"),
    Metric("rl_unlearn_clip_share", "round", "clip_fraction", "steps beyond the clip range"),
    Metric("rl_unlearn_effective_sample_share", "round", "ess",
            "effective sample size (Kish) of the weights"),
    Metric("rl_unlearn_policy_lag_updates", "round", "policy_lag",
            "mean age of a trajectory's policy"),
    Metric("rl_unlearn_policy_lag_max_updates", "round", "policy_lag_max",
            "largest age of a trajectory's policy"),
    Metric("rl_unlearn_critic_loss", "round", "critic_loss", "squared error of the critic"),
    Metric(
        "rl_unlearn_critic_explained_variance", "round", "explained_variance",
        "of the reward, by noise level; 0 is pure noise", tag="level",
    ),
    Metric(
        "rl_unlearn_critic_correlation", "round", "critic_correlation",
        "with the reward within prompts, by noise level; 0 is pure noise", tag="level",
    ),
    Metric("rl_unlearn_replay_trajectories", "round", "replay.held", "trajectories held"),
    Metric("rl_unlearn_replay_added_total", "round", "replay.added", "trajectories added",
            "total"),
    Metric("rl_unlearn_replay_repeated_total", "round", "replay.repeated",
            "delivered twice and refused", "total"),
    Metric("rl_unlearn_replay_sampled_total", "round", "replay.sampled", "drawn for updates",
            "total"),
    Metric("rl_unlearn_replay_evicted_stale_total", "round", "replay.evicted_stale", "too old",
            "total"),
    Metric("rl_unlearn_replay_evicted_capacity_total", "round", "replay.evicted_capacity",
            "no more room", "total"),
    Metric("rl_unlearn_selection_score", "selection", "score", "score of the last validation"),
    Metric("rl_unlearn_selection_forgotten_share", "selection", "forgotten",
            "target images without the concept"),
    Metric("rl_unlearn_selection_retained_share", "selection", "retained",
            "retained images seen as asked"),
    Metric("rl_unlearn_selection_coherence_share", "selection", "coherence",
            "target images that follow the rest"),
    Metric("rl_unlearn_selection_other_share", "selection", "other",
            "retained images that follow the rest"),
)  # fmt: skip
