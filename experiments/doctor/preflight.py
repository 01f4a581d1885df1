"""What can be told of a run before anything heavy is imported: each check reads a few small files
and headers.

`train` and `sweep` stop at the first error; `doctor` makes a row of each check.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from rl_unlearn import consistency, reward_names, trait_source
from rl_unlearn.adapters.adapter_file import locate
from rl_unlearn.canvas import TraitRole
from rl_unlearn.clip import clip_source
from rl_unlearn.concepts import names
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, UserError
from rl_unlearn.evaluation import judge_source
from rl_unlearn.files.tensor_header import read_header
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.models import hub, location, model_folder, single_file
from rl_unlearn.prompts import PromptBook

JUDGE, TRAIT = "judge", "trait"
Notes = Sequence[str]
"""What a person should know, though the run can begin."""


def check(config: Config, judged: bool = True, given: Collection[str] = ()) -> list[str]:
    """Returns all notes and raises the first UserError; without `judged` the judge is left out.

    `given`: names of the caller's own functions of the image.
    """
    checks = CHECKS | {TRAIT: partial(trait, judged=judged, given=given)}
    if not judged:
        del checks[JUDGE]
    return [note for check in checks.values() for note in check(config)]


def results(config: Config) -> list[tuple[str, Notes, UserError | None]]:
    """Returns name, notes and error of each check."""
    outcomes: list[tuple[str, Notes, UserError | None]] = []
    for name, check in CHECKS.items():
        try:
            outcomes.append((name, check(config), None))
        except UserError as error:
            outcomes.append((name, (), error))
    return outcomes


def loop(config: Config) -> Notes:
    """Checks that the settings of the loop go together."""
    consistency.check(config)
    return ()


def prompts(config: Config) -> Notes:
    """Checks that concept, lists, templates and anchors make a world.

    The note names a kept prompt that asks for the concept.
    """
    book = PromptBook.from_config(config)
    lost = [book.names[book.concept_domain][i] for i in book.concepts]
    asked = [
        p.text for p in book.prompts if not p.target and any(names(p.text, name) for name in lost)
    ]
    if not asked or config.prompts.target_file is None:
        return ()
    return (
        f"prompts.retain_file asks for {lost[0]!r} itself in {asked[0]!r}: it is to be kept and "
        "forgotten at once",
    )


def model(config: Config) -> Notes:
    """Checks that the model is whole and can be trained, and that all prompts reach it."""
    folder = _here(config)
    notes = list(model_folder.check_device(config.model))
    if folder is None:
        return notes
    from rl_unlearn.models.tokens import TokenLimit

    notes += model_folder.check(folder, config.sampler, config.model.size, config.model.variant)
    model_folder.check_schedule(folder, Schedule.of(config))
    return notes + TokenLimit(folder).check(PromptBook.from_config(config))


def _here(config: Config) -> Path | None:
    """Returns the model's folder if it is on this machine; a hub id may be in the hub's cache."""
    if single_file.named(config.model):
        made = single_file.place(config.model)  # nothing is converted for a look
        return made if made.is_dir() else None
    folder = location.local_folder(config.model)
    if folder is not None:
        return folder
    return hub.cached(config.model)


def adapters(config: Config) -> Notes:
    """Checks that the adapters below are there, and the adapter and critic to start from."""
    for adapter in config.model.adapters:
        read_header(locate(adapter))
    if config.lora.start is not None:
        _check_rank(config.lora.start, config.lora.rank)
    if config.critic.start is not None:
        file = Path(config.critic.start) / "critic.safetensors"
        if not file.is_file():
            raise DataError(
                f"critic.start {config.critic.start!r} holds no {file.name}: give a finished "
                "run's folder"
            )
        read_header(file)
    return ()


def _check_rank(start: str, rank: int) -> None:
    shapes = read_header(locate(start)).shapes
    downs = (".lora_A.weight", ".lora_down.weight")
    ranks = {shape[0] for name, shape in shapes.items() if name.endswith(downs)}
    if len(ranks) == 1 and ranks != {rank}:
        raise ConfigError(
            f"lora.start {start!r} has rank {ranks.pop()} and lora.rank is {rank}: give its rank"
        )


def clips(config: Config) -> Notes:
    """Checks that the CLIPs that reward and select can be asked for."""
    clip_source.check("reward.clip", config.reward.clip)
    clip_source.check("selection.clip", config.selection.clip)
    return ()


def trait(config: Config, judged: bool = True, given: Collection[str] = ()) -> Notes:
    """Checks the functions that tell a trait, if one is to be forgotten."""
    roles: tuple[TraitRole, ...] = ("reward", "selection", "judge")
    if reward_names.trait(config.concept) is not None:
        for role in roles if judged else roles[:-1]:
            trait_source.check(config, role, given)
    return ()


def judge(config: Config) -> Notes:
    """Checks that the judge can be asked for, and has no part in the training."""
    judge_source.check(config, PromptBook.from_config(config))
    return ()


CHECKS: dict[str, Callable[[Config], Notes]] = {
    "settings": loop, "prompts": prompts, "adapters": adapters, "CLIPs": clips,
    TRAIT: trait, JUDGE: judge, "model": model,
}  # fmt: skip
