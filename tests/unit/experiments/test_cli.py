"""The command line: quick help, layered configuration, and help with spelling."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from experiments import settings, strict_yaml
from experiments.__main__ import VERBS, main
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.config import Config, Lora
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook


def load(
    *overrides: str, files: tuple[Path, ...] = (), environ: dict[str, str] | None = None
) -> Config:
    return settings.load([str(file) for file in files], overrides, environ or {})


def fails(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    assert main(argv) == code
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    return lines[0]


def used_seconds() -> float:
    """Processor time of finished children: a busy machine does not slow it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_quick_and_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\n"
        "from experiments.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'matplotlib', 'pyarrow'} & "
        "set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    start = used_seconds()
    done = subprocess.run(
        [sys.executable, "-c", code, *filter(None, [verb]), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    seconds = used_seconds() - start
    assert done.returncode == 0, done.stderr
    assert "usage: rl-unlearn" in done.stdout
    assert "exit codes" in done.stdout
    assert seconds < 1.5


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("rl-unlearn 0.")


# -- layers of configuration -----------------------------------------------------------------------


def test_later_layers_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("seed: 1\nlearner:\n  lr: 1e-4\n  batch: 8\n")
    second.write_text("learner.lr: 2e-4\n")
    environ = {"RL_UNLEARN__SEED": "5", "RL_UNLEARN__CONCEPT": "dog", "OTHER": "x"}
    assert load(files=(first,)).learner.lr == 1e-4
    both = load("concept=frog", files=(first, second), environ=environ)
    assert (both.learner.lr, both.learner.batch, both.seed, both.concept) == (2e-4, 8, 5, "frog")


def test_defaults_alone_are_valid() -> None:
    assert load() == Config()


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments" / "configs").glob("*.yaml")), ids=lambda file: file.name
)
def test_shipped_configurations_are_valid_and_commented(file: Path) -> None:
    load(files=(file,))
    for line in file.read_text().splitlines():
        assert not line or line.endswith(":") or "#" in line, line


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("0.5", 0.5), ("1E-3", 1e-3), (".5", 0.5)]
)
def test_numbers_are_numbers(text: str, value: float, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"learner:\n  lr: {text}\n")
    assert load(files=(file,)).learner.lr == value
    assert load(f"learner.lr={text}").learner.lr == value
    assert load(environ={"RL_UNLEARN__LEARNER__LR": text}).learner.lr == value


def test_words_stay_words() -> None:
    assert load("concept=no").concept == "no"
    assert load("name=1e4").run_name == "1e4"
    assert load("concept=style:twemoji").concept == "style:twemoji"
    assert load("concept=style:noto,style:flat").concept == "style:noto,style:flat", "no list"
    assert load("name=null").name is None
    assert load("prompts.objects=cat,dog").prompts.objects == ("cat", "dog")
    assert load("prompts.objects=[cat, dog]").prompts.objects == ("cat", "dog")
    assert load("cluster.inline=true").cluster.inline is True


def test_a_refused_value_is_explained_on_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"concept='cat,,dog': name what to forget.*\(What to forget[^\n]*\)$"
    ):
        load("concept=cat,,dog")


def test_a_dump_reads_back_equal(tmp_path: Path) -> None:
    config = load(
        "name=1e4", "concept=true", "learner.lr=1e-05", "prompts.objects=[on, off]", "model.path=~"
    )
    file = tmp_path / "c.yaml"
    file.write_text(settings.dump(config))
    assert load(files=(file,)) == config


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("learner.lrr=1", "did you mean 'learner.lr'?"),
        ("lr=1", "'critic.lr' or 'learner.lr'"),
        ("leaner.lr=1", "'learner.lr'"),
        ("concpt=frog", "did you mean 'concept'?"),
        ("guidence=2", "did you mean 'sampler.guidance'?"),
        ("qqqq=1", "config show"),
        ("learner=1", "is a section"),
        ("frog", "KEY=VALUE"),
        ("sampler.eta=0", "must be greater than 0"),
        ("model.device=gpu", "must be 'auto', 'cpu' or 'cuda'"),
        ("seed=-1", "seed=-1"),
        ("seed=two", "must be a valid integer"),
        ("learner.lr=.nan", "must be"),
        ("seed=[", "seed"),
        ("cluster.inline=yes", "must be a valid boolean"),
        ("name=../up", "letters"),
        ("name=", "letters"),
        ("name=a/b", "letters"),
        ("name=" + "x" * 65, "64"),
        ("concept=a,,b", "name what to forget"),
        ("name=x\x1b[31m", "letters"),
    ],
)
def test_a_wrong_override_is_explained(
    override: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, "config", "show", override)
    assert hint in line
    assert override.partition("=")[0] in line
    assert line.isprintable()


