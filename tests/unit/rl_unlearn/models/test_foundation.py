"""What a run stands on is recorded and compared: a model, an adapter or a list that changed below
it is named.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from experiments import settings
from experiments.__main__ import main
from experiments.runs import resuming
from rl_unlearn.adapters.adapter import read_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME, metadata
from rl_unlearn.config import Model
from rl_unlearn.errors import DataError
from rl_unlearn.files import file_digest
from rl_unlearn.models import foundation


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one's own, a run on it, a run on top of that, and one with prompt lists."""
    root = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny.pipeline_folder(), root / "model")
    for seed in (0, 1):
        shutil.copytree(tiny.clip_folder(seed), root / f"clip-{seed}")
    (root / "forget.txt").write_text("a cat\nthe cat\n")
    (root / "keep.txt").write_text("a dog\na fish\n")
    config = tiny.config(
        output=str(root / "out"), loop={"rounds": 1, "checkpoint_every": 1},
        model={"path": str(root / "model")},
        reward={"clip": str(root / "clip-0")},
        selection={"clip": str(root / "clip-1"), "floor": 0.0, "images": 4},
    )  # fmt: skip
    (root / "c.yaml").write_text(settings.dump(config))
    assert train(root, "base", "concept=cat") == 0
    assert train(root, "top", "concept=dog", "--on", str(root / "out" / "base")) == 0
    lists = [
        f"prompts.target_file={root / 'forget.txt'}",
        f"prompts.retain_file={root / 'keep.txt'}",
    ]
    assert train(root, "listed", "concept=cat", *lists) == 0
    return root


def train(root: Path, name: str, *words: str) -> int:
    command = [
        "train",
        "--config",
        str(root / "c.yaml"),
        "--inline",
        "--no-evaluate",
        "--name",
        name,
    ]
    return main([*command, f"output={root / 'out'}", *words])


