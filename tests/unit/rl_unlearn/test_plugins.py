"""What installed packages add: found by name, imported when it is asked for, and on record."""

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch

from rl_unlearn import estimators, image_rewards, plugins, trait_source, traits
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.of import family_of
from rl_unlearn.families.stable_diffusion import StableDiffusion
from rl_unlearn.layouts import stable_diffusion
from rl_unlearn.models import foundation, model_folder


class Package:
    """A distribution as `importlib.metadata` has it."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version


def bright(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Entry points by group and name; the module `acme` has what they name."""
    module = ModuleType("acme")
    monkeypatch.setitem(sys.modules, "acme", module)
    module.bright = bright  # type: ignore[attr-defined]
    module.ESTIMATOR = estimators.Estimator("own", "", "", "acme:worth")  # type: ignore[attr-defined]
    packages = {"acme": Package("acme", "1.2")}
    points = {
        (plugins.REWARDS, "bright"): ["acme:bright"],
        (plugins.REWARDS, "broken"): ["acme:nothing"],
        (plugins.ESTIMATORS, "own"): ["acme:ESTIMATOR"],
        (plugins.ESTIMATORS, "misnamed"): ["acme:ESTIMATOR"],
    }

    def entry_points(group: str) -> list[EntryPoint]:
        found = []
        for (place, name), values in points.items():
            for value in values if place == group else ():
                point = EntryPoint(name, value, group)
                vars(point)["dist"] = packages["acme"]
                found.append(point)
        return found

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins._installed.cache_clear()
    yield {"points": points, "packages": packages, "module": module}
    plugins._installed.cache_clear()


def test_a_reward_is_found_by_its_name(installed: dict[str, Any]) -> None:
    config = tiny.config(reward={"images": {"bright": 1.0, "jpeg_kilobytes": -1.0}})
    assert image_rewards.find(config, {})["bright"] is bright
    own = lambda images: images  # noqa: E731
    assert image_rewards.find(config, {"bright": own})["bright"] is own, "the caller's wins"
    with pytest.raises(ConfigError, match="'dim' is no registered reward: use jpeg_kilobytes, bri"):
        image_rewards.find(tiny.config(reward={"images": {"dim": 1.0}}), {})
    with pytest.raises(ConfigError, match=r"'broken' of the package acme 1\.2 cannot be imported"):
        image_rewards.find(tiny.config(reward={"images": {"broken": 1.0}}), {})


def test_two_packages_of_one_name_are_refused(installed: dict[str, Any]) -> None:
    installed["points"][plugins.REWARDS, "bright"].append("acme:other")
    with pytest.raises(ConfigError, match=r"'bright' is added by acme 1\.2, acme 1\.2: remove all"):
        plugins.load(plugins.REWARDS, "bright")


def test_another_version_is_another_foundation(installed: dict[str, Any]) -> None:
    config = tiny.config(reward={"images": {"bright": 1.0}})
    before = foundation.of_run(config)
    assert foundation.of_run(config) == before
    installed["packages"]["acme"].version = "1.3"
    plugins._installed.cache_clear()
    after = foundation.of_run(config)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"reward.images bright"}
    with pytest.raises(Exception, match="stands on the reward bright as it was"):
        foundation.check(before, after, "run")


def test_a_trait_may_be_told_by_an_installed_function(installed: dict[str, Any]) -> None:
    selection = {"image": "jpeg_kilobytes"}
    config = tiny.config(concept="image:bright", prompts={"targets": ["cat"]}, selection=selection)
    trait_source.check(config, "reward")
    assert traits.function_of(config, "reward", {}) is bright


def test_an_estimator_is_a_row_of_its_package(installed: dict[str, Any]) -> None:
    row = tiny.config(estimator={"name": "own"}).estimator.row
    assert row is installed["module"].ESTIMATOR
    with pytest.raises(ConfigError, match=r"acme 1\.2 has no Estimator of the name 'misnamed'"):
        _ = tiny.config(estimator={"name": "misnamed"}).estimator.row
    with pytest.raises(ValueError, match="installed package"):
        tiny.config(estimator={"name": "nowhere"})


def test_a_family_is_a_layout_and_a_class_of_one_name(
    installed: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "OwnPipeline"}')
    own = replace(stable_diffusion.LAYOUT, pipeline="OwnPipeline")
    installed["module"].LAYOUT, installed["module"].Own = own, StableDiffusion
    installed["points"][plugins.LAYOUTS, "OwnPipeline"] = ["acme:LAYOUT"]
    plugins._installed.cache_clear()
    assert model_folder.read_layout(tmp_path) is own
    with pytest.raises(ConfigError, match=r"acme 1\.2 adds a layout of OwnPipeline and no family"):
        family_of(tmp_path)
    installed["points"][plugins.FAMILIES, "OwnPipeline"] = ["acme:Own"]
    plugins._installed.cache_clear()
    assert family_of(tmp_path) is StableDiffusion
    installed["module"].Own = bright
    with pytest.raises(ConfigError, match=r"'OwnPipeline' of the package acme 1\.2 is no Family"):
        family_of(tmp_path)
    installed["module"].LAYOUT = stable_diffusion.LAYOUT
    with pytest.raises(ConfigError, match=r"acme 1\.2 is no Layout of a OwnPipeline"):
        model_folder.read_layout(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "OtherPipeline"}')
    with pytest.raises(DataError, match="SanaPipeline, OwnPipeline can be trained"):
        model_folder.read_layout(tmp_path)
