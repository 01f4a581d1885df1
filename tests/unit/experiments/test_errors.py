"""Every mistake a user can make: one line, the documented exit code, and nothing half-written."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from conftest import ROOT
from safetensors.torch import save_file

from experiments.__main__ import main
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.policy import DiffusionPolicy

Refuses = Callable[..., None]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def command(*argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the real command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def refuses(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refuses:
    """Runs the command here, as on a machine without a GPU: one error line, its exit code, nothing
    on stdout.
    """
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(ROOT)

    def check(code: int, hint: str, *argv: str) -> None:
        capfd.readouterr()
        found = main(argv)
        out, said = capfd.readouterr()
        assert len(said.splitlines()) == 1, said
        assert said.startswith("error: ")
        assert hint in said
        assert (found, out) == (code, "")

    return check


@pytest.mark.parametrize(
    ("override", "code", "hint"),
    [
        ("concept=cta", 2, "did you mean 'cat'"),
        ("concept=style:twemojo", 2, "style:twemoji"),
        ("concept=twemoji", 2, "style:twemoji"),
        ("learner.lrr=1e-4", 2, "did you mean 'learner.lr'?"),
        ("sampler.eta=0", 2, "must be greater than 0"),
        ("model.path=/nowhere/model", 5, "/nowhere/model"),
        ("model.path=./model", 5, "./model"),
        ("model.device=cuda", 3, "no usable GPU"),
        ("output=/proc/runs", 3, "cannot write"),
        ("name=..", 2, "letters"),
    ],
)
def test_bad_overrides(
    refuses: Refuses, override: str, code: int, hint: str, outputs: Path
) -> None:
    refuses(code, hint, "train", "--inline", f"output={outputs}", override)
    assert not outputs.exists()


def test_missing_config_file(refuses: Refuses, outputs: Path) -> None:
    refuses(2, "none.yaml", "train", "--config", "none.yaml", f"output={outputs}")


def test_pickled_weights(refuses: Refuses, tmp_path: Path, outputs: Path) -> None:
    unet = shutil.copytree(tiny.pipeline_folder(), tmp_path / "model") / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    refuses(
        5,
        "safetensors",
        "train",
        "--inline",
        f"model.path={tmp_path / 'model'}",
        f"output={outputs}",
    )
    assert not outputs.exists()


def test_a_prompt_list_with_a_line_of_a_megabyte(
    refuses: Refuses, tmp_path: Path, outputs: Path
) -> None:
    (tmp_path / "long.txt").write_text("a cat\n" + "x" * 2**20 + "\n")
    (tmp_path / "keep.txt").write_text("a dog\n")
    refuses(
        5,
        "line 2",
        "generate",
        "--prompts",
        str(tmp_path / "long.txt"),
        "--out",
        str(tmp_path / "x.png"),
    )
    refuses(
        5, "line 2", "train", "--inline", f"output={outputs}",
        f"prompts.target_file={tmp_path / 'long.txt'}",
        f"prompts.retain_file={tmp_path / 'keep.txt'}",
    )  # fmt: skip
    assert not outputs.exists()
    assert not (tmp_path / "x.png").exists()


def test_output_below_a_file(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuses(3, "cannot write", "train", f"output={tmp_path / 'file' / 'runs'}")


def test_a_run_is_not_overwritten_unasked(refuses: Refuses, outputs: Path) -> None:
    (outputs / "mine").mkdir(parents=True)
    precious = outputs / "mine" / "thesis.txt"
    precious.write_text("words")
    refuses(2, "--overwrite", "train", "--name", "mine", f"output={outputs}")
    refuses(2, "no run folder", "train", "--name", "mine", "--overwrite", f"output={outputs}")
    assert precious.read_text() == "words"


def test_a_name_that_leads_out(refuses: Refuses, outputs: Path, tmp_path: Path) -> None:
    outputs.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (outputs / "link").symlink_to(tmp_path / "elsewhere")
    refuses(2, "leads out", "train", "--name", "link", "--overwrite", f"output={outputs}")


def test_a_bad_second_start_leaves_the_first_run(refuses: Refuses, outputs: Path) -> None:
    (outputs / "cat-seed0").mkdir(parents=True)
    state = outputs / "cat-seed0" / "run_state.json"
    state.write_text("{}")
    refuses(
        5,
        "/nowhere",
        "train",
        "--inline",
        "--overwrite",
        "model.path=/nowhere/model",
        f"output={outputs}",
    )
    assert state.read_text() == "{}"


@pytest.mark.parametrize("verb", [["evaluate"], ["export", "--format", "kohya", "--out", "OUT"]])
@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (None, "no adapter"),
        (b"", "not a valid"),
        (b"\xff" * 100, "not a valid"),
        ("keys", "holds no LoRA"),
    ],
    ids=["missing", "empty", "noise", "other keys"],
)
def test_bad_adapters(
    refuses: Refuses, verb: list[str], content: bytes | str | None, hint: str, tmp_path: Path
) -> None:
    if content == "keys":
        save_file({"weight": tiny.torch.zeros(2)}, tmp_path / FILE_NAME)
    elif isinstance(content, bytes):
        (tmp_path / FILE_NAME).write_bytes(content)
    out = tmp_path / "exported"
    refuses(
        5, hint, verb[0], str(tmp_path), *(str(out) if word == "OUT" else word for word in verb[1:])
    )
    assert not out.exists()


def test_a_pickled_adapter(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "lora.bin").write_bytes(b"\x80\x04.")
    refuses(5, "pickle", "generate", "--prompt", "a cat", "--adapter", str(tmp_path / "lora.bin"))


def test_an_adapter_of_another_model(refuses: Refuses, tmp_path: Path) -> None:
    config = tiny.config()
    state = DiffusionPolicy(load_pipeline(config.model), config).adapter_state()
    save_adapter(
        tmp_path,
        {name.replace("down_blocks.1", "down_blocks.0"): t for name, t in state.items()},
        config,
    )
    refuses(
        5,
        "does not fit",
        "generate",
        "--prompt",
        "a cat",
        "--adapter",
        str(tmp_path),
        "--out",
        str(tmp_path / "x.png"),
    )
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("address", "code", "hint"),
    [
        ("127.0.0.1:1", 3, "no Ray cluster answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", 3, "no Ray cluster answers"),
        ("somewhere", 2, "HOST:PORT"),
        ("host:port", 2, "HOST:PORT"),
    ],
)
def test_no_cluster_at_the_address(
    refuses: Refuses, address: str, code: int, hint: str, outputs: Path
) -> None:
    refuses(code, hint, "train", "--address", address, f"output={outputs}")
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["config", "show", "learner.lrr=1"], 2),
        pytest.param(
            ["train", "--inline", "model.path=/nowhere", "output=/tmp/never-made"],
            5,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_process_itself_ends_so(argv: list[str], code: int) -> None:
    found, out, said = command(*argv)
    assert (found, out) == (code, "")
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    assert not Path("/tmp/never-made").exists()
