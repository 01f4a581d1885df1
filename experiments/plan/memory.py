"""Memory of the actors where they compute: what stays there, and what comes and goes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster.placement import Place
from experiments.plan.costs import Costs
from experiments.plan.hollow import Hollow
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook

STORED: dict[str, torch.dtype | None] = {
    "network": None,
    "autoencoder": torch.float32,
    "text encoders": None,
}
"""Types in which an actor with a policy holds its parts; None: that of model.dtype."""
_SINGLE = 4
"""Bytes of a number in fp32."""
_TRAINED = 4
"""A parameter with its gradient and AdamW's two moments."""


@dataclass(frozen=True)
class Role:
    """What one actor needs, in bytes."""

    lasting: dict[str, int]
    moments: dict[str, int]
    """Bytes needed beside it, not at the same time."""

    @property
    def total(self) -> int:
        """Returns the bytes at the worst moment."""
        return sum(self.lasting.values()) + max(self.moments.values(), default=0)


def roles(config: Config, book: PromptBook, hollow: Hollow, costs: Costs) -> dict[str, Role]:
    """Returns what one rollout actor, the critic and one rank of the learner need."""
    model = weights(hollow)
    reading = {"reading the prompts": model.pop("text encoders")}
    trained = sum(p.numel() for p in hollow.adapter)
    adapter = _SINGLE * trained
    copies = (
        {}
        if hollow.dtype == torch.float32
        else {"adapter, copied": hollow.dtype.itemsize * trained}
    )
    return {
        "rollout": Role(
            model | {"adapter, fp32": adapter} | copies | _eyes(costs),
            reading | _drawing(config, hollow, costs),
        ),
        "critic": _critic(config, book, costs),
        "learner": Role(
            {"network": model["network"], "adapter, gradient, AdamW": _TRAINED * adapter} | copies,
            {"reading the prompts": reading["reading the prompts"] + model["autoencoder"]}
            | _learning(config, hollow, costs),
        ),
    }


def weights(hollow: Hollow) -> dict[str, int]:
    """Frozen weights of a policy, as they are stored."""
    adapted = {id(p) for p in hollow.adapter}
    parts = {
        "network": [t for t in tensors(hollow.network) if id(t) not in adapted],
        "autoencoder": tensors(hollow.family.autoencoder.vae),
        "text encoders": [t for part in hollow.text_encoders.values() for t in tensors(part)],
    }
    sizes = {name: _bytes(part, STORED[name] or hollow.dtype) for name, part in parts.items()}
    # What transformers makes anew instead of reading it stays as it is made.
    made = [t for encoder in hollow.text_encoders.values() for t in _unread(encoder)]
    more = [t.element_size() - hollow.dtype.itemsize if t.is_floating_point() else 0 for t in made]
    sizes["text encoders"] += sum(n * t.numel() for n, t in zip(more, made, strict=True))
    return sizes


def _unread(network: nn.Module) -> list[Tensor]:
    """Tables that are no part of a file."""
    read = {id(t) for t in network.state_dict(keep_vars=True).values()}
    return [t for t in network.buffers() if id(t) not in read]


def tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and tables."""
    return [*network.parameters(), *network.buffers()]


def _bytes(parts: Iterable[Tensor], dtype: torch.dtype) -> int:
    different = {id(tensor): tensor for tensor in parts}.values()
    return sum(
        (dtype if t.is_floating_point() else t.dtype).itemsize * t.numel() for t in different
    )


def _eyes(costs: Costs) -> dict[str, int]:
    clips = {"reward CLIP": costs.reward, "selection CLIP": costs.selection}
    return {name: _whole(clip.network) for name, clip in clips.items() if clip is not None}


def _whole(network: nn.Module) -> int:
    return _bytes(tensors(network), torch.float32)


def _drawing(config: Config, hollow: Hollow, costs: Costs) -> dict[str, int]:
    numbers, steps = torch.Size(hollow.family.latent_shape).numel(), config.sampler.steps
    batch = min(config.rollout.batch, max(config.rollout.images, config.critic.warmup_images))
    states = (steps + 1) * numbers * hollow.dtype.itemsize
    means, noise = steps * numbers * _SINGLE, (steps + 1) * numbers * _SINGLE
    return _backprop(config, costs, batch, batch * (states + means)) | {
        f"drawing {batch} images": batch
        * (costs.branches * costs.step.peak + states + means + noise),
        f"decoding {batch} images": min(batch, hollow.decoded_at_once) * costs.decode.peak
        + batch * (states + means),
    }


def _backprop(config: Config, costs: Costs, batch: int, drawn: int) -> dict[str, int]:
    """What the reward's gradients need, if they are asked for; ``drawn``: bytes of the trajectories
    of a batch.
    """
    if costs.slopes is None:
        return {}
    rows = min(batch, config.learner.microbatch)
    seen = costs.reward.slope.learning if costs.reward else 0
    passes = max(costs.branches * costs.slopes.step.learning, costs.slopes.decode.learning + seen)
    return {f"backpropagation of {rows} rewards": rows * passes + 2 * drawn}


def _critic(config: Config, book: PromptBook, costs: Costs) -> Role:
    if costs.critic is None:
        return Role({}, {})
    conditions = len(book.prompts) * (costs.reward.width if costs.reward else 0) * _SINGLE
    tables = conditions + len(book.prompts) * costs.critic.outcomes * _SINGLE
    rows = config.critic.minibatch  # what is scored comes in such parts, too
    return Role(
        {"critic, gradient, AdamW": _TRAINED * _whole(costs.critic.network), "prompts": tables},
        {f"kept for backward, {rows} states": rows * costs.critic.fit.learning},
    )


def _learning(config: Config, hollow: Hollow, costs: Costs) -> dict[str, int]:
    learner = config.learner
    pairs = -(
        -learner.batch * costs.learned // min(learner.minibatches, learner.batch * costs.learned)
    )
    share = -(-max(pairs, learner.kl_states) // learner.ranks)
    rows = min(learner.microbatch, share)
    pass_bytes = costs.branches * costs.step.learning
    numbers = torch.Size(hollow.family.latent_shape).numel()
    return {f"kept for backward, {rows} states": rows * (pass_bytes + 4 * numbers * _SINGLE)}


def together(needs: list[Role], in_turn: bool) -> int:
    """Bytes of several on one card; `in_turn`: in one process, which has one network."""
    if in_turn:
        shared = max((need.lasting.get("network", 0) for need in needs), default=0)
        apart = [sum(need.lasting.values()) - need.lasting.get("network", 0) for need in needs]
        role = Role(
            {"network": shared} | {str(number): held for number, held in enumerate(apart)},
            {
                str(number): max(need.moments.values(), default=0)
                for number, need in enumerate(needs)
            },
        )
        return role.total
    return sum(need.total for need in needs)


def cards(groups: dict[str, list[Place]], needs: dict[str, Role], inline: bool) -> list[list[str]]:
    """Tells who computes on which card, by the shares of a card that they reserve.

    Who reserves none takes the first one, as all do in one process.
    """
    placed: list[tuple[float, list[str]]] = [(1.0, [])]
    for role, places in groups.items():
        if role not in needs:
            continue
        for place in places:
            share = 0.0 if inline else place.resources.get("GPU", 0.0)
            whole = share >= 1
            at = next(
                (i for i, (free, _) in enumerate(placed) if not whole and free >= share - 1e-9),
                None,
            )
            if whole and not placed[0][1]:
                at = 0
            if at is None:
                placed.append((1.0, []))
                at = len(placed) - 1
            free, holds = placed[at]
            placed[at] = (max(0.0, free - share), [*holds, role])
    return [holds for _, holds in placed]
