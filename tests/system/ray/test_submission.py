"""`train --submit`: what is sent, how it is followed, what its end means; at last against a real
Ray head.
"""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import tiny
from conftest import ROOT
from fake_head import FakeHead, Status
from head import PATIENCE, Head, running_head

from cluster import program, submission
from experiments import settings
from experiments.__main__ import main, parse
from experiments.doctor import health_cluster
from experiments.runs import submitting
from experiments.runs.ledger import LEDGER
from rl_unlearn.errors import MachineError

SHARED = "output=/shared/outputs"


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> FakeHead:
    """A head that `train --submit http://head:8265` reaches, whose job succeeds at once."""
    fake = FakeHead(["Running entrypoint\n", "done\n"])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("cluster.address.check_head", lambda url: None)
    monkeypatch.setattr("cluster.submission.connect", lambda url: fake)
    monkeypatch.setattr("cluster.submission.asks_for_token", lambda client: True)
    return fake


def told(status: str, exit_code: int | None, log: str, message: str = "") -> dict[str, Any]:
    """For `vars(head).update`: the job ends like this."""
    return {"_parts": [log], "_end": (Status(status), exit_code, message)}


# -- What is sent ----------------------------------------------------------------------------------

HOSTILE = [
    "prompts.template=$(touch pwned) `touch pwned` {object} {style}",
    "prompts.object_template='; touch pwned; echo ' {object}",
    'prompts.style_template="&& touch pwned || {style} > pwned \\ \n | $HOME * ~',
    "model.path=--submit",
]


def test_arguments_stay_arguments_in_the_jobs_shell(head: FakeHead, tmp_path: Path) -> None:
    words = ["train", "--name", "hostile", *HOSTILE, SHARED]
    assert main([*words, "--submit", "http://head:8265"]) == 0
    (job,) = head.submitted
    shown = tmp_path / "python"
    shown.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    shown.chmod(0o755)
    run = subprocess.run(
        ["sh", "-c", job["entrypoint"]], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert json.loads(run.stdout) == ["-m", "experiments", *words]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["$(id)", "a b", "../up", "-rf", "a;b", "a\nb"])
def test_hostile_names_never_leave(
    head: FakeHead, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["train", f"--name={name}", SHARED, "--submit", "http://head:8265"]) == 2
    assert main(["train", f"concept={name}", SHARED, "--submit=http://head:8265"]) in (0, 2)
    assert all(
        job["submission_id"].isprintable() and " " not in job["submission_id"]
        for job in head.submitted
    )
    assert "use up to 64 letters" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [["--submit", "http://head:8265"], ["--submit=http://head:8265"]])
def test_the_job_is_the_same_command_without_submit(flag: list[str]) -> None:
    words = [
        "train",
        "concept=frog",
        "--config",
        "experiments/configs/canvas.yaml",
        "--resume",
        "auto",
        "--json",
    ]
    for place in (1, 2, len(words)):
        sent = submitting.command(parse([*words[:place], *flag, *words[place:]]).argv)
        assert sent == ["python", "-m", "experiments", *words]
    kept, whole = vars(parse(words)), vars(parse([*words, *flag]))
    changed = {name for name in kept.keys() - {"parser"} if kept[name] != whole[name]}
    assert changed == {"submit", "argv"}


