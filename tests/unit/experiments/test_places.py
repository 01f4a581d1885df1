"""Addresses are no paths, and names are names."""

from pathlib import Path

import pytest

from experiments import settings
from experiments.__main__ import main
from rl_unlearn.errors import ConfigError

ADDRESS = "s3://bucket/runs"


@pytest.mark.parametrize("key", [key for key in settings.PLACES if key != "output"])
@pytest.mark.parametrize(
    "address", [ADDRESS, "gs://x", "file:///tmp/x", "HTTPS://host/x", "hf+x.y-z://a"]
)
def test_an_address_is_refused_as_a_setting(key: str, address: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"command line: {key}='.*': only local or mounted folders work"
    ):
        settings.load(overrides=[f"{key}={address}"], environ={})
    with pytest.raises(ConfigError, match="variable RL_UNLEARN__"):
        settings.load(environ={f"RL_UNLEARN__{key.upper().replace('.', '__')}": address})


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--on", ADDRESS], ["train", "--critic-from", ADDRESS],
        ["train", "--config", ADDRESS],
        ["train", "--start", ADDRESS],
        ["resume", ADDRESS], ["report", "a", ADDRESS], ["report", "a", "--out", f"{ADDRESS}.html"],
        ["evaluate", ADDRESS], ["evaluate", "a", "--out", ADDRESS], ["attack", ADDRESS],
        ["sweep", "--space", ADDRESS],
        ["export", ADDRESS, "--format", "kohya", "--out", "x"],
        ["export", "x", "--format", "kohya", "--out", ADDRESS],
        ["generate", "--prompt", "a", "--adapter", ADDRESS],
        ["generate", "--prompt", "a", "--out", ADDRESS],
        ["generate", "--prompts", ADDRESS], ["config", "show", "--config", ADDRESS],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_address_is_refused_as_an_argument(
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert "only local or mounted folders work" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_addresses_of_clusters_are_no_paths() -> None:
    assert settings.load(overrides=["cluster.address=ray://head:10001"], environ={}).cluster.address


@pytest.mark.parametrize(
    "name",
    ["foo\n", "foo\r", "\nfoo", "foo\u2028", "foo\x00", ".foo", "foo/bar", "a" * 65, "", "é"],
)
def test_a_name_is_a_name_as_a_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for argv in (["train", f"name={name}"], ["train", "--name", name], ["sweep", "--table", name]):
        if name or "--" not in argv[1]:
            assert main(argv) == 2, argv
            assert "use up to 64 letters" in capsys.readouterr().err
    if "\x00" not in name:
        monkeypatch.setenv("RL_UNLEARN__NAME", name)
        assert main(["config", "show"]) == 2
    assert not list(tmp_path.iterdir())
