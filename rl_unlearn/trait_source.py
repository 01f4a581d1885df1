"""Which functions tell a trait (`concept=image:NAME`), and whether they may: told without torch,
before anything is loaded.
"""

from collections.abc import Collection
from pathlib import Path

from rl_unlearn import plugins, reward_names
from rl_unlearn.canvas import TRAITS, WITH_TRAITS, TraitRole
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError

_KEYS: dict[TraitRole, str] = {
    "reward": "concept", "selection": "selection.image", "judge": "evaluation.image_judge",
}  # fmt: skip


def named(config: Config, role: TraitRole) -> tuple[str, str]:
    """Returns the key and the name of the function of that role.

    The canvas has three networks for each of its traits, which need no further name. Raises
    ConfigError where the concept is another function and the role's is not named.
    """
    trait = reward_names.trait(config.concept)
    assert trait is not None
    names = {
        "reward": trait, "selection": config.selection.image,
        "judge": config.evaluation.image_judge,
    }  # fmt: skip
    key, name = _KEYS[role], names[role]
    if name is None:
        if reward_names.canvas_trait(trait) is None:
            raise ConfigError(
                f"{key} is not set: name another function than {trait!r}, which rewards, of the "
                "same thing" + (", or pass --no-evaluate" if role == "judge" else "")
            )
        name = trait
    return key, name


def check(config: Config, role: TraitRole, given: Collection[str] = ()) -> None:
    """Raises ConfigError for a function of that role that is unknown, does not know this world, or
    has another role, too.

    ``given``: names of the caller's own functions.
    """
    key, name = named(config, role)
    if name not in given and reward_names.canvas_trait(name) is not None:
        _check_canvas(config, key, name)
    elif (
        name not in given
        and reward_names.classifier(name) is None
        and name not in plugins.names(plugins.REWARDS)
    ):
        raise ConfigError(
            f"{key}: {name!r} is no registered function of images: use canvas:TRAIT "
            f"({', '.join(TRAITS)}) or classifier:FOLDER:LABEL, install a package that adds it, or "
            "pass it from a program, unlearn(functions={name: function})"
        )
    for other in _KEYS:
        if other == role:
            return
        other_key, other_name = named(config, other)
        if _network(name, role) == _network(other_name, other):
            raise ConfigError(f"{key} {name!r} is also the {other_key}: take another function")


def _network(name: str, role: TraitRole) -> str:
    """Returns what tells networks apart: the canvas's by role, classifiers by folder."""
    if reward_names.canvas_trait(name) is not None:
        return f"{name} {role}"
    parts = reward_names.classifier(name)
    return name if parts is None else str(Path(parts[0]).resolve())


def _check_canvas(config: Config, key: str, name: str) -> None:
    if reward_names.canvas_trait(name) not in TRAITS:
        raise ConfigError(f"{key}: {name!r} is unknown: the canvas has {', '.join(TRAITS)}")
    if config.model.path != "canvas":
        raise ConfigError(
            f"{key}: {name!r} knows the canvas only: elsewhere name a classifier:FOLDER:LABEL"
        )
    others = [target for target in config.prompts.targets if target not in WITH_TRAITS]
    if others:
        raise ConfigError(
            f"{key}: {name!r} is seen on {', '.join(WITH_TRAITS)} only: remove {', '.join(others)} "
            "from prompts.targets"
        )
