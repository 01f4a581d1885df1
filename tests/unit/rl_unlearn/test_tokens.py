"""What a text encoder cuts off is quoted, and prompts that it cannot tell apart are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from conftest import ROOT

from experiments.__main__ import main
from experiments.doctor import preflight
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models.tokens import TokenLimit
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

# Every letter of the tiny world is a token.
LONG = "a picture of very many small things that goes on and on"


def listed(tmp_path: Path, target: str, retain: str, concept: str = "things") -> Config:
    (tmp_path / "t.txt").write_text(target)
    (tmp_path / "r.txt").write_text(retain)
    files = {"target_file": str(tmp_path / "t.txt"), "retain_file": str(tmp_path / "r.txt")}
    return tiny.config(concept=concept, prompts=files)


def test_what_is_cut_is_quoted(tmp_path: Path) -> None:
    config = listed(tmp_path, LONG + "\na thing", "a dog")
    limit = TokenLimit(tiny.pipeline_folder())
    (line,) = limit.check(PromptBook.from_config(config))
    assert "a prompt is longer than the 32 tokens" in line
    assert LONG in line
    kept = len(LONG.replace(" ", "")) - 30
    lost = limit.cut([LONG])[LONG].replace(" ", "")
    assert lost == LONG.replace(" ", "")[-kept:], "two of 32 are the marks"
    assert limit.notes(["a dog"]) == []


def test_what_is_cut_has_no_effect_and_what_is_not_has() -> None:
    policy = DiffusionPolicy(load_pipeline(tiny.config().model), tiny.config())
    limit = TokenLimit(tiny.pipeline_folder())
    whole = "".join("abcdefghij"[i % 10] for i in range(30))
    for text, other in ((whole + "x", whole + "y"), (whole, whole[:-1] + "z")):
        same = limit.read([text])[0] == limit.read([other])[0]
        assert same == torch.equal(*policy.encode([text, other]).text)
    assert limit.cut([whole]) == {}
    assert limit.cut([whole + "x"]) == {whole + "x": "x"}


def test_prompts_that_differ_only_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    config = listed(tmp_path, LONG + " one", LONG + " two")
    with pytest.raises(
        ConfigError, match=r"are the same to the model: it reads 32 tokens"
    ) as caught:
        preflight.model(config)
    assert "\n" not in str(caught.value)


def test_the_canvas_reads_all_its_prompts() -> None:
    assert preflight.check(Config()) == []


def test_generate_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "generate",
        f"model.path={tiny.pipeline_folder()}",
        "sampler.steps=2",
        "--out",
        str(tmp_path / "x.png"),
    ]
    assert main([*line, "--prompt", LONG]) == 0
    assert "warning: a prompt is longer than the 32 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["concept=cta"], 2, "did you mean 'cat'"),
        (["reward.anchor=dgo"], 2, "did you mean 'dog'"),
        (["prompts.objects=cat,dog,cat"], 2, "twice"),
        (["prompts.template=a picture"], 2, "to be forgotten and to be kept"),
        (
            ["prompts.target_file=nowhere.txt", "prompts.retain_file=nowhere.txt"],
            5,
            "cannot be read",
        ),
        (["learner.batch=4"], 2, "rollout.images"),
        (["reward.clip=ViT-B-23/openai"], 5, "did you mean 'ViT-B-32'"),
        (["model.path=./nowhere"], 5, "is no folder"),
        (["--on", "nowhere"], 5, "no adapter at"),
        (["--critic-from", "nowhere"], 5, "holds no critic.safetensors"),
        (["--start", "nowhere"], 5, "no adapter at"),
        (["lora.start=nowhere"], 5, "no adapter at"),
        (["--start", "here", "--on", "there"], 2, "give one of them"),
        (["evaluation.judge=canvas:nobody"], 2, "the canvas has"),
    ],
)
def test_what_is_cheap_to_see_is_told_before_torch_is_imported(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    program = (
        "import sys; from experiments.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(99 if {'torch', 'diffusers', 'ray'} & set(sys.modules) else code)"
    )
    line = [
        sys.executable,
        "-c",
        program,
        "train",
        "--inline",
        f"output={tmp_path / 'out'}",
        *words,
    ]
    ended = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    assert said in ended.stderr
    assert ended.returncode == code
    assert not (tmp_path / "out").exists()
