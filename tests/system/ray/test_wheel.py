"""The wheel beside a user's own folders of the same names, on the driver and on Ray's workers."""

import json
import os
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import tiny
from conftest import PACKAGES
from head import running_head
from wheel import built

from experiments import settings

PROGRAM = """
import sys
from pathlib import Path
import rl_unlearn

if __name__ == "__main__":
    run = rl_unlearn.unlearn(config=sys.argv[1], output="out", evaluate=False)
    pipeline = rl_unlearn.load_pipeline(run)
    print(run.path.relative_to(Path.cwd()), pipeline.get_active_adapters(), *sorted(
        name for name in sys.modules if name.partition(".")[0] in sys.argv[2:]
    ))
"""


def installed(folder: Path) -> Path:
    """Returns the Python of an environment below `folder` that has the wheel."""
    wheel = built(folder)
    venv.create(folder / "env")
    place = next((folder / "env/lib").glob("python*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(place)
    # What it needs comes from here; this checkout, which is there by a .pth file, does not.
    (place / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "env/bin/python"


@pytest.mark.slow
def test_own_folders_of_the_same_names_break_nothing(tmp_path: Path) -> None:
    python = installed(tmp_path)
    user, theirs = tmp_path / "user", [name for name in PACKAGES if name != "rl_unlearn"]
    for name in theirs:
        (user / name).mkdir(parents=True)
        (user / name / "__init__.py").write_text(f"raise ImportError('my own {name}')\n")
    (user / "program.py").write_text(PROGRAM)
    config = tiny.config(tensorboard=False, cluster={"inline": False}, loop={"rounds": 1})
    (user / "tiny.yaml").write_text(settings.dump(config))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "program.py", "tiny.yaml", *theirs],
        cwd=user, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["out/cat-seed0", "['default_0']"], "and no top-level import"


@pytest.mark.faults
def test_an_installed_package_goes_along_with_a_job(tmp_path: Path) -> None:
    # The head has the checkout, which knows no `rl_unlearn.experiments`: what runs was sent.
    python, file = installed(tmp_path), tmp_path / "tiny.yaml"
    cluster = {"inline": False, "actor_cpus": 0.1}
    config = tiny.config(tensorboard=False, cluster=cluster, loop={"rounds": 1})
    file.write_text(settings.dump(config))
    with running_head() as head:
        done = subprocess.run(
            [str(python), "-m", "rl_unlearn", "train", "--submit", head.url, "--config", str(file),
             "--no-evaluate", f"output={tmp_path}/out", "--json"],
            cwd=tmp_path, env=os.environ | head.environment, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "SUCCEEDED"
    command = (tmp_path / "out/cat-seed0/run_state.json").read_text()
    assert "rl_unlearn.experiments" in command, "the job was the installed one"
