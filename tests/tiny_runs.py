"""Run folders and trials as training, evaluation and attacks leave them, without a run."""

import json
from pathlib import Path

import tiny
import torch

from experiments import settings
from experiments.evaluation.samples import FOLDER, VARIETY, Samples, choose, choose_variety
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(1)></style></title>'{{ 7*7 }}"


def interval(value: float, spread: float = 2.0) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - spread), "high": min(100.0, value + spread)}


def model(name: str, ua: float, broken: bool = False) -> dict[str, object]:
    figures = {
        key: interval(90.0)
        for key in ("ira", "ira_all", "cra", "cra_all", "coherence", "similarity")
    }
    return figures | {
        "name": name,
        "ua": interval(ua),
        "kid": 0.012,
        "feature_extractor": "judge-object " + HOSTILE,
        "broken": broken,
        "verdict": f"The verdict on {HOSTILE}",
        "seen_when_asked": {
            "object": {
                "cat": {"cat": 100 - ua, HOSTILE: ua},
                "dog": {"dog": 95.0 - ua / 10, "fish": 5.0 + ua / 10},
                "fish": {"fish": 100.0},
            },
            "style": {"flat": {"flat": 98.0, "noto": 2.0}},
        },
        "neighbours": [{"name": "dog" + HOSTILE, "before": 95.0, "after": 85.0}],
        "seen_as": {HOSTILE: 7, "cat": 1},
        "cost": {"seconds": 12.5, "peak_memory_bytes": 2_500_000_000, "storage_bytes": 123_456},
    }


def make_run(folder: Path, ua: float = 97.9, seed: int = 0, broken: bool = False) -> Path:
    """A run folder as training, evaluation and attacks leave it."""
    folder.mkdir(parents=True)
    config = tiny.config(
        seed=seed, prompts={"template": "A {object} image " + HOSTILE.replace("{{ 7*7 }}", "")}
    )
    (folder / "config.yaml").write_text(settings.dump(config))
    sides = {"before": {"ua": 1.0}, "after": {"ua": ua}, "counts": {"target_images": 8}}
    protocol = {
        "judge": "the test's judge",
        "seeds": [0, 1],
        "prompts": 6,
        "images": 12,
        "definitions": {},
    }
    evaluation = sides | {
        "protocol": protocol,
        "models": [model("untouched", 1.0), model(folder.name, ua, broken)],
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    row = {
        "budget": "16 tokens",
        "before": interval(99.0),
        "after": interval(40.0),
        "images": 24,
        "seconds": 31.0,
    }
    attacks = {
        "concept": "cat",
        "seed": 0,
        "rows": [row | {"attack": name} for name in ("none", "prefix", "inversion", "relearn")],
        "definitions": {"prefix": "Tokens before the prompt, found by gradient. " + HOSTILE},
    }
    (folder / "attacks.json").write_text(json.dumps(attacks))
    state = {
        "argv": ["python", "-m", "experiments", f"name={HOSTILE}"],
        "packages": {"torch": "2"},
        "state": "finished",
    }
    (folder / "run_state.json").write_text(json.dumps(state))
    rounds = [
        {"event": "round", "round": i, "reward": -9.0 + i, "kl": 0.1 * i, "ratio_max": 1.1,
         "ess": 0.9,
         "explained_variance": [-2.0, None, 0.5, 0.9]}
        for i in range(1, 5)
    ]  # fmt: skip
    validations = [
        {"event": "selection", "round": i, "images": 64 * i, "forgotten": i / 4}
        for i in range(1, 5)
    ]
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps(row) for row in rounds + validations)
    )
    draw_samples(folder, config)
    return folder


def draw_samples(folder: Path, config: Config) -> None:
    """The galleries of a run, of noise."""
    book, draws = PromptBook.from_config(config), torch.Generator().manual_seed(0)
    for place, chosen in ((FOLDER, choose(book)), (VARIETY, choose_variety(book))):
        images = torch.rand(2, sum(map(len, chosen[0])), 3, 16, 16, generator=draws)
        Samples(*chosen, images[0], images[1]).save(folder / place)


def make_trial(
    root: Path, label: str, seed: int, ua: float, kept: float, forgotten: list[float]
) -> Path:
    """A finished trial as its run folder tells it; validations at 100, 200, ... images."""
    folder = root / f"{label}-seed{seed}"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights").write_text(folder.name)
    state = {
        "state": "finished",
        "trial": {"label": label, "settings": {"concept": label, "seed": seed}},
    }
    (folder / "run_state.json").write_text(json.dumps(state))
    after = {"ua": ua, "ira": kept - 5, "cra": kept + 5, "coherence": 90.0}
    after |= (
        {"anchor": interval(kept - 10), "spread": 40.0 + seed, "anchor_kid": seed - 0.5}
        if kept > 90
        else {}
    )
    evaluation = {"after": after, "images_used": 1000 + seed, "updates": 30, "wall_seconds": 60.0}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    validations = [
        {
            "event": "selection",
            "round": i,
            "images": 100 * i,
            "forgotten": share,
            "score": share,
            "best": share > max(forgotten[: i - 1], default=-1),
        }
        for i, share in enumerate(forgotten, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in validations))
    return folder


def make_sweep(root: Path) -> Path:
    """`good` forgets and keeps, `mild` keeps more, `bad` is beaten, `dead` failed, and one was not
    begun; beside them lies a run that is no trial.
    """
    make_trial(root, "good", 0, 80.0, 90.0, [0.2, 0.95])
    make_trial(root, "good", 1, 90.0, 92.0, [0.2, 0.5, 0.9])
    make_trial(root, "good", 2, 100.0, 94.0, [0.2, 0.5])
    make_trial(root, "mild", 0, 40.0, 98.0, [0.1, 0.3])
    make_trial(root, "bad", 0, 30.0, 60.0, [0.0, 0.1])
    (root / "dead-seed0").mkdir()
    state = {
        "state": "failed",
        "reason": "no\nluck",
        "trial": {"label": "dead", "settings": {"concept": "dead"}},
    }
    (root / "dead-seed0" / "run_state.json").write_text(json.dumps(state))
    (root / "other").mkdir()
    (root / "other" / "run_state.json").write_text('{"state": "finished"}')
    ask_for(root, "space: {concept: [good, mild, bad, dead, late]}\n")
    return root


def ask_for(root: Path, space: str) -> None:
    """What a sweep's folder says of what was asked for."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "space.yaml").write_text(space)
    (root / "base.yaml").write_text(settings.dump(Config()))
