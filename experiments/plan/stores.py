"""What is kept: trajectories and the retention pool in memory, files in the run folder."""

import functools
import itertools
import operator
from dataclasses import dataclass

import torch

from experiments.plan.costs import Costs, Kept, pooled
from experiments.plan.hollow import Hollow
from learner.timeline import Timeline
from rl_unlearn.anchors import anchors_of
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import outcome_names
from rl_unlearn.steps import chosen_of

_SINGLE = 4
_HALF = 2
_LONG = 8


@dataclass(frozen=True)
class Row:
    """Bytes of one trajectory."""

    stored: int
    """Bytes of one in the replay store, in a checkpoint, on its way."""
    scored: int
    """Bytes of one with what the critic adds for the learner."""


def row(config: Config, book: PromptBook, hollow: Hollow) -> Row:
    """States in the storage type of latents, action gradients in bf16 beside half ones, all else in
    fp32.
    """
    numbers, steps = torch.Size(hollow.family.latent_shape).numel(), config.sampler.steps
    estimator = config.estimator.row
    stored = (steps + 1) * numbers * hollow.dtype.itemsize
    stored += _SINGLE * (steps + len(outcome_names(book, config.reward)) + 2) + 4 * _LONG
    stored += _SINGLE * steps * numbers if estimator.gradients == "means" else 0
    stored += _SINGLE * steps if estimator.predicts else 0
    stored += _SINGLE * steps * numbers if estimator.backprop else 0
    values = _SINGLE * (steps + 1) if estimator.valued else 0
    number = _SINGLE if config.model.dtype == "fp32" else _HALF
    chosen = chosen_of(len(hollow.family.kernel.learned), config.learner.steps_share)
    gradients = number * chosen * numbers if estimator.gradients or estimator.backprop else 0
    return Row(stored, stored + chosen * _LONG + values + gradients)


def held(config: Config) -> int:
    """Trajectories in the replay store at its fullest: those that are not too old, and rounds made
    ahead.
    """
    in_turn = config.loop.model_copy(update={"mode": "sync"})  # else timing decides
    order, per_round = (
        Timeline(config.model_copy(update={"loop": in_turn})),
        config.learner.updates_per_round,
    )
    images, rounds, most = config.rollout.images, config.loop.rounds, config.critic.warmup_images
    for version in range(rounds * per_round):
        newest, oldest = version // per_round + 1, version - config.replay.max_lag
        versions = (order.drawn_by(round) or 0 for round in range(newest, 0, -1))
        young = itertools.takewhile(functools.partial(operator.le, oldest), versions)
        first = config.critic.warmup_images if oldest <= 0 else 0
        kept = min(config.replay.capacity, first + sum(images for _ in young))
        ahead = min(rounds - newest, config.loop.pipeline + 1)
        most = max(most, kept + ahead * images)
    return most


def kept(config: Config, book: PromptBook) -> Kept:
    """Images of the warm-up that are kept states of; exactly those that a run draws.

    Where the reward CLIP would say which anchor is nearest another one is counted, whose images are
    about as many.
    """
    chosen = config.critic
    drawn = book.draw(config.seed, 0, chosen.warmup_images, chosen.warmup_target_fraction)
    anchored: list[int] = []
    if config.learner.anchor_weight:
        classes = len(book.names[book.concept_domain])
        anchored = [*anchors_of(config, book, lambda: torch.eye(classes)).prompts.values()]
    return Kept(
        sum(not book.prompts[place].target for place in drawn),
        sum(drawn.count(anchor) for anchor in anchored),
        bool(config.learner.anchor_weight) and book.trait is not None,
    )


def memory(config: Config, book: PromptBook, hollow: Hollow, costs: Costs) -> dict[str, int]:
    """Bytes in the memory of the machines, beside the cards'."""
    row_bytes, numbers = row(config, book, hollow), torch.Size(hollow.family.latent_shape).numel()
    states = sum(pooled(costs, kept(config, book)))
    condition = sum(torch.Size(shape).numel() for shape in hollow.told.values())
    return {
        f"replay store, {held(config):,} trajectories": held(config) * row_bytes.stored,
        f"retention pool, {states:,} states": states * numbers * (hollow.dtype.itemsize + _SINGLE),
        "warm-up images, which the critic rehearses": config.critic.warmup_images * row_bytes.stored
        if config.estimator.row.critic else 0,
        f"a scored batch of {config.learner.batch}": config.learner.batch * row_bytes.scored,
        f"{len(book.prompts):,} prompts as the network is told them": len(book.prompts) * condition
        * hollow.dtype.itemsize,
    }  # fmt: skip


def disk(
    config: Config, book: PromptBook, hollow: Hollow, costs: Costs, images: dict[str, int]
) -> dict[str, int]:
    """Bytes of files, at their most; small ones are left out."""
    row_bytes = row(config, book, hollow)
    adapter = _SINGLE * sum(p.numel() for p in hollow.adapter)
    critic = (
        _SINGLE * sum(p.numel() for p in costs.critic.network.parameters()) if costs.critic else 0
    )
    loop = config.loop
    files = {"adapter": adapter, "critic": critic}
    if loop.checkpoint_every and loop.checkpoint_every <= loop.rounds:
        made = min(loop.checkpoints, loop.rounds // loop.checkpoint_every)
        versions = loop.pipeline + 3  # the best one, those that draw rounds to come
        each = 3 * adapter + 3 * critic + held(config) * row_bytes.stored + versions * adapter
        files[f"checkpoints, {made} and the next"] = (made + 1) * each
    if loop.checkpoint_every:
        files["warm-up of the checkpoints"] = config.critic.warmup_images * row_bytes.stored
    if config.replay.spill:
        files["spilled replay batches"] = (images["warm-up"] + images["rounds"]) * row_bytes.stored
    if "evaluation" in images:
        height, width = picture(hollow)
        files["cache of the evaluation's images"] = images["evaluation"] * 3 * height * width
    return files


def picture(hollow: Hollow) -> tuple[int, int]:
    """Height and width of an image in pixels."""
    scale = hollow.family.autoencoder.scale
    _, height, width = hollow.family.latent_shape
    return height * scale, width * scale
