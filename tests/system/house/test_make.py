"""What `make` would do, read from the commands that it prints; nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

INPUTS = ("Makefile", "pyproject.toml", "constraints.txt", "lowest.txt", "tests/s3-server.txt")
INDEX = "https://index.example/cpu"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing is set up yet."""
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def commands(checkout: Path, *words: str) -> list[str]:
    dry = ["make", "--dry-run", "--no-print-directory", *words]
    bare = {"PATH": os.environ["PATH"]}  # not what the `make` says that runs the tests
    made = subprocess.run(dry, cwd=checkout, env=bare, capture_output=True, text=True, check=True)
    return made.stdout.splitlines()


def installs(lines: list[str]) -> list[str]:
    return [line for line in lines if " pip install " in line]


def test_the_demo_installs_the_package_alone(checkout: Path) -> None:
    (install,) = installs(commands(checkout, "demo"))
    assert install.endswith("--constraint constraints.txt --editable .")


def test_torch_comes_from_the_index_that_is_named(checkout: Path) -> None:
    # No index of CPU builds is reached from here: only the commands are looked at.
    torch, rest = installs(commands(checkout, "demo", f"TORCH_INDEX={INDEX}"))
    assert torch.endswith(
        f'--constraint constraints.txt --no-deps --index-url "{INDEX}" torch torchvision'
    )
    assert "index" not in rest, "all else comes from where it always does"


def test_the_lowest_versions_have_an_environment_of_their_own(checkout: Path) -> None:
    lines = commands(checkout, "lowest")
    (install,) = installs(lines)
    assert install.startswith(".venv-lowest/bin/python ")
    assert install.endswith("--constraint lowest.txt --editable '.[dev,sweep]'")
    assert lines[-1].startswith(".venv-lowest/bin/python -m pytest ")
    assert not [line for line in lines if ".venv/" in line]


def test_clean_removes_both_environments_and_git_ignores_them(checkout: Path) -> None:
    (removal,) = (line for line in commands(checkout, "clean") if line.startswith("rm "))
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for folder in (".venv", ".venv-lowest"):
        assert folder in removal.split()
        assert f"{folder}/" in ignored
