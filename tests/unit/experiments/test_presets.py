"""Shipped configurations by name: from any folder, told apart from files, and to start from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from wheel import built

from experiments import presets, settings, strict_yaml
from experiments.__main__ import main
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not the checkout, and the working one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert main(["config", "show", *argv]) == 0
    found = strict_yaml.parse(capsys.readouterr().out, "stdout")
    assert isinstance(found, dict)
    return found


def refused(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    assert main(argv) == code
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    return said.err


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", presets.names())
def test_a_shipped_name_is_its_file_from_any_folder(name: str) -> None:
    by_file = settings.load([str(ROOT / "experiments" / "configs" / f"{name}.yaml")], environ={})
    assert settings.load([name], environ={}) == by_file
    assert presets.title(name)


def test_a_shipped_name_means_the_same_beside_a_file_of_that_name(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "canvas").write_text("concept: frog\n")
    (elsewhere / "mine").write_text("concept: wave\n")
    assert shown(capsys, "--config", "canvas")["concept"] == "cat"
    assert shown(capsys, "--config", "./canvas")["concept"] == "frog"
    assert shown(capsys, "--config", "mine")["concept"] == "wave"
    assert shown(capsys, "--config", "canvas", "--config", "mine")["concept"] == "wave"


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("canvsa", "; did you mean 'canvas'? shipped are canvas, flux_object, "),
        ("sd15-object", "did you mean 'sd15_object'?"),
        ("canvas.yaml", "did you mean 'canvas'?"),
        ("qqqq", "in this folder; shipped are canvas, "),
        ("x" * 300, "neither a shipped name nor a file"),
        ("./canvas", "No such file"),
    ],
)
def test_a_name_that_is_none_is_explained(
    given: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "config", "show", "--config", given)
    assert hint in line
    assert Path(given).name in line


@pytest.mark.usefixtures("elsewhere")
def test_the_spaces_of_sweeps_have_names_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert presets.space_file("seeds") == presets.SPACES / "seeds.yaml"
    assert "did you mean 'seeds'?" in refused(capsys, "sweep", "--space", "sedes")
    assert "--space seeds" in refused(capsys, "sweep")


def test_names_are_listed_with_what_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert list(listed) == presets.names()
    assert main(["config", "list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == presets.names()
    assert all(title in line for title, line in zip(listed.values(), lines, strict=True))


@pytest.mark.parametrize("name", presets.names())
def test_a_started_file_is_commented_and_means_the_same(
    name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init", name, "--out", "mine.yaml"]) == 0
    assert "rl-unlearn train --config mine.yaml" in capsys.readouterr().err
    started = elsewhere / "mine.yaml"
    assert started.read_text().count("#") > 5
    same = [settings.load([given], environ={}) for given in ("mine.yaml", name)]
    assert same[0] == same[1]


def test_a_file_is_started_from_the_one_default_recipe(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init"]) == 0
    recipe = settings.load(["canvas.yaml"], environ={})
    assert recipe.model_copy(update={"reward": Config().reward}) == Config()
    assert [path.name for path in elsewhere.iterdir()] == ["canvas.yaml"]
    capsys.readouterr()
    (elsewhere / "canvas.yaml").write_text("concept: frog\n")
    assert "canvas.yaml exists already; choose another --out" in refused(capsys, "config", "init")
    assert (elsewhere / "canvas.yaml").read_text() == "concept: frog\n"
    assert main(["config", "init", "--out", "canvas"]) == 0
    assert "--config ./canvas\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "hint"),
    [
        (["config", "init", "canvsa"], 2, "did you mean 'canvas'?"),
        (["config", "init", "concept=frog"], 2, "takes a shipped NAME and --out alone"),
        (["config", "init", "canvas", "sd15_object"], 2, "alone"),
        (["config", "init", "--config", "canvas"], 2, "alone"),
        (["config", "init", "--out", "no/such/folder.yaml"], 3, "cannot write no/such/folder.yaml"),
        (["config", "init", "--out", "s3://bucket/x.yaml"], 2, "only local or mounted folders"),
        (["config", "show", "--out", "x.yaml"], 2, "only `config init` writes a file"),
    ],
)
def test_a_file_that_cannot_be_started_is_explained(
    argv: list[str], code: int, hint: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in refused(capsys, *argv, code=code)
    assert not list(elsewhere.iterdir())


def test_a_file_of_ones_own_is_no_shipped_one(elsewhere: Path) -> None:
    (elsewhere / "mine").write_text("concept: frog\n")
    with pytest.raises(ConfigError, match="mine: no shipped name; shipped are canvas, "):
        presets.shipped("mine")


@pytest.mark.slow
def test_names_work_from_an_installed_wheel(tmp_path: Path) -> None:
    wheel = built(tmp_path)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(site), str(wheel)], check=True, capture_output=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from rl_unlearn.experiments import __main__ as program\n"
        "assert program.__file__.startswith(sys.path[0]), program.__file__\n"
        "sys.exit(program.main(sys.argv[1:]))\n"
    )
    for words in (["show", "--config", "sd15_object"], ["init", "canvas"]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, str(site), "config", *words],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "canvas.yaml").is_file()
