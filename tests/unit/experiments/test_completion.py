"""Completion: what the scripts offer is what the parser takes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from experiments import completion, presets
from experiments.__main__ import PATHS, VERBS, main, make_parser
from rl_unlearn.estimators import NAMES

ASK = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}
_rl_unlearn
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, as the real command prints it."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "fish"):
        command = [sys.executable, "-m", "experiments", "completion", shell]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        (folder / shell).write_text(done.stdout)
    return folder


def offered(scripts: Path, words: str) -> set[str]:
    """What bash offers for the last of the words; '=' is one of its own there."""
    ask = ASK.format(script=scripts / "bash", words=words)
    done = subprocess.run(["bash", "-c", ask], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('rl-unlearn ""', set(VERBS)),
        ("rl-unlearn tra", {"train"}),
        ("rl-unlearn evaluate outputs/x --f", {"--full"}),
        ("rl-unlearn train --config sd15", {"sd15_object", "sd15_style"}),
        ("rl-unlearn train --config = canv", {"canvas"}),
        ("rl-unlearn sweep --space seed", {"seeds"}),
        ('rl-unlearn train --resume ""', {"auto"}),
        ('rl-unlearn train --name ""', set()),
        ('rl-unlearn export x --format ""', {"diffusers", "kohya", "merged"}),
        ('rl-unlearn completion ""', {"bash", "zsh", "fish"}),
        ("rl-unlearn train learn", {"learner."}),
        ("rl-unlearn train conc", {"concept="}),
        ("rl-unlearn evaluate learner.lr_f", {"learner.lr_floor="}),
        ("rl-unlearn train estimator.name =", set(NAMES)),
        ("rl-unlearn train cluster.inline = t", {"true"}),
        ("rl-unlearn train model.path = READ", {"README.md"}),
        ("rl-unlearn resume READ", {"README.md"}),
        ("rl-unlearn train --on READ", {"README.md"}),
        ("rl-unlearn train READ", set()),
    ],
)
def test_bash_offers_what_the_command_takes(words: str, expected: set[str], scripts: Path) -> None:
    assert offered(scripts, words) == expected


def test_every_option_of_every_verb_is_offered(scripts: Path) -> None:
    for verb in completion.verbs(make_parser()):
        flags = {option.flag for option in verb.options}
        assert {"--help", "--json", "--debug"} <= flags
        assert offered(scripts, f"rl-unlearn {verb.name} --") == flags
        for shell in ("zsh", "fish"):
            text = (scripts / shell).read_text()
            assert all(flag.removeprefix("--") in text for flag in flags)


def test_what_names_a_file_has_a_metavar_that_says_so() -> None:
    """Completion knows files by their metavars, the check against addresses by their names."""
    found = set()
    for verb in VERBS:
        parser = make_parser()._actions[-1].choices[verb]  # type: ignore[index, call-overload]
        for action in parser._actions:
            assert (action.metavar in completion.FILES) == (action.dest in PATHS), (
                verb,
                action.dest,
            )
            found.add(action.dest)
    assert found >= PATHS


def test_shipped_names_are_in_all_scripts(scripts: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        text = (scripts / shell).read_text()
        assert text.startswith("#")
        assert all(name in text for name in presets.names() + presets.names(presets.SPACES))


def test_the_bash_script_has_no_pitfalls(scripts: Path) -> None:
    check = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [str(check), "--shell=bash", str(scripts / "bash")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_is_there_reads_its_script(shell: str, scripts: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "-n", str(scripts / shell)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_holds_the_script(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash", "--json"]) == 0
    outcome = json.loads(capfd.readouterr().out)
    assert outcome["shell"] == "bash"
    assert "complete -F _rl_unlearn rl-unlearn" in outcome["script"]


def test_an_unknown_shell_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    line = capsys.readouterr().err
    assert "tcsh" in line
    assert "fish" in line