def test_checkout_and_variables_go_along(head: FakeHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_UNLEARN__LEARNER__LR", "1e-4")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden")
    assert main(["train", "concept=frog", SHARED, "--submit", "http://head:8265"]) == 0
    (job,) = head.submitted
    assert job["submission_id"] == "frog-seed0"
    environment = {"RL_UNLEARN__LEARNER__LR": "1e-4", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert job["runtime_env"] == {
        "working_dir": str(ROOT),
        "excludes": submitting.EXCLUDES,
        "env_vars": environment,
    }


def test_an_installed_package_goes_along_as_it_is(
    head: FakeHead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submitting, "COMMAND", ("python", "-m", "rl_unlearn.experiments"))
    assert main(["train", "concept=frog", SHARED, "--submit", "http://head:8265"]) == 0
    (job,) = head.submitted
    assert job["runtime_env"] == {
        "py_modules": [str(ROOT / "rl_unlearn")],
        "excludes": ["__pycache__"],
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
    }


@pytest.mark.parametrize(
    ("words", "folder", "id"),
    [
        (["sweep", "--space", "seeds", SHARED], "/shared/outputs/seeds", "seeds"),
        (["sweep", "--resume", "--name", "s", SHARED], "/shared/outputs/s", "s"),
        (["evaluate", "/shared/outputs/a", "/shared/b"], "/shared/outputs/a", "evaluate-a"),
        (["attack", "/shared/outputs/a"], "/shared/outputs/a", "attack-a"),
    ],
)
def test_other_verbs_are_jobs_too(head: FakeHead, words: list[str], folder: str, id: str) -> None:
    assert main([*words, "--submit", "http://head:8265"]) == 0
    (job,) = head.submitted
    assert job["submission_id"] == id
    assert job["metadata"] == {"rl-unlearn-run": folder}
    assert shlex.split(job["entrypoint"]) == ["python", "-m", "experiments", *words]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evaluate", "outputs/a"], "outputs/a: with --submit it is looked up on the cluster"),
        (["evaluate", "/shared/a", "--out", "all.json"], "all.json: with --submit"),
        (["attack", "outputs/a"], "give its absolute path"),
        (["sweep", "--space", "seeds"], "output=outputs: a relative folder"),
        (["sweep", SHARED], "nothing to vary"),
        (["sweep", "--space", "nowhere.yaml", SHARED], "nowhere.yaml"),
        (["sweep", "--resume", SHARED], "--resume needs --name"),
    ],
)
def test_usage_of_other_verbs(
    head: FakeHead, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main([*words, "--submit", "http://head:8265"]) == 2
    assert line in capsys.readouterr().err
    assert not head.submitted


def test_the_package_has_all_code_and_nothing_private(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    private = [".git/config", ".venv/bin/python", "outputs/demo/config.yaml", ".env", ".env.local",
               "build/lib/x.py",
               "tests/__pycache__/a.pyc", ".mypy_cache/a.json"]  # fmt: skip
    for name in (*tracked, *private):
        file = tmp_path / "checkout" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    create_package(
        str(tmp_path / "checkout"), tmp_path / "package.zip", True, excludes=submitting.EXCLUDES
    )
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        sent = {name for name in archive.namelist() if not name.endswith("/")}
    assert sent == set(tracked)


def test_ids_are_never_taken_twice(head: FakeHead, capsys: pytest.CaptureFixture[str]) -> None:
    run = {submission._RUN: "/shared/outputs/frog-seed0"}
    head.jobs = [
        SimpleNamespace(submission_id="frog-seed0", metadata=run, status=Status("STOPPED")),
        SimpleNamespace(submission_id="frog-seed0-2", metadata=None, status=Status("RUNNING")),
        SimpleNamespace(submission_id=None, metadata=None, status=Status("RUNNING")),
    ]
    words = ["train", "concept=frog", "--resume", "auto", SHARED, "--submit", "http://head:8265"]
    assert main(words) == 0
    assert head.submitted[0]["submission_id"] == "frog-seed0-3"
    head.jobs.append(
        SimpleNamespace(submission_id="frog-seed0-3", metadata=run, status=Status("PENDING"))
    )
    assert main(words) == 2
    assert "job frog-seed0-3 is at work on /shared/outputs/frog-seed0" in capsys.readouterr().err
    assert len(head.submitted) == 1


# -- What comes back -------------------------------------------------------------------------------


def test_success_gives_the_jobs_own_outcome(
    head: FakeHead, capfd: pytest.CaptureFixture[str]
) -> None:
    vars(head).update(
        told("SUCCEEDED", 0, 'round 1\n{"updates": 3, "run": "/shared/outputs/cat-seed0"}\n')
    )
    assert main(["train", "--json", SHARED, "--submit", "http://head:8265"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out) == {
        "updates": 3, "run": "/shared/outputs/cat-seed0", "job": "cat-seed0",
        "head": "http://head:8265",
        "status": "SUCCEEDED",
    }  # fmt: skip
    assert "round 1\n" in said.err


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        (
            ("FAILED", 4, "error: early\nx\nerror: a b c\ntail\n"),
            4,
            "job cat-seed0 failed with exit code 4: a b c",
        ),
        (
            ("FAILED", 137, "round 3\n", "failed"),
            4,
            "job cat-seed0 failed with exit code 137: round 3",
        ),
        (("FAILED", None, "", "setup failed:\nno space\n"), 4, "job cat-seed0 failed: no space"),
        (("FAILED", None, ""), 4, "job cat-seed0 failed: it left no log"),
        (("STOPPED", None, "round 3\n"), 143, "stopped"),
    ],
)
def test_other_ends_have_codes_and_one_line(
    head: FakeHead, capfd: pytest.CaptureFixture[str], end: Any, code: int, line: str
) -> None:
    vars(head).update(told(*end))
    assert main(["train", "--json", SHARED, "--submit", "http://head:8265"]) == code
    said = capfd.readouterr()
    assert json.loads(said.out) == {"error": line, "exit_code": code}
    assert said.err.splitlines()[-1].removeprefix("error: ") == line


def test_a_broken_log_goes_on_where_it_was() -> None:
    fake = FakeHead(["one\ntw", "o\nthree\n", "four"])
    fake.breaks = 2
    parts: list[str] = []
    ended = submission.Job(fake, "x", parts.append).follow()
    assert "".join(parts) == "one\ntwo\nthree\nfour"
    assert ended.lines == ["one", "two", "three", "four"]


def test_a_head_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHead(["one\n"])

    def silent(id: str) -> Any:
        raise ConnectionError("Connection refused\nagain")

    monkeypatch.setattr(fake, "get_job_info", silent)
    monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0.5)
    with pytest.raises(
        MachineError, match=r"lost the head at http://head:8265 \(Connection refused\)"
    ):
        submission.Job(fake, "x", lambda part: None).follow()


