"""Every reader takes damaged files: it reads what is still valid, and refuses the rest in one line
of the project's.
"""

import json
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from mutations import put_through
from PIL import Image
from safetensors.torch import save_file
from tiny_batches import trajectories
from tiny_runs import ask_for, make_run, make_trial

from actors.critic import CriticActor
from cluster import program
from experiments import settings
from experiments.files import to_json
from experiments.report import curves, run_view, tiles
from experiments.report.report import write_report
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import LEDGER, recorded, verify
from experiments.runs.manifest import MANIFEST, PARTS
from experiments.runs.recorder import Recorder
from experiments.runs.resuming import check, trim
from experiments.runs.rows import EventRow, read_rows
from experiments.runs.run_folder import RunFolder
from experiments.runs.run_state import read_state
from experiments.sweep import front, space_file, table
from experiments.sweep.summary import summarize
from experiments.sweep.trial import final
from rl_unlearn.adapters.adapter import read_adapter, save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME, metadata
from rl_unlearn.attacks.record import read_attacks
from rl_unlearn.clip import clip_source
from rl_unlearn.config import Config
from rl_unlearn.critic_file import FILE_NAME as CRITIC
from rl_unlearn.critic_file import load_critic, save_critic
from rl_unlearn.errors import DataError
from rl_unlearn.evaluation.record import read_evaluation
from rl_unlearn.files import spilled
from rl_unlearn.models import model_folder
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompt_file import read_prompts

QUICK, MANY = 50, 2000
MOST_BYTES = 2**31
"""Of memory that reading a small file may add."""


@dataclass(frozen=True)
class Reader:
    """A valid file, and what reads it."""

    file: Path
    read: Callable[[], object]


class Silent:
    """A progress that shows nothing."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def show(self, event: object) -> None: ...


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints, a run with a report, a sweep, and single files of all kinds."""
    root = tmp_path_factory.mktemp("world")
    config = tiny.config(loop={"checkpoint_every": 1, "rounds": 2}, replay={"spill": True})
    run = root / "run"
    run.mkdir()
    (run / "config.yaml").write_text(settings.dump(config))
    (run / "run_state.json").write_text(
        json.dumps({"state": "stopped", "begun": True, "argv": ["x"], "reason": "y"})
    )
    store = Checkpoints(run, 1, 9)
    with Recorder(RunFolder(run), Silent()) as recorder:
        result = program.train(config, recorder, store=store)
    save_adapter(
        run / "adapter",
        DiffusionPolicy(tiny.load_quickly(config.model), config).adapter_state(),
        config,
    )
    save_critic(run, result.critic)
    make_run(root / "page")
    shutil.rmtree(make_run(root / "bare") / "samples")
    Image.new("RGB", (64, 48), "red").save(root / "bare" / "samples.png")
    for seed in (0, 1):
        looks = make_trial(root / "sweep", "cat", seed, 80.0, 90.0, [0.2, 0.95]) / "metrics.jsonl"
        rows = [
            row | {"retained": 0.5, "coherence": 0.75, "other": 1.0} for row in read_rows(looks)
        ]
        looks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask_for(root / "sweep", "space: {seed: [0, 1]}\n")
    (root / "space.yaml").write_text(
        "space:\n  learner.lr: [0.1, 1e-2]\n  critic.steps: {randint: [1, 4]}\n  lora.rank: "
        "{choice: [4, 8]}\n"
        "together:\n  - name: big\n    learner.batch: 64\n  - {reward.forget: 2.0, name: 'more'}\n"
        "samples: 4\nsearch: optuna\nobjectives: {forgotten: max}\nstop: asha\ngrace: "
        "2\nconcurrent: 2\n"
        "per_trial: {cpus: 0.5, gpus: 0}\n"
    )
    (root / "prompts.txt").write_text(
        "A cat in the sun.\n\nÀ dog, 猫 and 🐟\nan image of \u00a0 x\n" * 3
    )
    spilled.write(root / "spill.arrow", trajectories(optional=("means", "predicted")).to_arrow())
    shutil.copytree(tiny.pipeline_folder(), root / "model")
    shutil.copytree(tiny.clip_folder(), root / "clip")
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
    factors = {
        f"{layer}.lora_down.weight": torch.ones(2, 16),
        f"{layer}.lora_up.weight": torch.ones(16, 2),
    }
    save_file(factors | {f"{layer}.alpha": torch.tensor(4.0)}, root / "kohya.safetensors")
    spilled.write(root / "half.arrow", trajectories(dtype=torch.bfloat16).to_arrow())
    return root


