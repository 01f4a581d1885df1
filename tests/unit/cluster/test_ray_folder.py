"""The folder of a private Ray: the one that Ray itself takes, and short enough for its sockets."""

import socket
import tempfile
from pathlib import Path

import pytest
import tiny

from cluster import address, ray_folder
from experiments.__main__ import main
from rl_unlearn.errors import MachineError

RAY = {"inline": False, "dashboard": False}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("names", [(), ("TMPDIR",), ("RAY_TMPDIR",), ("TMPDIR", "RAY_TMPDIR")])
def test_it_is_where_ray_says(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for name in names:
        monkeypatch.setenv(name, f"/tmp/{name}")
    assert str(ray_folder.path()) == get_default_ray_temp_dir()


def test_the_names_below_it_are_as_long_as_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket whose path has exactly this length can be bound; one byte more cannot."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        room = ray_folder.LONGEST_SOCKET - len(short) - 1
        with socket.socket(socket.AF_UNIX) as fits:
            fits.bind(f"{short}/{'x' * room}")
        with socket.socket(socket.AF_UNIX) as longer, pytest.raises(OSError, match="too long"):
            longer.bind(f"{short}/{'x' * (room + 1)}")


def _longest(below: str) -> str:
    length = ray_folder.LONGEST_SOCKET - len(below) - len("/tmp/") - 1
    return "/tmp/" + "x" * length


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_one_that_is_too_long_is_told(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    longest = _longest(f"ray/{ray_folder.RAYS_OWN}")
    monkeypatch.setenv(variable, longest)
    assert ray_folder.check(tiny.config(cluster=RAY)) == Path(longest) / "ray"
    monkeypatch.setenv(variable, longest + "x")
    with pytest.raises(
        MachineError, match="too long for the sockets of the private Ray; set RAY_TMPDIR"
    ):
        address.check(tiny.config(cluster=RAY))


def test_letters_are_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", _longest(f"ray/{ray_folder.RAYS_OWN}")[:-1] + "é")
    with pytest.raises(MachineError, match="too long"):
        ray_folder.check(tiny.config(cluster=RAY))


def test_the_dashboard_has_sockets_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr(tempfile, "tempdir", _longest(ray_folder.PYTHONS_OWN))
    ray_folder.check(tiny.config(cluster=RAY | {"dashboard": True}))
    monkeypatch.setattr(tempfile, "tempdir", _longest(ray_folder.PYTHONS_OWN) + "x")
    ray_folder.check(tiny.config(cluster=RAY))
    with pytest.raises(
        MachineError, match=r"dashboard; set TMPDIR to a short path, or cluster\.dashboard=false"
    ):
        ray_folder.check(tiny.config(cluster=RAY | {"dashboard": True}))


def test_that_is_told_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 60)
    assert main(["train", "concept=cat", f"output={tmp_path / 'out'}"]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/" + "x" * 60).exists()
