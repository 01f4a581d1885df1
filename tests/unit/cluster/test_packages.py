"""Packages come from one folder: what workers search, what a driver refuses, and what an import
leaves behind.
"""

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT

from cluster import packages

THEIRS = "raise RuntimeError('of somebody else')\n"


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A user's folder, with a package called as one of ours."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "__init__.py").write_text(THEIRS)
    return str(tmp_path)


def test_the_names_are_all() -> None:
    assert set(packages.NAMES) == set(PACKAGES)
    assert Path(packages.ROOT) == ROOT


def test_workers_search_here_first(
    monkeypatch: pytest.MonkeyPatch, foreign: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = str(tmp_path_factory.mktemp("other"))
    monkeypatch.setattr(sys, "path", [foreign, other, str(ROOT), "/nowhere"])
    assert packages.search_path() == [str(ROOT), foreign, other]
    monkeypatch.chdir(other)
    monkeypatch.setattr(sys, "path", ["", str(ROOT)])
    assert packages.search_path() == [str(ROOT), other], (
        "the working directory, as the driver itself searches it"
    )
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    assert packages.search_path() == [str(ROOT)], "the driver does not search the working directory"


def test_an_installed_project_stands_behind_the_standard_library(
    monkeypatch: pytest.MonkeyPatch, foreign: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Unless somebody else's packages stand before it."""
    installed, other = sysconfig.get_path("purelib"), str(tmp_path_factory.mktemp("other"))
    library = sysconfig.get_path("stdlib")
    monkeypatch.setattr(packages, "ROOT", installed)
    monkeypatch.setattr(sys, "path", [other, library, installed])
    assert packages.search_path() == [other]
    (Path(other) / "actors").mkdir()
    assert packages.search_path() == [other], "a folder without modules hides nothing"
    monkeypatch.setattr(sys, "path", [foreign, library, installed])
    assert packages.search_path() == [installed, foreign]


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "experiments"])
def test_the_driver_takes_its_own_packages(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(THEIRS)
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "config", "show"], cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_kinds_in_one_process_are_refused_with_both_paths(tmp_path: Path) -> None:
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", "import learner, experiments"], cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert str(tmp_path / "learner" / "__init__.py") in done.stderr.splitlines()[-1]
    assert str(ROOT / "learner") in done.stderr.splitlines()[-1]


# -- open_clip and timm ----------------------------------------------------------------------------


def test_only_one_module_imports_them() -> None:
    found = set()
    for folder in (*PACKAGES, "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if {name.partition(".")[0] for name in names} & {"open_clip", "timm"}:
                    found.add(str(path.relative_to(ROOT)))
    assert found == {"rl_unlearn/vision.py"}


def test_they_leave_no_folders_behind_and_trackers_can_still_be_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "import actors.critic, actors.rollout, actors.images, actors.replay, learner.learner\n"
        "import rl_unlearn.evaluation.judges\n"
        "from rl_unlearn.vision import open_clip, timm\n"
        "timm.create_model('resnet10t', pretrained=False)\n"
        "assert 'wandb' not in sys.modules\n"
        "left = os.listdir(os.environ['TMPDIR'])\n"
        "import wandb\n"
        "assert wandb.__version__\n"
        "print([name for name in left if 'wandb' in name or name.startswith('tmp')], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"  # as Ray ends its workers
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "", "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
