"""Which judge a configuration asks for, and whether it may judge: told without torch, before
anything is loaded.
"""

from pathlib import Path

from rl_unlearn import plugins
from rl_unlearn.canvas import OBJECTS, PANEL, STYLES, Member
from rl_unlearn.clip import clip_source
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook

CANVAS: dict[str, tuple[Member, ...]] = {
    "canvas": ("main",),
    "canvas:panel": PANEL,
    **{f"canvas:{member}": (member,) for member in PANEL},
}
"""Names of the canvas's judges, and who judges together under each."""


def is_of_canvas(name: str) -> bool:
    """Returns whether a name means the canvas's judges."""
    return name == "canvas" or name.startswith("canvas:")


def is_installed(name: str) -> bool:
    """Returns whether an installed package adds a judge of that name."""
    return name in plugins.names(plugins.JUDGES)


def is_judge_folder(folder: Path) -> bool:
    """Returns whether `folder` is meant as a pair of classifiers; an open_clip folder has neither
    subfolder.
    """
    return (folder / "object").is_dir() or (folder / "style").is_dir()


def check(config: Config, book: PromptBook) -> None:
    """Raises ConfigError for an unknown judge, the canvas's on another world, or a CLIP that
    rewards or selects by its name.

    DataError for a CLIP that cannot be had.
    """
    name = config.evaluation.judge
    if is_of_canvas(name):
        if (book.names["object"], book.names["style"]) != (OBJECTS, STYLES):
            raise ConfigError(
                f"evaluation.judge={name} knows the canvas only: name a folder of classifiers or "
                "an open_clip 'arch/pretrained' to judge with, or pass --no-evaluate"
            )
        if name not in CANVAS:
            raise ConfigError(
                f"evaluation.judge {name!r} is unknown: the canvas has {', '.join(CANVAS)}"
            )
    elif not is_installed(name) and not is_judge_folder(Path(name)):
        for role, spec in (("reward", config.reward.clip), ("selection", config.selection.clip)):
            if spec == name:
                raise ConfigError(
                    f"evaluation.judge {name!r} is also the {role} CLIP: judge with another network"
                )
        clip_source.check("evaluation.judge", name)
