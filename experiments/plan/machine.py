"""What of a plan this machine has: cards, memory, room for the actors."""

from dataclasses import dataclass

import psutil

from cluster import address, placement
from cluster.survey import Node, room
from experiments.doctor import machine
from experiments.runs.origin import cores
from rl_unlearn.config import Config

REFERENCE = 24 * 2**30
"""Bytes of a common card, to compare with where there is none."""


@dataclass(frozen=True)
class Computer:
    """Where the networks of a run would compute."""

    device: str
    """`cuda` or `cpu`."""
    card: str | None
    """Name of the GPU that is here."""
    memory: int
    """Bytes: the card's, a reference card's, or this machine's."""
    note: str
    """Whose memory it is."""


def computer(config: Config) -> Computer:
    """Chooses by the configuration and what is here; a card that is asked for need not be here."""
    if machine.cards() and config.model.device != "cpu":
        import torch

        card = torch.cuda.get_device_properties(0)
        return Computer("cuda", card.name, card.total_memory, card.name)
    shares = config.cluster.rollout_gpus + config.cluster.critic_gpus + config.cluster.learner_gpus
    if config.model.device == "cuda" or (shares and config.model.device != "cpu"):
        return Computer("cuda", None, REFERENCE, "a card of 24 GiB; there is none here")
    return Computer("cpu", None, psutil.virtual_memory().total, "this machine's memory")


def groups(config: Config) -> dict[str, list[placement.Place]]:
    """Returns the places of the run's actors by their role."""
    places = placement.places(config)
    return {
        "rollout": places.rollouts, "critic": [places.critic], "learner": places.learners,
        "replay": [places.replay],
    }  # fmt: skip


def missing(config: Config) -> list[str]:
    """Says what this machine lacks for the actors; of a cluster only the cluster knows."""
    if config.cluster.inline:
        return []
    where = address.meant(config)
    if not where.is_local:
        return [f"whether the actors fit, the cluster at {where.text} knows: ask `doctor`"]
    here = Node("this machine", max(cores(), 2), machine.cards())
    lacking = room(config, [here])
    return [f"on this machine {lacking}"] if lacking else []
