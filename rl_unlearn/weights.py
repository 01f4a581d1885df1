"""What the learner hands to rollout actors."""

from dataclasses import dataclass

from rl_unlearn.adapters.adapter import AdapterState, digest
from rl_unlearn.errors import TrainingError


@dataclass(frozen=True)
class Weights:
    """Adapter of one policy version with its checksum.

    Produced by the learner, consumed by rollout actors.
    """

    version: int
    """Number of updates that made it; 0 is the untouched model."""
    state: AdapterState
    digest: str

    def verify(self, loaded: AdapterState) -> None:
        """Raises TrainingError unless ``loaded`` is bit for bit what was sent: a silent no-op
        hand-over ends here.
        """
        if digest(loaded) != self.digest:
            raise TrainingError(
                f"policy version {self.version} was handed over, but other weights arrived"
            )