def readers(world: Path) -> dict[str, Reader]:
    run, page, bare, sweep = (world / name for name in ("run", "page", "bare", "sweep"))
    config = tiny.config()
    critic = CriticActor(config)

    def configuration() -> None:
        Config.model_validate(settings.load([str(run / "config.yaml")], environ={}).model_dump())

    def newest() -> None:
        newest, told = run / "checkpoints" / "round-000002", []
        try:
            found = Checkpoints(run, 1, 9).newest(told.append)
            assert found is not None
            assert found[0] == (1 if told else 2)
            if told:
                raise DataError(told[0])
        finally:
            for aside in run.glob("checkpoints/quarantine-*-000002*"):
                aside.rename(newest)
            for aside in run.glob("checkpoints/quarantine-*-000001*"):
                aside.rename(run / "checkpoints" / "round-000001")

    def restored() -> None:
        load_critic(run, critic._critic, critic._meaning)

    trial = sweep / "cat-seed1"
    shown = {
        "evaluation": page / "evaluation.json", "attacks": page / "attacks.json",
        "metrics": page / "metrics.jsonl",
        "run state": page / "run_state.json", "samples": page / "samples" / "samples.json",
        "configuration": page / "config.yaml",
    }  # fmt: skip
    found = {
        "configuration": Reader(run / "config.yaml", configuration),
        "prompt list": Reader(world / "prompts.txt", lambda: read_prompts(world / "prompts.txt")),
        "manifest": Reader(run / "checkpoints" / "round-000002" / MANIFEST, newest),
        "run state": Reader(
            run / "run_state.json", lambda: (read_state(run), check(run, config_of(run)))
        ),
        "before.png": Reader(page / "samples" / "before.png", lambda: tiles.read(page)),
        "samples.png": Reader(bare / "samples.png", lambda: write_report(bare)),
        "ledger": Reader(run / LEDGER, lambda: (recorded(run), verify(run / LEDGER, 2))),
        "metrics": Reader(run / "metrics.jsonl", lambda: metrics(run)),
        "Arrow spill": Reader(world / "spill.arrow", lambda: spilled.read(world / "spill.arrow")),
        "Arrow spill, bf16": Reader(
            world / "half.arrow", lambda: spilled.read(world / "half.arrow")
        ),
        "adapter": Reader(run / "adapter" / FILE_NAME, lambda: (read_adapter(run), metadata(run))),
        "critic": Reader(run / CRITIC, restored),
        "space": Reader(
            world / "space.yaml", lambda: space_file.read(world / "space.yaml", Config())
        ),
    }
    for part in PARTS:
        found[f"checkpoint, {part}"] = Reader(
            run / "checkpoints" / "round-000002" / f"{part}.safetensors", newest
        )
    for name in ("evaluation", "attacks", "metrics"):  # where no tiles are cut
        found[f"view, {name}"] = Reader(bare / shown[name].name, lambda: told(bare))
    found["view, samples"] = Reader(shown["samples"], lambda: tiles.read_sheet(page))
    for name, file in shown.items():
        found[f"page, {name}"] = Reader(file, lambda: whole_page(page))
    for name in ("run_state.json", "evaluation.json", "metrics.jsonl"):
        found[f"sweep, {name}"] = Reader(trial / name, lambda: summarize(sweep))
        found[f"table, {name}"] = Reader(trial / name, lambda: tabled(sweep))
    for name in ("evaluation.json", "metrics.jsonl"):
        found[f"trial, {name}"] = Reader(trial / name, lambda: final(trial))
    for name in MODEL_FILES:
        found[f"model, {name}"] = Reader(
            world / "model" / name, lambda: model_folder.check(world / "model", config.sampler)
        )
    for name in CLIP_FILES:
        found[f"CLIP, {name}"] = Reader(
            world / "clip" / name, lambda: clip_source.check_folder("reward.clip", world / "clip")
        )
    found["adapter, kohya"] = Reader(
        world / "kohya.safetensors", lambda: read_adapter(world / "kohya.safetensors")
    )
    return found


