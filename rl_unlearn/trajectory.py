"""The one type all rooms meet in: a batch of denoising trajectories, and its Arrow form.

Produced by the rollout actor, kept by the replay actor, consumed by critic and learner; on disk
they are Arrow record batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.errors import DataError

PER_ROUND = 2**32
"""Ids of one round: the id of a trajectory is round * PER_ROUND + its position in the round."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_COLUMNS = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.bfloat16: pa.uint16()}
_WHOLE = ("ids", "rounds", "policy_versions", "prompts")


@dataclass(frozen=True)
class Trajectory:
    """A batch of complete trajectories of T steps; all tensors on the CPU."""

    ids: Int[Tensor, " batch"]
    """Unique within a run and derived from (round, position): a repeated rollout carries the same
    id."""
    rounds: Int[Tensor, " batch"]
    """Round that asked for the trajectory; 0 is the warm-up on the frozen policy."""
    policy_versions: Int[Tensor, " batch"]
    """Updates of the policy that acted."""
    prompts: Int[Tensor, " batch"]
    """Index into the prompt book."""
    latents: Float[Tensor, "batch levels channels height width"]
    """x_T ... x_0 in storage dtype, T + 1 of them; latents[:, k + 1] is the action of step k."""
    log_probs: Float[Tensor, "batch steps"]
    """Behaviour log-probs of the stored (rounded) actions, nats per latent dimension, fp32."""
    outcomes: Float[Tensor, "batch outcomes"]
    """What the final image's reward is made of (rewards.outcomes)."""
    rewards: Float[Tensor, " batch"]
    """Reward of the final image."""
    evidence: Float[Tensor, " batch"]
    """The reward CLIP's probability of the concept (target prompts) or of what was asked (retain),
    in [0, 1]."""
    means: Float[Tensor, "batch steps channels height width"] | None = None
    """Means that the actions were drawn around, fp32, if the estimator asks for them."""
    predicted: Float[Tensor, "batch steps"] | None = None
    """Reward of the decoded prediction of x_0 at each step, if the estimator asks for it."""
    slopes: Float[Tensor, "batch steps channels height width"] | None = None
    """The reward's own gradient by the action of each step, fp32, if the estimator asks for it
    (backprop.by_actions)."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(
        self, index: Int[Tensor, " rows"] | Bool[Tensor, " rows"] | slice
    ) -> "Trajectory":
        return replace(self, **{name: tensor[index] for name, tensor in self.tensors().items()})

    def clone(self) -> "Trajectory":
        """Returns the same with memory of its own."""
        return replace(self, **{name: tensor.clone() for name, tensor in self.tensors().items()})

    def copied_to(self, other: "Trajectory") -> "Trajectory":
        """Writes the same into the memory of another batch of these shapes, and returns that."""
        for name, tensor in other.tensors().items():
            tensor.copy_(getattr(self, name))
        return other

    @staticmethod
    def cat(parts: "Sequence[Trajectory]") -> "Trajectory":
        """Returns several batches as one, in the order given."""
        return Trajectory(
            **{name: torch.cat([getattr(p, name) for p in parts]) for name in parts[0].tensors()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns the fields that are there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in values.items() if tensor is not None}

    def finite(self) -> Bool[Tensor, " batch"]:
        """Tells which rows hold finite numbers only."""
        floats = [tensor for tensor in self.tensors().values() if tensor.is_floating_point()]
        rows = [tensor[:, None].flatten(1) for tensor in floats]
        # The largest and the smallest number are infinite or NaN where any is. Each is found in one
        # pass without a copy: in bf16 that takes a tenth of the time of looking at every number.
        ends = [end for row in rows for end in (row.amax(dim=1), row.amin(dim=1))]
        return torch.stack([end.isfinite() for end in ends]).all(dim=0)

    def to_arrow(self) -> pa.RecordBatch:
        """Returns one row a trajectory; tensors as fixed-shape tensor columns, bf16 as its bits
        (Arrow has no such type).
        """
        storage = next(name for name, dtype in _DTYPES.items() if dtype == self.latents.dtype)
        columns = {}
        for name, value in self.tensors().items():
            array = (value.view(torch.uint16) if value.dtype == torch.bfloat16 else value).numpy()
            array = np.ascontiguousarray(array)
            tensor = (
                pa.FixedShapeTensorArray.from_numpy_ndarray(array)
                if array.ndim > 1
                else pa.array(array)
            )
            columns[name] = tensor
        names = list(columns)
        schema = pa.schema(
            [pa.field(n, columns[n].type, nullable=False) for n in names],
            metadata={"rl_unlearn.latents": storage},
        )
        return pa.RecordBatch.from_arrays([columns[n] for n in names], schema=schema)

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch) -> "Trajectory":
        """Inverse of :meth:`to_arrow`; raises DataError for a batch of another schema."""
        metadata = batch.schema.metadata or {}
        names = [
            f.name for f in fields(cls) if f.default is MISSING or f.name in batch.schema.names
        ]
        storage = _DTYPES.get(metadata.get(b"rl_unlearn.latents", b"").decode(errors="replace"))
        if storage is None or batch.schema.names != names:
            raise DataError(
                f"Arrow batch with columns {batch.schema.names} holds no trajectories (expected "
                f"{names})"
            )
        tensors = {name: _tensor(name, batch.column(name), storage) for name in names}
        return cls.checked(tensors)

    @classmethod
    def checked(cls, tensors: Mapping[str, Tensor]) -> "Trajectory":
        """Returns a batch of tensors of any origin; raises DataError unless their shapes and types
        fit together.
        """
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        if not needed <= tensors.keys() <= {f.name for f in fields(cls)}:
            raise DataError(
                f"{', '.join(tensors) or 'nothing'} are no trajectories (expected "
                f"{', '.join(needed)})"
            )
        latents, log_probs = tensors["latents"], tensors["log_probs"]
        if latents.ndim != 5 or log_probs.ndim != 2 or tensors["outcomes"].ndim != 2:
            raise DataError(
                "these are no trajectories: their latents, log-probs or outcomes have other "
                "dimensions"
            )
        count, steps = log_probs.shape
        shapes = {
            "latents": (count, steps + 1, *latents.shape[2:]),
            "outcomes": (count, tensors["outcomes"].shape[1]),
            "means": (count, steps, *latents.shape[2:]), "log_probs": (count, steps),
            "predicted": (count, steps), "slopes": (count, steps, *latents.shape[2:]),
        }  # fmt: skip
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != shapes.get(name, (count,)):
                raise DataError(
                    f"these are no trajectories: {name} is of shape {tuple(tensor.shape)}"
                )
            if tensor.dtype != torch.int64 if name in _WHOLE else not tensor.is_floating_point():
                raise DataError(f"these are no trajectories: {name} is of type {tensor.dtype}")
        return cls(**tensors)


def _tensor(name: str, column: pa.Array, storage: torch.dtype) -> Tensor:
    """Returns a column as a tensor; raises DataError if it has no such type, or holes."""
    wide = isinstance(column, pa.FixedShapeTensorArray)
    kind = column.type.value_type if wide else column.type
    fits = (
        kind == _COLUMNS[storage]
        if name == "latents"
        else kind == pa.int64() or pa.types.is_floating(kind)
    )
    if not fits or column.null_count or (wide and column.storage.values.null_count):
        raise DataError(
            f"Arrow batch holds no trajectories: column {name} is of type {column.type}, or has "
            "holes"
        )
    array = column.to_numpy_ndarray() if wide else column.to_numpy(zero_copy_only=False)
    tensor = torch.from_numpy(np.array(array))
    return (
        tensor.view(torch.bfloat16) if name == "latents" and storage == torch.bfloat16 else tensor
    )


@dataclass(frozen=True)
class Scores:
    """The critic's judgement of some trajectories.

    Produced by the critic actor, consumed by the learner, which has the trajectories from the
    replay store.
    """

    steps: Int[Tensor, "batch chosen"]
    """Steps of each trajectory that are learned from (steps.choose_steps)."""
    values: Float[Tensor, "batch levels"] | None
    """V(x_k, t_k) of the T + 1 states, in units of reward, if there is a critic; not a number where
    the estimator asks for none."""
    action_gradients: Float[Tensor, "batch chosen channels height width"] | None
    """grad_a V(a, t_{k+1}) of the chosen steps, at the stored action or the behaviour mean, if the
    estimator asks for it."""


@dataclass(frozen=True)
class Scored:
    """Trajectories and the critic's judgement of them, as the learner learns from them."""

    trajectory: Trajectory
    steps: Int[Tensor, "batch chosen"]
    """See `Scores`, as for what follows."""
    values: Float[Tensor, "batch levels"] | None
    action_gradients: Float[Tensor, "batch chosen channels height width"] | None

    @staticmethod
    def of(trajectory: Trajectory, scores: Scores) -> "Scored":
        """Returns both as one."""
        return Scored(trajectory, scores.steps, scores.values, scores.action_gradients)
