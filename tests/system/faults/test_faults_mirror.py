"""A run that is killed while its checkpoint is copied: half a copy is never taken, and another
machine ends with the same bits; with a folder and with a real S3 server on loopback.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from conftest import ROOT

from experiments import settings
from experiments.__main__ import main
from experiments.mirror.store import Store, StoreError
from experiments.runs.ledger import LEDGER

COMMAND = """
import os, signal, sys
from experiments.__main__ import main
from experiments.mirror import owner
from experiments.mirror.store import Store

owner.RENEWED, owner.SILENT, owner.SETTLED = 1.0, 8.0, 0.2
place, write = sys.argv[1], Store.write

def half(chunks):
    for chunk in chunks:
        yield chunk[: len(chunk) // 2]
        os.kill(os.getpid(), signal.SIGKILL)

def dies(self, name, chunks):
    wanted = "/round-000002-" in name and name.endswith(place)
    return write(self, name, half(chunks) if wanted else chunks)

Store.write = dies
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a bucket on a server of its own."""
    server = Path(sys.prefix, "s3-server/bin/moto_server")
    if not server.is_file():
        pytest.skip("no S3 server: `make test` installs it into a folder of .venv")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [server, "-H", "127.0.0.1", "-p", host.rpartition(":")[2]], stderr=subprocess.DEVNULL
    )
    made = urllib.request.Request(f"http://{host}/bucket", method="PUT")
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(made)
                break
            except OSError:
                assert time.monotonic() < end, "the server does not answer"
                time.sleep(0.5)
        yield f"s3://bucket/runs?endpoint_override={host}&scheme=http"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as a machine has them: in its environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.slow
def test_a_real_server_keeps_what_it_is_given(
    s3: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, large = Store(s3, "r"), [bytes([i]) * 2**20 for i in range(12)]
    written = store.write("a/large", large)
    assert written.bytes == store.size("a/large") == 12 * 2**20
    assert store.read("a/large", 2**24) == b"".join(large)
    assert store.changed("a/large") is not None
    assert (store.names(), store.names("a"), store.names("b")) == (["a"], ["large"], [])
    assert store.read("b", 10) is None
    assert store.size("b") is None
    store.delete("a/large")
    store.delete("a/large")
    store.delete_folder("a")
    store.delete_folder("b")
    assert store.names() == []
    assert main(["doctor", f"mirror={s3}", "--json"]) in (0, 3)
    rows = json.loads(capfd.readouterr().out)["checks"]
    assert [row["state"] for row in rows if row["name"] == "mirror"] == ["ok"]
    lost = s3.replace("bucket", "nobucket")
    with pytest.raises(StoreError, match="NO_SUCH_BUCKET"):
        Store(lost, "r").write("x", [b"1"])
    assert main(["train", f"output={lost}"]) == 3
    line = capfd.readouterr().err
    assert "NO_SUCH_BUCKET" in line
    assert "make the bucket" in line
    assert line.count("\n") == 1
    assert "not-to-be-shown" not in line


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["file", "s3"])
@pytest.mark.parametrize("place", ["critic.safetensors", "COMPLETE.json"])
def test_killed_in_the_middle_of_a_copy(
    kind: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "store").mkdir()
    address = f"file://{tmp_path}/store"
    if kind == "s3":
        base, mark, asked = request.getfixturevalue("s3").partition("?")
        address = f"{base}/{place.partition('.')[0]}{mark}{asked}"
    loop = {"rounds": 4, "checkpoint_every": 1, "checkpoints": 2}
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.dump(tiny.config(tensorboard=False, loop=loop)))

    def train(machine: str, place: str, *more: str) -> subprocess.CompletedProcess[str]:
        argv = ["train", "--config", str(file), "--no-evaluate", "--name", "r", "--inline"]
        return subprocess.run(
            [sys.executable, "-c", COMMAND, place, *argv, f"output={tmp_path / machine}", *more],
            cwd=ROOT,
            env=os.environ,
            capture_output=True,
            text=True,
        )

    def ledger(machine: str) -> list[str]:
        rows = (tmp_path / machine / "r" / LEDGER).read_text().splitlines()
        return [json.loads(row)["weights"] for row in rows]

    undisturbed = train("undisturbed", "nowhere")
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = train("first", place, f"mirror={address}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    second = train("second", "nowhere", f"mirror={address}", "--resume", "auto")
    assert second.returncode == 0, second.stderr
    assert "was in use by" in second.stderr
    assert "round 1 of" in second.stderr, "what is half there is never taken"
    assert ledger("second") == ledger("undisturbed")
    third = train("third", "nowhere", f"mirror={address}", "--resume", "auto")
    assert third.returncode == 0, third.stderr
    assert "is finished" in third.stderr
    assert ledger("third") == ledger("undisturbed")
    assert "not-to-be-shown" not in killed.stderr + second.stderr + third.stderr
    for record in tmp_path.rglob("run_state.json"):
        assert "not-to-be-shown" not in record.read_text()
