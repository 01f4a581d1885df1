"""What is shipped: a wheel of one import name with the five packages, the canvas and the template,
and pins that fit the ranges.
"""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from wheel import built

import hatch_build
from experiments import presets

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(file: str = "constraints.txt") -> dict[str, Version]:
    lines = (ROOT / file).read_text().splitlines()
    return {
        normal(name): Version(version)
        for name, _, version in (line.partition("==") for line in lines)
    }


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", ["constraints.txt", "lowest.txt"])
def test_constraints_are_plain_pins(file: str) -> None:
    for line in (ROOT / file).read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+", line), line


@pytest.mark.parametrize(
    "text",
    PROJECT["dependencies"]
    + [
        text
        for extra in PROJECT["optional-dependencies"].values()
        for text in extra
        if not text.startswith(PROJECT["name"])
    ],
)
def test_every_range_is_bounded_and_holds_its_pin(text: str) -> None:
    need = Requirement(text)
    operators = {part.operator for part in need.specifier}
    assert {">=", "<"} <= operators, "give a lower and an upper bound"
    assert need.specifier.contains(pins()[normal(need.name)])


def test_the_lowest_versions_are_those_of_the_ranges() -> None:
    needs = map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["sweep"])
    bounds = {
        normal(need.name): Version(part.version)
        for need in needs
        for part in need.specifier
        if part.operator == ">="
    }
    assert pins("lowest.txt") == bounds


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    wheel = built(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        size = sum(info.file_size for info in archive.infolist() if "/weights/" in info.filename)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rl_unlearn"}
    weights = "canvas/weights"
    for needed in (
        "py.typed",
        "__init__.pyi",
        *(f"{package}/__init__.py" for package in PACKAGES if package != "rl_unlearn"),
        "experiments/report/report.html.j2",
        "experiments/report/report.css",
        "experiments/report/card.md.j2",
        *(f"experiments/configs/{name}.yaml" for name in presets.names()),
        *(f"experiments/configs/sweeps/{name}.yaml" for name in presets.names(presets.SPACES)),
        "experiments/canvas/__main__.py",
        f"{weights}/pipeline/model_index.json",
        f"{weights}/pipeline/unet/diffusion_pytorch_model.safetensors",
        f"{weights}/clip-reward/open_clip_model.safetensors",
        f"{weights}/clip-selection/open_clip_model.safetensors",
        f"{weights}/judge-object/model.safetensors",
        f"{weights}/judge-style/model.safetensors",
    ):
        assert f"rl_unlearn/{needed}" in names
    assert size <= 25 * 10**6
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert any(name.endswith("/licenses/NOTICE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".bin", ".pt"))]


def test_the_entry_point_is_the_command_line() -> None:
    from experiments.__main__ import main

    assert PROJECT["scripts"] == {"rl-unlearn": "rl_unlearn.__main__:main"}
    assert callable(main)


def test_imports_are_moved_and_no_line_is() -> None:
    source = "from learner.loop import (\n    Loop,\n)\nimport ray\nfrom rl_unlearn import vision\n"
    assert hatch_build.moved(source, "x") == source.replace(
        "learner.loop", "rl_unlearn.learner.loop"
    )
    with pytest.raises(ValueError, match=r"x:2: write `from actors\.images import"):
        hatch_build.moved("\nimport actors.images\n", "x")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_can_be_moved(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        moved = hatch_build.moved(path.read_text(), str(path))
        assert not re.search(
            r"^\s*(from|import) (actors|learner|cluster|experiments)\b", moved, re.M
        )


def test_releases_with_known_holes_are_not_admitted() -> None:
    (diffusers,) = [
        need for need in map(Requirement, PROJECT["dependencies"]) if need.name == "diffusers"
    ]
    assert not diffusers.specifier.contains("0.42.0")
    assert diffusers.specifier.contains("0.42.1"), "the security release"