def test_the_source_of_a_wrong_value_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sampler:\n  eta: 0\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: sampler\.eta=0: must be greater than 0"):
        load(files=(file,))
    with pytest.raises(ConfigError, match="variable RL_UNLEARN__LEARNER__LRR: unknown key"):
        load(environ={"RL_UNLEARN__LEARNER__LRR": "1"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\nseed: 2\n", "line 2: duplicate key 'seed'"),
        ("learner:\n  lr: 1\nlearner.lr: 2\n", "duplicate key 'learner.lr'"),
        ("learner: &a\n  lr: 0.1\ncritic: *a\n", "anchors and aliases"),
        ("a: [1, 2\n", "line"),
        ("- 1\n- 2\n", "key: value"),
        ("learner: 3\n", "is a section"),
        ("learner:\n  lrr: 3\n", "did you mean 'learner.lr'?"),
        ("? [a, b]\n: 1\n", "plain words"),
        ("1e999: 1\n", "line 1: keys are plain words: '1e999' needs quotes"),
        ("null: 1\n", "needs quotes"),
        ("seed: 1\n---\nseed: 2\n", "document"),
        ("seed: " + "9" * 5000, "YAML"),
        ("seed: " + "[" * 50_000, "nested more than 20 levels deep"),
        ("concept: !!bool maybe", "line 1: tags such as !!bool are not allowed"),
        ("concept: !!timestamp x", "tags such as !!timestamp"),
        ("concept: ! cat", "tags such as !"),
        ("a: 1\nlearner: !!python/object/apply:os.system [ls]", "line 2: tags such as !!python"),
        ('concept: "\\ud800"', "half of a surrogate pair"),
        ("seed: \x00", "YAML"),
        ("seed: 1 # " + "x" * strict_yaml.MAX_BYTES, "larger than"),
        ("concept: true", "valid string"),
    ],
)
def test_a_bad_file_is_explained(
    text: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    line = fails(capsys, "config", "show", "--config", str(file))
    assert problem in line
    assert "bad.yaml" in line
    assert len(line) < 1100


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in fails(
        capsys, "config", "show", "--config", str(tmp_path / "none.yaml")
    )
    (tmp_path / "latin.yaml").write_bytes(b"concept: \xe9\n")
    assert "UTF-8" in fails(capsys, "config", "show", "--config", str(tmp_path / "latin.yaml"))


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, error = capsys.readouterr()
    assert all(verb in out for verb in ("train", "doctor"))
    assert not error


@pytest.mark.parametrize(
    ("word", "name"),
    [("ddpo", "terminal"), ("GRPO", "group"), ("cgru", "critic"), ("pathwise", "pathwise")],
)
def test_estimators_have_the_names_that_people_know(word: str, name: str) -> None:
    assert load(f"estimator.name={word}").estimator.name == name


def test_there_is_one_recipe_of_the_canvas() -> None:
    assert load(files=(Path("canvas"),)).model_copy(update={"reward": load().reward}) == load()
    anchors = [
        PromptBook.from_config(load(files=files)).anchors for files in ((), (Path("canvas"),))
    ]
    assert anchors[0] == anchors[1]


def test_paths_of_a_run_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "below", "judge"):
        (tmp_path / name).mkdir()
    (tmp_path / "forget.txt").write_text("a cat")
    found = load(
        "model.path=model", "model.adapters=below", "evaluation.judge=judge",
        "prompts.target_file=forget.txt",
        "prompts.retain_file=not-there.txt", "reward.images={classifier:judge:cat: 1.0}",
        "reward.clip=ViT-B-32/openai",
    )  # fmt: skip
    assert (found.model.path, found.model.adapters) == (
        str(tmp_path / "model"),
        (str(tmp_path / "below"),),
    )
    assert found.evaluation.judge == str(tmp_path / "judge")
    assert found.prompts.target_file == str(tmp_path / "forget.txt")
    assert found.prompts.retain_file == "not-there.txt", (
        "what is not there is named as it was given"
    )
    assert list(found.reward.images) == [f"classifier:{tmp_path / 'judge'}:cat"]
    assert (found.reward.clip, load().model.path) == ("ViT-B-32/openai", "canvas")


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["xyz"], "use demo"),
        (["--nonsense"], "--help"),
        (["train", "--overwite"], "--overwite"),
        (["train", "--over"], "--over"),
        (["config", "shwo"], "shwo"),
        (["generate"], "--prompt"),
        (["generate", "--prompt", "x", "--seeds", "a"], "0,1,2"),
        (["generate", "--prompt", "x", "--out", "x.jpg"], ".png"),
        (["generate", "--prompt", "x" * 1001], "1000"),
        (["export", "run", "--format", "onnx", "--out", "x"], "kohya"),
        (["evaluate"], "RUN_OR_ADAPTER"),
    ],
)
def test_a_wrong_command_line_is_explained(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in fails(capsys, *argv)


# -- output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [[], ["--inline"]])
def test_the_demo_is_a_train_command(
    mode: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As far as that goes before anything heavy starts: the concept is looked up on the canvas."""
    said = fails(capsys, "demo", *mode, "--seed", "1", "concept=unicorn", f"output={tmp_path}")
    assert "concept 'unicorn' is not in this world" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def begun_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path]]:
    """Configuration and folder of every run that a command would have begun."""
    found: list[tuple[Config, Path]] = []

    def run(config: Config, folder: Any, *_: Any, **__: Any) -> dict[str, Any]:
        found.append((config, folder.path))
        return {"images_used": 1, "updates": 1, "wall_seconds": 1.0, "report": "report.html"}

    monkeypatch.setattr("experiments.run.run", run)
    return found


def test_the_demo_trains_with_the_canvas_configuration(
    begun_runs: list[tuple[Config, Path]], tmp_path: Path
) -> None:
    for _ in range(2):  # it replaces itself
        assert main(["demo", "--inline", "--seed", "3", "concept=frog", f"output={tmp_path}"]) == 0
    (config, folder), _ = begun_runs
    expected = load("concept=frog", "seed=3", files=(Path("canvas"),))
    assert folder == tmp_path / "demo"
    assert (config.concept, config.seed, config.cluster.inline) == ("frog", 3, True)
    assert (config.rollout, config.critic, config.loop, config.reward) == (
        expected.rollout, expected.critic, expected.loop, expected.reward
    )  # fmt: skip


def test_train_stands_on_a_run_and_starts_from_its_critic(
    begun_runs: list[tuple[Config, Path]], tmp_path: Path
) -> None:
    config = Config(concept="cat", output=str(tmp_path))
    save_adapter(
        tmp_path / "first" / "adapter",
        {f"a.attn2.to_q.lora_{side}.weight": torch.zeros(1, 1) for side in "AB"},
        config,
    )
    save_file({"a": torch.zeros(1)}, tmp_path / "first" / "critic.safetensors")
    argv = [
        "train",
        "--inline",
        "concept=frog",
        f"output={tmp_path}",
        "--on",
        str(tmp_path / "first"),
    ]
    assert main([*argv, "--critic-from", str(tmp_path / "first")]) == 0
    ((found, _),) = begun_runs
    assert found.model.adapters == (str(tmp_path / "first"),)
    assert found.critic.start == str(tmp_path / "first")


def test_a_run_starts_from_an_adapter_of_its_own_shape(
    tmp_path: Path, begun_runs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = Config(concept="cat", output=str(tmp_path), lora=Lora(rank=4, layers="attention"))
    state = {
        f"a.attn{number}.to_q.lora_{side}.weight": torch.zeros(shape)
        for number in (1, 2)
        for side, shape in (("A", (4, 3)), ("B", (3, 4)))
    }
    save_adapter(tmp_path / "first" / "adapter", state, first)
    argv = ["train", "--inline", f"output={tmp_path}", "--start", str(tmp_path / "first")]
    assert main(argv) == 0
    ((found, _),) = begun_runs
    assert found.lora == Lora(rank=4, layers="attention", start=str(tmp_path / "first"))
    assert main([*argv, "name=other", "lora.rank=8"]) == 2
    assert "has rank 4 and lora.rank is 8" in capsys.readouterr().err


def test_a_bug_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> dict[str, Any]:
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr("experiments.run.run", broken)
    assert main(["train", "--inline", f"output={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ZeroDivisionError" in error
    assert "--debug" in error


def test_config_show_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "learner.lr=1e-5"]) == 0
    assert strict_yaml.parse(capsys.readouterr().out, "stdout")["learner"]["lr"] == 1e-5
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert "description" in schema["$defs"]["Learner"]["properties"]["lr"]


def test_json_is_the_only_thing_on_stdout() -> None:
    def run(*argv: str) -> tuple[int, dict[str, object], str]:
        done = subprocess.run(
            [sys.executable, "-m", "experiments", *argv], cwd=ROOT, capture_output=True, text=True
        )
        return done.returncode, json.loads(done.stdout), done.stderr

    code, shown, said = run("config", "show", "--json", "concept=frog")
    assert (code, shown["concept"], said) == (0, "frog", "")
    code, shown, said = run("config", "show", "--json", "seed=x")
    assert code == shown["exit_code"] == 2
    assert "seed" in str(shown["error"])
    assert len(said.splitlines()) == 1


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--debug", "seed=x"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_overrides_may_stand_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "seed=3", "--json", "concept=frog"]) == 0
    assert json.loads(capfd.readouterr().out)["concept"] == "frog"


def test_a_library_that_swallows_the_signal_does_not_hide_it() -> None:
    """As Ray does while it waits: what it raises does not say which signal came."""
    code = (
        "import os, signal, sys, time\n"
        "from experiments import __main__ as program\n"
        "def wait(args):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(9)\n"
        "    except KeyboardInterrupt:\n        raise KeyboardInterrupt from None\n"
        "program.args_run = wait\n"
        "sys.exit(program.main(['config', 'show']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "stopped\n")
