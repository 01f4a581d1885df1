"""The model card: what Hugging Face reads, true to the run, and nothing that text from outside
could add.
"""

import json
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import ModelCard
from tiny_runs import HOSTILE, interval, make_run

from experiments.export import adapters
from experiments.export.card import write_card
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.config import Config
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny.config()


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Path:
    folder = make_run(tmp_path / "cat-seed0")
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    draws = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(t.shape, generator=draws) / 20
        for name, t in policy.adapter_state().items()
    }
    save_adapter(folder / "adapter", state, config)
    return folder


def test_the_card_holds_the_runs_figures(run: Path, config: Config) -> None:
    card = ModelCard.load(write_card(run, run / "adapter", config))
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "text-to-image")
    assert {"lora", "concept-unlearning"} <= set(card.data.tags)
    found = {result.metric_type: result for result in card.data.eval_results}
    assert list(found) == ["ua", "coherence", "ira", "cra"]
    assert found["ua"].metric_value == 97.9
    assert found["ua"].metric_args == {"low": interval(97.9)["low"], "high": interval(97.9)["high"]}
    assert "| UA | 1.0 | 97.9 | 95.9 to 99.9 |" in card.text
    assert f"weight_name='{FILE_NAME}'" in card.text
    assert "Judged by the test's judge." in card.text


def test_the_card_says_that_another_adapter_came_before(run: Path, config: Config) -> None:
    said = "went on from another adapter"
    assert said not in ModelCard.load(write_card(run, run / "adapter", config)).text
    lora = config.lora.model_copy(update={"start": "/home/me/uce"})
    started = config.model_copy(update={"lora": lora})
    text = ModelCard.load(write_card(run, run / "adapter", started)).text
    assert said in text
    assert "/home/me" not in text


def test_the_base_model_is_named_only_if_the_hub_has_it(run: Path, config: Config) -> None:
    assert ModelCard.load(write_card(run, run / "adapter", config)).data.base_model is None
    hub = config.model_copy(
        update={"model": config.model.model_copy(update={"path": "owner/name"})}
    )
    assert ModelCard.load(write_card(run, run / "adapter", hub)).data.base_model == "owner/name"


def test_hostile_text_adds_nothing(run: Path, config: Config) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["protocol"]["judge"] = f"{HOSTILE} [link](https://evil.example) `code`\n# heading"
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    card = ModelCard.load(write_card(run, run / "adapter", config))
    judged = next(line for line in card.text.splitlines() if line.startswith("Judged by"))
    assert not set("<>[]`#") & set(judged.replace("&#", ""))
    assert card.text.count("\n````") == 4
    assert "{{ 7*7 }}" in card.text


def test_broken_images_are_called_broken(tmp_path: Path, config: Config) -> None:
    folder = make_run(tmp_path / "broken", broken=True)
    assert "images are broken" in write_card(folder, tmp_path, config).read_text()


@pytest.mark.parametrize("format", adapters.FORMATS)
def test_an_export_says_how_to_load_it(
    format: str, run: Path, config: Config, tmp_path: Path
) -> None:
    written = adapters.export(run, format, tmp_path / "out", config)
    card = ModelCard.load(written["card"])
    assert Path(written["card"]).parent == tmp_path / "out"
    assert ('from_pretrained("this folder")' in card.text) == (format == "merged")
    assert (f"weight_name={Path(written['file']).name!r}" in card.text) == (format != "merged")
    assert ("lora" in card.data.tags) == (format != "merged")


def test_an_adapter_alone_has_a_card_without_figures(
    run: Path, config: Config, tmp_path: Path
) -> None:
    text = write_card(run / "adapter", tmp_path, config).read_text()
    assert "not evaluated" in text
    assert not ModelCard(text).data.eval_results
