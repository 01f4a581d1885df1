"""The whole configuration as one frozen tree; every field carries its own description, unknown keys
are errors.
"""

from rl_unlearn.config.judging import Attack
from rl_unlearn.config.learning import EstimatorConfig, Learner
from rl_unlearn.config.model import Lora, Model, Prompts, Reward, Sampler
from rl_unlearn.config.running import Cluster
from rl_unlearn.config.tree import NAME, Config

__all__ = [
    "NAME", "Attack", "Cluster", "Config", "EstimatorConfig", "Learner", "Lora", "Model", "Prompts",
    "Reward", "Sampler",
]  # fmt: skip