def test_a_signal_stops_the_job_and_waits(
    head: FakeHead, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    follow = submission.Job.follow

    def interrupted(job: submission.Job) -> submission.Ended:
        if not head.stopped:
            raise KeyboardInterrupt
        return follow(job)

    vars(head).update(told("STOPPED", None, "stopped in order\n"))
    monkeypatch.setattr(submission.Job, "follow", interrupted)
    assert main(["train", SHARED, "--submit", "http://head:8265"]) == 130
    assert head.stopped == ["cat-seed0"]
    assert "stopped in order\njob cat-seed0: STOPPED\nstopped\n" in capfd.readouterr().err


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--inline", SHARED], "--inline without one"),
        (["cluster.inline=true", SHARED], "--inline without one"),
        (["--address", "head:6379", SHARED], "a job finds its own cluster"),
        ([], "output=outputs: a relative folder"),
        ([SHARED, "learner.lrr=1"], "unknown key 'learner.lrr'"),
    ],
)
def test_usage(
    head: FakeHead, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(["train", *words, "--submit", "http://head:8265"]) == 2
    assert line in capsys.readouterr().err
    assert not head.submitted


def test_only_a_checkout_is_sent(
    head: FakeHead,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", SHARED, "--submit", "http://head:8265"]) == 2
    assert "call it in the checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["head:8265", "ray://head:10001", "http://head", "http://head:8265/x", "http://h:99999"]
)
def test_addresses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", SHARED, "--submit", url]) == 2
    assert "must be http://HOST:PORT" in capsys.readouterr().err


def test_an_address_with_a_password_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", SHARED, "--submit", "http://me:hunter2@head:8265"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_a_head_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        assert (
            main(["train", SHARED, "--submit", f"http://127.0.0.1:{taken.getsockname()[1]}"]) == 3
        )
    error = capsys.readouterr().err
    assert "no Ray head answers" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b"SSH-2.0-x\r\n", b""]
)
def test_something_else_listens(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(submission, "_REQUEST_SECONDS", (2, 2))
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere.invalid:1")  # what --submit says counts
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere.invalid:1")

    async def scene() -> None:
        async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            if answer:
                writer.close()

        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(
            MachineError, match=f"^{url} does not answer as a Ray head does"
        ) as caught:
            await asyncio.to_thread(submission.connect, url)
        assert "\n" not in str(caught.value)
        server.close()

    asyncio.run(scene())


class Odd:
    """A head whose every reply is the same."""

    def __init__(self, body: bytes) -> None:
        class Reply(BaseHTTPRequestHandler):
            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._reply
                raise AttributeError(name)

            def _reply(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


ODD = [b"{}", b"[]", b"null", b"5", b'"text"', b"<html>Welcome</html>", b"", b"\xff",
       b'{"ray_version": 5}',
       b'{"ray_version": "new"}', b'{"ray_version": "2.60.0"}', b'[{"job_id": 1}]',
       b"[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=lambda body: body[:20])
def test_replies_of_another_shape(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any, body: bytes
) -> None:
    """Also of a head that answers as one in the beginning only."""
    monkeypatch.chdir(ROOT)
    with Odd(body) as url:
        assert main(["train", SHARED, "--submit", url]) == 3
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert error.startswith(f"error: {url} does")
        (row,) = health_cluster._cluster(
            tiny.config(cluster={"inline": False, "address": url}), start=False
        )
        assert row.state == ("ok" if b'ray_version": "' in body else "fail")


@pytest.mark.parametrize("before", [None, "http://elsewhere.invalid:1"])
def test_the_environment_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Of this process and of all that it starts later: also where the head does not answer as
    one."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    if before is not None:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", before)
    with Odd(b'{"ray_version": "2.60.0"}') as url:
        assert submission.connect(url).get_address() == url
        assert os.environ.get("RAY_API_SERVER_ADDRESS") == before
    with Odd(b"<html>") as url, pytest.raises(MachineError):
        submission.connect(url)
    assert os.environ.get("RAY_API_SERVER_ADDRESS") == before


def test_each_reply_of_a_head_is_read_with_care(monkeypatch: pytest.MonkeyPatch) -> None:
    with Odd(b'{"ray_version": "2.60.0"}') as url:
        client = submission.connect(url)
        with pytest.raises(MachineError, match="does not say who may use it"):
            submission.asks_for_token(client)
        with pytest.raises(MachineError, match="does not take the job"):
            submission.submit(
                client,
                Path("/o/r"),
                "r",
                ["true"],
                {"working_dir": str(ROOT / "experiments" / "verbs")},
                {},
                print,
            )
        job = submission.Job(client, "r", print)
        with pytest.raises(MachineError, match="cannot stop job r"):
            job.stop()
        monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0)
        monkeypatch.setattr(submission, "_POLL_SECONDS", 0.1)
        with pytest.raises(MachineError, match="lost the head"):
            job.follow()


def test_a_proxy_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("NO_PROXY", "no_proxy", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Odd(b"<html>Bad gateway</html>") as server:
        monkeypatch.setenv("HTTP_PROXY", server)
        assert main(["train", SHARED, "--submit", "http://head.invalid:8265"]) == 3
        error = capsys.readouterr().err
        (row,) = health_cluster._cluster(
            tiny.config(cluster={"inline": False, "address": "http://head.invalid:8265"}),
            start=False,
        )
    for line in (error, row.found):
        assert "HTTP_PROXY sends this through a proxy: add head.invalid to NO_PROXY" in line


# -- A real head -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Iterator[Head]:
    with running_head() as found:
        yield found


def command_line(real: Head, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "train", "--submit", real.url, *words], cwd=ROOT,
        text=True,
        env={**os.environ, **real.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=2 * PATIENCE)
    return process.returncode, out, err


def wait_for(what: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not list(what.parent.glob(what.name)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)


def state(run: Path) -> str:
    return str(json.loads((run / "run_state.json").read_text())["state"])


def drivers_of(name: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "experiments" in words and name in words and "--submit" not in words:
            found.append(process.pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"RAY_AUTH_TOKEN": "wrong" * 8}, "refuses the token (Authentication failed"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "/nowhere/token"),
        ({"RAY_AUTH_MODE": "disabled"}, "refuses the token (Authentication required"),
    ],
)
def test_a_head_refuses_other_tokens(real: Head, variables: dict[str, str], line: str) -> None:
    stranger = Head(real.url, real.environment | variables)
    code, out, err = end(command_line(stranger, SHARED, "--json"))
    assert code == 3
    assert line in err
    assert "Traceback" not in err
    assert json.loads(out)["exit_code"] == 3
    assert "wrongwrong" not in err + out


@pytest.mark.slow
def test_a_failing_job_tells_its_cause_and_runs_nothing_else(real: Head, tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    path = f"/$(touch {pwned});`touch {pwned}`' && touch {pwned} #"
    code, _, err = end(
        command_line(real, f"model.path={path}", f"output={tmp_path}", "--name", "hostile")
    )
    assert code == 4
    assert err.splitlines()[-1].startswith("error: job hostile failed with exit code 5: ")
    assert path in err.splitlines()[-1]
    assert not pwned.exists()


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_is_stopped_twice_and_ends_as_if_it_never_was(real: Head, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = tiny.config(
        output=str(output), tensorboard=False, cluster={"inline": False, "actor_cpus": 0.1},
        loop={"rounds": 30, "checkpoint_every": 1, "timeout": 600.0},
    )  # fmt: skip
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.dump(config))
    words = ["--config", str(file), "--no-evaluate", "--name", "often", "--resume", "auto"]
    run = output / "often"

    # Ctrl-C here; meanwhile nobody else may work on the run.
    client = command_line(real, *words)
    wait_for(run / "checkpoints" / "round-*", client)
    code, _, err = end(command_line(real, *words))
    assert code == 2
    assert "job often is at work on" in err
    client.send_signal(signal.SIGINT)
    code, _, err = end(client)
    assert code == 130, err
    assert "job often: STOPPED" in err
    assert "round 1/30" in err
    assert state(run) == "stopped"
    assert not drivers_of("often")

    # Ray's own commands.
    ray = str(Path(sys.executable).parent / "ray")
    environment = {**os.environ, **real.environment, "RAY_ADDRESS": real.url}
    before = {path.name for path in (run / "checkpoints").glob("round-*")}
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    plain = subprocess.Popen(
        [ray, "job", "submit", "--submission-id", "plain", "--runtime-env-json", patience,
         "--working-dir", ".", "--",
         *shlex.split("python -m experiments train"), *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while {
        path.name for path in (run / "checkpoints").glob("round-*")
    } <= before and time.monotonic() < deadline:
        assert plain.poll() is None, plain.communicate()[0]
        time.sleep(0.2)
    subprocess.run(
        [ray, "job", "stop", "plain"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    plain.communicate(timeout=PATIENCE)
    assert state(run) == "stopped"

    code, out, err = end(command_line(real, *words, "--json"))
    assert code == 0, err
    told = json.loads(out)
    assert (told["job"], told["status"], told["run"]) == ("often-2", "SUCCEEDED", str(run))
    assert told["updates"] == 30
    assert state(run) == "finished"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows if row["event"] == "round"] == list(range(1, 31)), (
        "no gap, no repetition"
    )
    events: list[tuple[str, dict[str, Any]]] = []
    program.train(
        config.model_copy(update={"cluster": tiny.config().cluster}),
        tiny.into(events),
    )
    ledger = [json.loads(line)["weights"] for line in (run / LEDGER).read_text().splitlines()]
    assert ledger == tiny.versions(events), "the bits of a run that nobody stopped"
