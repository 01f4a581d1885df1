"""`export --push` against a stand-in for the hub on loopback: what is sent, and what is refused."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import tiny
from tiny_runs import make_run

from experiments import settings
from experiments.__main__ import main
from learner.learner import Learner
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME

NAME = "somebody/without-cats"


class Hub:
    """Repositories by name, each with its files; who may do what."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[str] = []
        self.address = ""
        self.tokens = {"Bearer right": 200, "Bearer reader": 403}

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any, str]:
        """Status, content, and the hub's name for an error."""
        status = self.tokens.get(token, 401)
        if status == 401:
            return 401, {"error": "who are you?"}, ""
        if path == "/api/whoami-v2":
            return 200, {"name": "somebody"}, ""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, ""
        if path == "/api/repos/create" and status == 200:
            asked = json.loads(body)
            name = f"{asked.get('organization', 'somebody')}/{asked['name']}"
            self.files.setdefault(name, {".gitattributes": b""})
            self.private[name] = asked.get("private", asked.get("visibility") == "private")
            return 200, {"url": f"{self.address}/{name}"}, ""
        if method == "POST" and status == 403:
            return 403, {"error": "no"}, ""
        name = "/".join(path.split("/")[3:5])
        if name not in self.files:
            return 404, {"error": "not found"}, "RepoNotFound"
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return 200, {"files": files}, ""
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.commits.append(line["value"]["summary"])
                else:
                    content = base64.b64decode(line["value"]["content"])
                    self.files[name][line["value"]["path"]] = content
            return 200, {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40}, ""
        if "/tree/" in path:
            return 200, [{"type": "file", "path": file, "size": len(content), "oid": "0"}
                         for file, content in self.files[name].items()], ""  # fmt: skip
        siblings = [{"rfilename": file} for file in self.files[name]]
        return 200, {"id": name, "siblings": siblings, "sha": "1" * 40}, ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the library is told of, with a token that may write."""
    hub = Hub()

    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            token, path = self.headers.get("Authorization", ""), self.path.partition("?")[0]
            status, content, code = hub.answer(self.command, path, token, self.rfile.read(length))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Reply) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "right")
        yield hub
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "cat-seed0")
    config = tiny.config()
    (folder / "config.yaml").write_text(settings.dump(config))
    save_adapter(folder / "adapter", Learner(config).weights().state, config)
    (folder / "samples.png").write_bytes((folder / "samples" / "before.png").read_bytes())
    return folder


def export(run: Path, out: Path, *more: str) -> int:
    return main(["export", str(run), "--format", "diffusers", "--out", str(out), *more])


def test_a_folder_is_pushed_as_it_lies_there(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "out", "--push", NAME) == 0
    assert f"/{NAME}: private" in capsys.readouterr().err
    written = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert written.keys() == {"README.md", "samples.png", FILE_NAME}
    assert hub.files[NAME] == {".gitattributes": b""} | written
    assert hub.private[NAME] is True
    assert len(hub.commits) == 1
    card = written["README.md"].decode()
    assert "![The same prompts from the same noise, before and after](samples.png)" in card
    assert "## Licence\n\nThe base model's licence holds here, too" in card
    assert export(run, tmp_path / "again", "--push", NAME) == 2
    assert "holds something already; choose another name" in capsys.readouterr().err
    assert not (tmp_path / "again").exists(), "it is refused before anything is computed"


def test_a_repository_may_be_for_everybody(hub: Hub, run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path / "out", "--push", NAME, "--public") == 0
    assert hub.private[NAME] is False


@pytest.mark.parametrize(
    ("token", "words", "code", "line"),
    [
        ("wrong", ["--push", NAME], 2, "knows no token of yours: set HF_TOKEN"),
        ("reader", ["--push", NAME], 2, "your token may not write there"),
        ("right", ["--push", "no-owner"], 2, "write owner/name"),
        ("right", ["--push", "../x/y"], 2, "write owner/name"),
        ("right", ["--public"], 2, "name it by --push"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, token: str, words: list[str], code: int, line: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    assert export(run, tmp_path / "out", *words) == code
    (told,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error")]
    assert line in told
    assert hub.files == {}


def test_a_hub_that_is_away_or_not_wanted(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert export(run, tmp_path / "out", "--push", NAME) == 3
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert export(run, tmp_path / "out", "--push", NAME) == 3
    assert "the hub is not reached" in capsys.readouterr().err


def test_what_is_in_the_folder_already_is_not_pushed(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    assert export(run, tmp_path, "--push", NAME) == 2
    assert "would be pushed, too" in capsys.readouterr().err