@pytest.fixture
def own(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The world under another path, free to be damaged."""
    root = Path(shutil.copytree(world, tmp_path / "world"))
    for file in (root / "out").rglob("config.yaml"):
        file.write_text(file.read_text().replace(str(world), str(root)))
    for file in [root / "c.yaml"]:
        file.write_text(file.read_text().replace(str(world), str(root)))
    for state in (root / "out").rglob("run_state.json"):  # config.yaml is as the run left it
        text = (state.parent / "config.yaml").read_text()
        content = json.loads(state.read_text()) | {
            "configs": [hashlib.sha256(text.encode()).hexdigest()]
        }
        state.write_text(json.dumps(content))
    return root


def whole(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


USES = {
    "generate": lambda run, out: ["generate", "--prompt", "a cat", "--adapter", str(run), "--out",
                                  str(out / "x.png")],
    "export": lambda run, out: ["export", str(run), "--format", "diffusers", "--out",
                                str(out / "exported")],
    "evaluate": lambda run, out: ["evaluate", str(run), f"evaluation.judge={tiny.clip_folder(2)}"],
    "attack": lambda run, out: ["attack", str(run), f"evaluation.judge={tiny.clip_folder(2)}"],
    "resume": lambda run, out: ["resume", str(run), "loop.rounds=2", "--no-evaluate"],
    "on": lambda run, out: [
        "train", "--config", str(run.parents[1] / "c.yaml"), "--inline", "--no-evaluate", "--name",
        "third",
        f"output={run.parent}", "concept=style:noto", "--on", str(run),
    ],
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_another_run_of_the_name_below_is_another_model(use: str, own: Path, capsys: Any) -> None:
    assert train(own, "base", "concept=fish", "--overwrite") == 0
    top = own / "out" / "top"
    before = whole(top)
    capsys.readouterr()
    assert main(USES[use](top, own)) == 5
    said = capsys.readouterr().err
    assert f"{top} stands on the adapter {own / 'out' / 'base'}" in said.replace("\n", " ")
    assert whole(top) == before
    assert not (own / "x.png").exists()


@pytest.mark.parametrize("use", USES)
def test_a_changed_model_file_is_named(use: str, own: Path, capsys: Any) -> None:
    file = own / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["decoder.conv_out.bias"][0] += 0.5
    save_file(state, file, {"format": "pt"})
    assert main(USES[use](own / "out" / "base", own)) == 5
    assert (
        "stands on the model vae/diffusion_pytorch_model.safetensors as it was"
        in capsys.readouterr().err
    )


def test_nothing_changed_is_no_obstacle(own: Path) -> None:
    for use in ("generate", "export", "resume", "on"):
        assert main(USES[use](own / "out" / "top", own)) == 0, use


@pytest.mark.parametrize("name", ["forget.txt", "keep.txt"])
def test_edited_lists_are_other_prompts(name: str, own: Path, capsys: Any) -> None:
    run = own / "out" / "listed"
    before = whole(run)
    (own / name).write_text((own / name).read_text().replace("a ", "one "))
    assert main(["resume", str(run), "loop.rounds=2", "--no-evaluate"]) == 5
    assert (
        f"stands on the prompt list {'target' if name == 'forget.txt' else 'retain'}_file"
        in capsys.readouterr().err
    )
    assert whole(run) == before, "the finished run stays finished"


def test_lists_that_say_the_same_are_the_same(own: Path) -> None:
    (own / "keep.txt").write_bytes(b"\xef\xbb\xbfa\xc2\xa0dog \r\n\r\na  fish")
    assert main(["resume", str(own / "out" / "listed"), "loop.rounds=2", "--no-evaluate"]) == 0


def test_another_reward_clip_is_another_run(own: Path, capsys: Any) -> None:
    shutil.copy(tiny.clip_folder(2) / "open_clip_model.safetensors", own / "clip-0")
    assert main(["resume", str(own / "out" / "base"), "loop.rounds=2", "--no-evaluate"]) == 5
    assert "stands on the CLIP reward" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["model.device=cpu", "model.dtype=fp32", "sampler.steps=3"])
def test_saying_something_else_is_no_leave(other: str, own: Path, capsys: Any) -> None:
    assert train(own, "base", "concept=fish", "--overwrite") == 0
    assert main([*USES["generate"](own / "out" / "top", own), other]) == 5
    assert "stands on the adapter" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["reward.clip", "selection.clip"])
def test_a_clip_that_is_only_a_name_is_compared_by_its_name(key: str) -> None:
    section = key.partition(".")[0]
    configs = [tiny.config(**{section: {"clip": f"ViT-B-{n}/openai"}}) for n in (32, 16)]
    records = [foundation.of_run(config) for config in configs]
    assert resuming.identity(configs[0], records[0]) != resuming.identity(configs[1], records[1])
    assert key in resuming._compared(records[0])
    assert key not in resuming._compared(foundation.of_run(tiny.config()))


def test_a_classifier_that_rewards_is_part_of_the_foundation(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    config = tiny.config(reward={"images": {f"classifier:{tmp_path / 'judge'}:cat": 1.0}})
    before = foundation.of_run(config)
    (tmp_path / "judge" / "config.json").write_text("[]")
    with pytest.raises(DataError, match="stands on the reward classifier:"):
        foundation.check(before, foundation.of_run(config), "it")


def test_what_a_command_says_itself_is_meant(own: Path) -> None:
    assert train(own, "base", "concept=fish", "--overwrite") == 0
    line = USES["generate"](own / "out" / "top", own)
    assert main([*line, f"model.adapters={own / 'out' / 'base'}"]) == 0


def test_an_adapter_alone_knows_what_it_stands_on(own: Path, capsys: Any) -> None:
    file = Path(shutil.copy(own / "out" / "top" / "adapter" / FILE_NAME, own / "alone.safetensors"))
    move = [f"model.path={own / 'model'}"]
    assert train(own, "base", "concept=fish", "--overwrite") == 0
    line = USES["generate"](file, own)
    assert main([*line, *move, f"model.adapters={own / 'out' / 'base'}"]) == 0
    state = load_file(own / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    state["conv_in.bias"] += 1
    save_file(
        state, own / "model" / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DataError, match="stands on the model unet/"):
        foundation.check(
            json.loads(metadata(file)["stands_on"]),
            foundation.of_model(Model(path=str(own / "model"))), str(file), [foundation.MODEL],
        )  # fmt: skip


def test_a_missing_run_below_is_named_with_the_run_that_needs_it(own: Path, capsys: Any) -> None:
    shutil.rmtree(own / "out" / "base")
    assert main(USES["generate"](own / "out" / "top", own)) == 5
    said = " ".join(capsys.readouterr().err.split())
    assert f"{own / 'out' / 'top'}: no adapter at" in said


def test_a_flipped_bit_in_an_adapter_is_seen(own: Path) -> None:
    file = own / "out" / "base" / "adapter" / FILE_NAME
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="does not hold the weights that it was saved with"):
        read_adapter(file)


def test_runs_are_found_from_another_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(own / "out")
    assert train(own, "relative", "concept=dog", "--on", "base") == 0
    monkeypatch.chdir(tmp_path)
    assert main(USES["generate"](own / "out" / "relative", own)) == 0
    assert main(["resume", str(own / "out" / "relative"), "loop.rounds=2", "--no-evaluate"]) == 0


# -- digests ---------------------------------------------------------------------------------------


def test_every_weight_of_every_part_counts(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "model"))
    digests = {foundation.model_digest(Model(path=str(folder)))}
    for file in (
        "unet/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        path = folder / f"{file}.safetensors"
        state = load_file(path)
        name = max(state, key=lambda name: state[name].numel())
        state[name].flatten()[-1] += 1e-3  # not among the first values
        save_file(state, path, {"format": "pt"})
        digests.add(foundation.model_digest(Model(path=str(folder))))
    words = folder / "tokenizer" / "vocab.json"
    if words.is_file():
        words.write_text(words.read_text() + " ")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.012", "0.0121"))
    digests.add(foundation.model_digest(Model(path=str(folder))))
    assert len(digests) == 5
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert foundation.model_digest(Model(path=str(moved))) in digests, (
        "where it lies does not count"
    )


def test_large_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "large"
    file.write_bytes(os.urandom(file_digest._WORTH_KEEPING))
    first = file_digest.file_digest(file)
    read = []
    monkeypatch.setattr(file_digest.hashlib, "file_digest", lambda *_: read.append(1))
    assert file_digest.file_digest(file) == first
    assert not read
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    about = file.stat()
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    os.utime(
        file, ns=(about.st_atime_ns, about.st_mtime_ns)
    )  # neither size nor time of change tell
    assert file_digest.file_digest(file) != first
    file_digest.cache_file().write_text("[" * 100_000)
    assert file_digest.file_digest(file) != first


def test_a_home_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    (tmp_path / "large").write_bytes(bytes(file_digest._WORTH_KEEPING))
    assert len(file_digest.file_digest(tmp_path / "large")) == 64


def test_a_critic_of_another_model_is_refused(own: Path, capsys: Any) -> None:
    state = load_file(own / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    state["conv_in.bias"] += torch.ones(1)
    other = Path(shutil.copytree(own / "model", own / "other"))
    save_file(state, other / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    words = ["concept=dog", f"model.path={other}", "--critic-from", str(own / "out" / "base")]
    assert train(own, "second", *words) == 5
    assert "learned from the latents of another model" in capsys.readouterr().err
    assert train(own, "second", "concept=dog", "--critic-from", str(own / "out" / "base")) == 0
