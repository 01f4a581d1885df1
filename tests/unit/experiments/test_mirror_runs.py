"""A run whose machine is lost: another one goes on from the store, and ends with the same bits."""

import json
import time
from pathlib import Path

import pytest
import tiny
from tiny import quick  # noqa: F401

from experiments import settings
from experiments.__main__ import main
from experiments.mirror.mirror import Mirror
from experiments.runs.ledger import LEDGER


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.usefixtures("quick")
def test_another_machine_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = {"rounds": 3, "checkpoint_every": 1, "checkpoints": 2}
    file, address = tmp_path / "tiny.yaml", f"file://{tmp_path}/store"
    file.write_text(settings.dump(tiny.config(tensorboard=False, loop=loop)))
    (tmp_path / "store").mkdir()

    def train(machine: str, *more: str) -> int:
        return main(
            ["train", "--config", str(file), "--no-evaluate", "--name", "r",
             f"output={tmp_path / machine}", *more]
        )  # fmt: skip

    def weights(machine: str) -> list[str]:
        rows = (tmp_path / machine / "r" / LEDGER).read_text().splitlines()
        return [json.loads(row)["weights"] for row in rows]

    assert train("undisturbed") == 0
    committed = Mirror.committed

    def dies(self: Mirror, round: int) -> None:
        if round == 2:
            end = time.monotonic() + 60
            while self._copied != 1 and time.monotonic() < end:
                time.sleep(0.02)
            raise RuntimeError("the machine is gone")
        committed(self, round)

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "committed", dies)
        assert train("first", f"mirror={address}") == 4
    assert train("second", f"mirror={address}") == 2
    assert "already holds a run (round 1)" in capsys.readouterr().err
    assert train("second", f"mirror={address}", "--resume", "auto") == 0
    told = capsys.readouterr().err
    assert "round 1 of file://" in told
    assert "copied to file://" in told
    assert weights("second") == weights("undisturbed")
    assert train("third", f"mirror={address}", "--resume", "auto") == 0
    assert "is finished; raise loop.rounds" in capsys.readouterr().err
    assert contents_of(tmp_path / "third") == contents_of(tmp_path / "second")
    assert main(["fetch", f"{address}/r", "--out", str(tmp_path / "fetched")]) == 0
    assert contents_of(tmp_path / "fetched") == contents_of(tmp_path / "second")
    assert main(["fetch", f"{address}/r", "--out", str(tmp_path / "fetched")]) == 2
    assert main(["fetch", f"{address}/other", "--out", str(tmp_path / "fetched")]) == 5
    assert "holds no run" in capsys.readouterr().err
