"""Which address is meant, and that a dead, mute or foreign one is told in seconds, whoever names
it.
"""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from cluster import address, connection, program, proxy
from cluster.images import image_source
from experiments.__main__ import main
from experiments.doctor import health_cluster
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError

RAY = {"inline": False}


def on_ray(**cluster: Any) -> Config:
    return tiny.config(cluster=RAY | cluster)


@pytest.mark.parametrize(
    ("setting", "variable", "text", "source"),
    [
        (None, None, "local", "cluster.address"),
        (None, "", "local", "cluster.address"),
        (None, "head:6379", "head:6379", "RAY_ADDRESS"),
        ("auto", None, "auto", "cluster.address"),
        ("auto", "head:6379", "head:6379", "RAY_ADDRESS"),
        ("other:6379", "head:6379", "other:6379", "cluster.address"),
        ("local", "head:6379", "local", "cluster.address"),
        (None, "local", "local", "RAY_ADDRESS"),
    ],
)
def test_which_one_is_meant(
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
    variable: str | None,
    text: str,
    source: str,
) -> None:
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert address.meant(on_ray(address=setting)) == address.Address(text, source)


@contextlib.contextmanager
def server(answer: bytes) -> Iterator[str]:
    """HOST:PORT of one who says ``answer`` to whoever connects, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lines: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    lines.append(line)
                    line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        for line in lines:
            line.close()


@pytest.fixture(params=["dead", "mute", "foreign"])
def useless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HOST:PORT where no Ray is."""
    monkeypatch.setattr(address, "SECONDS", 1)
    if request.param == "dead":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
            yield f"127.0.0.1:{taken.getsockname()[1]}"
    else:
        with server(b"" if request.param == "mute" else b"SSH-2.0-OpenSSH_9.6\r\n") as found:
            yield found


def _train(config: Config) -> None:
    program.train(config, lambda *_: None)


def _draw(config: Config) -> None:
    with image_source(config):
        raise AssertionError("it answers")


@pytest.mark.parametrize("use", [_train, _draw, health_cluster.survey.nodes])
@pytest.mark.parametrize("source", ["cluster.address", "RAY_ADDRESS"])
def test_every_user_is_told_in_seconds(
    useless: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[Config], Any], source: str
) -> None:
    if source == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", useless)
    config = on_ray(address=useless if source == "cluster.address" else None)
    config = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"actors": 1})}
    )
    start = time.monotonic()
    with pytest.raises(
        MachineError, match=f"no Ray cluster answers at {useless} .*correct {source}"
    ):
        use(config)
    assert time.monotonic() - start < 20


def test_commands_tell_it_before_they_make_anything(
    useless: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", useless)
    for words in (
        ["train", "concept=cat"],
        ["sweep", "--space", "seeds"],
    ):
        assert main([*words, f"output={tmp_path / 'out'}"]) == 3
        assert "correct RAY_ADDRESS" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (row,) = health_cluster._cluster(on_ray(), start=False)
    assert (row.state, "correct RAY_ADDRESS" in row.found) == ("fail", True)


@pytest.mark.parametrize(
    ("text", "line"),
    [("head", "must be HOST:PORT"), ("http://head:8265", "use --submit http://head:8265")],
)
def test_what_is_no_address_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS=.*{line}"):
        address.check(on_ray())


def test_a_server_of_ray_is_known_by_its_greeting() -> None:
    settings = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    with server(settings) as found:
        assert address.check(on_ray(address=found)).text == found


def test_the_address_is_checked_without_ray() -> None:
    code = "import sys, cluster.address; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_what_a_dead_head_left_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(services, "find_gcs_addresses", set)
        monkeypatch.setattr(services, "find_bootstrap_address", lambda _: f"127.0.0.1:{port}")
        with (
            pytest.raises(
                MachineError, match=r"no Ray cluster answers at auto .*correct cluster.address"
            ),
            connection.ray_cluster(on_ray(address="auto")),
        ):
            raise AssertionError("it answers")


# -- Proxies ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine counts."""
    for scheme in ("http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("variables", "url", "found"),
    [
        ({}, "http://head:8265", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://head:8265", "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://p:1"}, "https://head:8265", None),
        (
            {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"},
            "https://head:8265",
            "https_proxy",
        ),
        ({"All_Proxy": "http://p:1"}, "http://head:8265", "All_Proxy"),
        ({"http_proxy": "", "ALL_PROXY": "http://p:1"}, "http://head:8265", "ALL_PROXY"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost,head"}, "http://head:8265", None),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "*"}, "http://head:8265", None),
    ],
)
def test_the_variable_that_applies(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, found: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy.of(url) == found
    assert (f"{found} sends this" in proxy.remedy(url),
            "add head to NO_PROXY" in proxy.remedy(url)) == (
        bool(found), bool(found)
    )  # fmt: skip