def told(page: Path) -> None:
    """All that the page shows, without drawing it."""
    run = run_view.read(page, 1)
    for part in (
        run_view.summary,
        curves.critic_map,
        run_view.collateral,
        run_view.confusions,
        run_view.cost,
        run_view.further,
        run_view.seen_as,
        run_view.damaged,
    ):
        part(run)
    for parts in (curves.page_curves, run_view.trade_offs, run_view.others):
        parts([run])


def tabled(sweep: Path) -> None:
    """All that the tables of a sweep show, without its pictures."""
    rows = table.rows(table.read_trials(sweep))
    members = front.front(rows)
    table.markdown(rows, members, "x")
    table.comma_separated(rows, members)
    to_json(table.results(rows, members))


def config_of(run: Path) -> Config:
    return settings.recorded(run / "config.yaml")


def metrics(run: Path) -> None:
    file = run / "metrics.jsonl"
    content = file.read_bytes()
    ledger = (run / LEDGER).read_bytes()
    try:
        curves.series(read_rows(file, EventRow), "round", "kl")
        trim(run, 1, 1)
    finally:
        file.write_bytes(content)
        (run / LEDGER).write_bytes(ledger)
        (run / "ledger-ahead.jsonl").unlink(missing_ok=True)


def whole_page(page: Path) -> None:
    read_evaluation(page / "evaluation.json")
    read_attacks(page / "attacks.json")
    run_view.read(page, 1)
    write_report(page)


MODEL_FILES = (
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "scheduler/scheduler_config.json", "text_encoder/model.safetensors",
)  # fmt: skip
CLIP_FILES = ("open_clip_config.json", "tokenizer_config.json", "open_clip_model.safetensors")
HEAVY = {"page": 10, "sweep": 20, "samples.png": 4, "before.png": 2, "checkpoint": 4}
"""Readers that draw whole pages take a part of the inputs; so does each of a checkpoint's four
parts."""
NAMES = (
    "configuration", "prompt list", "manifest", "run state", "before.png", "samples.png", "ledger",
    "metrics",
    "Arrow spill", "Arrow spill, bf16", "adapter", "critic", "space",
    *(f"checkpoint, {part}" for part in PARTS),
    *(f"page, {name}" for name in ("evaluation", "attacks", "metrics", "run state", "samples",
                                   "configuration")),
    *(f"view, {name}" for name in ("evaluation", "attacks", "metrics", "samples")),
    *(f"{kind}, {name}" for kind in ("sweep", "table")
      for name in ("run_state.json", "evaluation.json", "metrics.jsonl")),
    *(f"trial, {name}" for name in ("evaluation.json", "metrics.jsonl")), "adapter, kohya",
    *(f"model, {name}" for name in MODEL_FILES), *(f"CLIP, {name}" for name in CLIP_FILES),
)  # fmt: skip


@pytest.fixture(scope="module")
def ready(world: Path) -> dict[str, Reader]:
    found = readers(world)
    assert set(found) == set(NAMES)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("inputs", "first"),
    [
        pytest.param(QUICK, 0, id="some"),
        pytest.param(MANY, 10_000, id="many", marks=pytest.mark.faults),
    ],
)
def test_damaged_files_are_read_or_refused(
    ready: dict[str, Reader],
    name: str,
    inputs: int,
    first: int,
    record_property: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader = ready[name]
    content = reader.file.read_bytes()
    reader.read()  # it is valid
    part = HEAVY.get(name.partition(",")[0], 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def read(damaged: bytes) -> None:
        reader.file.write_bytes(damaged)
        reader.read()

    try:
        count = put_through(content, max(10, inputs // part), read, first)
    finally:
        reader.file.write_bytes(content)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MOST_BYTES, f"{grown:,} bytes for a file of {len(content):,}"
    reader.read()  # and valid again: nothing beside it was changed
    assert count.refused, "not one was found out"
    record_property("inputs", count.inputs)
    record_property("refused", count.refused)
    with capsys.disabled():
        told = (
            f"{name}: {count.refused} of {count.inputs} refused, the slowest in "
            f"{count.slowest:.2f} s"
        )
        sys.stdout.write(f"\n{told} ")
