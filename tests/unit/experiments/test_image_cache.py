"""The cache of images: found by content, continued after a kill, distrusted when damaged."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from conftest import ROOT

from actors.images import Images, ModelVariant
from experiments import settings
from experiments.evaluation.image_cache import FOLDER, cached
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError
from rl_unlearn.evaluation.images import plan
from rl_unlearn.noise import generator
from rl_unlearn.prompts import PromptBook


class FakeSource:
    """Draws noise named by the request, counts, and may stop half-way."""

    def __init__(self, digest: str = "model", breaks_after: int = 10**9):
        self.drawn, self._digest, self._left = 0, digest, breaks_after

    def model_digest(self) -> str:
        return self._digest

    def draw(self, variant, batches, keep):
        for number, (texts, seeds) in reversed(
            batches.items()
        ):  # the order of arrival does not count
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
            self.drawn += len(texts)
            rows = [
                torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=generator(seed, text))
                for text, seed in zip(texts, seeds, strict=True)
            ]
            keep(number, Images(torch.stack(rows), seconds=1.0, peak_memory_bytes=100 + number))


def setting(tmp_path: Path, **evaluation: int | str) -> tuple[Config, ModelVariant]:
    config = tiny.config(
        output=str(tmp_path), evaluation={"per_prompt": 3, "batch": 4, **evaluation}
    )
    return config, ModelVariant(config.lora, None)


def ask(config: Config, variant: ModelVariant, source: FakeSource):
    return cached(variant, plan(PromptBook.from_config(config), config), config, source)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / FOLDER).rglob("*.safetensors"))


def test_a_second_question_draws_nothing_and_gives_the_same(tmp_path):
    config, variant = setting(tmp_path)
    source = FakeSource()
    first = ask(config, variant, source)
    images = torch.cat(list(first.images()))
    assert (source.drawn, first.drawn, len(images)) == (18, 18, 18)
    assert (first.seconds, first.peak_memory_bytes) == (5.0, 104)
    again = ask(config, variant, FakeSource())
    assert again.drawn == 0
    assert (again.seconds, again.peak_memory_bytes) == (5.0, 104), (
        "the cost is that of drawing, whenever it was"
    )
    assert torch.equal(torch.cat(list(again.images())), images)


def test_a_stopped_evaluation_continues_where_it_was(tmp_path):
    config, variant = setting(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ask(config, variant, FakeSource(breaks_after=2))
    assert len(files(tmp_path)) == 2
    steps: list[tuple[int, int]] = []
    source = FakeSource()
    images = plan(PromptBook.from_config(config), config)
    resumed = cached(
        variant, images, config, source, lambda done, total: steps.append((done, total))
    )
    assert source.drawn == resumed.drawn == 12
    assert steps == [(6, 18), (10, 18), (14, 18), (18, 18)]
    whole = ask(
        config.model_copy(update={"output": str(tmp_path / "other")}), variant, FakeSource()
    )
    assert torch.equal(torch.cat(list(resumed.images())), torch.cat(list(whole.images())))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: b"",
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    ],
    ids=["cut", "empty", "one bit"],
)
def test_a_damaged_file_is_drawn_again(damage, tmp_path):
    config, variant = setting(tmp_path)
    images = torch.cat(list(ask(config, variant, FakeSource()).images()))
    victim = files(tmp_path)[2]
    victim.write_bytes(damage(victim.read_bytes()))
    source = FakeSource()
    again = ask(config, variant, source)
    assert 0 < source.drawn <= 4
    assert torch.equal(torch.cat(list(again.images())), images)


def test_whatever_decides_the_images_decides_the_key(tmp_path):
    config, variant = setting(tmp_path)
    ask(config, variant, FakeSource())
    state = {"a.lora_A.weight": torch.ones(2, 2)}
    changed = [
        (config, ModelVariant(config.lora, state), "model"),
        (config, ModelVariant(config.lora, {"a.lora_A.weight": torch.zeros(2, 2)}), "model"),
        (config, variant, "another model"),
        (
            tiny.config(
                output=str(tmp_path),
                sampler={"steps": 5},
                evaluation=config.evaluation.model_dump(),
            ),
            variant,
            "model",
        ),
        (setting(tmp_path, seed=1)[0], variant, "model"),
        (setting(tmp_path, scheduler="dpm++")[0], variant, "model"),
        (setting(tmp_path, scheduler="euler")[0], variant, "model"),
        (setting(tmp_path, scheduler="euler", steps=7)[0], variant, "model"),
        (
            config.model_copy(update={"model": config.model.model_copy(update={"size": (24, 16)})}),
            variant,
            "model",
        ),
    ]
    for number, (other, tool, digest) in enumerate(changed):
        assert ask(other, tool, FakeSource(digest)).drawn == 18, number
        assert ask(other, tool, FakeSource(digest)).drawn == 0, number
    steps = config.sampler.steps
    as_many = setting(tmp_path, scheduler="euler", steps=steps)[0]
    assert ask(as_many, variant, FakeSource()).drawn == 0, "the same number, said or not"
    judged = config.model_copy(update={"seed": 5, "concept": "dog"})
    assert ask(judged, variant, FakeSource()).drawn == 0, (
        "neither the run's seed nor its concept changes an image here"
    )


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / FOLDER).write_text("in the way")
    config, variant = setting(tmp_path)
    with pytest.raises(MachineError, match="output="):
        ask(config, variant, FakeSource())


@pytest.mark.faults
@pytest.mark.slow
def test_an_evaluation_killed_half_way_continues(tmp_path):
    config = tiny.config(
        output=str(tmp_path / "out"),
        evaluation={
            "per_prompt": 100,
            "batch": 8,
            "judge": str(tiny.clip_folder(2)),
            "resamples": 100,
        },
    )
    run = tmp_path / "out" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(settings.dump(config))
    (run / "run_state.json").write_text("{}")
    from rl_unlearn.families.pipeline import load_pipeline
    from rl_unlearn.policy import DiffusionPolicy

    save_adapter(
        run / "adapter",
        DiffusionPolicy(load_pipeline(config.model), config).adapter_state(),
        config,
    )
    command = [sys.executable, "-m", "experiments", "evaluate", str(run)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 200
    while len(files(tmp_path / "out")) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(files(tmp_path / "out"))
    assert 3 <= kept < 150
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    first = next(
        line for line in done.stderr.splitlines() if line.startswith("untouched: 600 images")
    )
    assert int(first.split("images, ")[1].split()[0]) >= 8 * min(kept, 75)
