"""A trait on the command line: what is done with it, and what is refused in one line."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import ViTConfig, ViTForImageClassification

from experiments import settings
from experiments.__main__ import main
from experiments.doctor import preflight
from experiments.evaluation import samples
from experiments.plan import images
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook

TRAIT = ["--config", "trait"]


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three networks that answer the same question."""
    names = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("classifier")
        torch.manual_seed(seed)
        shape = ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=16, patch_size=8, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
        )  # fmt: skip
        ViTForImageClassification(shape).save_pretrained(folder)
        names.append(f"classifier:{folder}:yes")
    return names


def test_a_run_is_trained_judged_and_reported(
    classifiers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward, selection, judge = classifiers
    config = tiny.config(
        concept=f"image:{reward}", prompts={"targets": ("cat",)}, output=str(tmp_path),
        selection={"image": selection},
        evaluation={"image_judge": judge, "judge": str(tiny.clip_folder(2))},
        loop={"rounds": 1, "checkpoint_every": 1},
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(settings.dump(config))
    run = tmp_path / "mine"
    assert main(["train", "--config", str(file), "--inline", "--name", "mine"]) == 0
    out = json.loads((run / "evaluation.json").read_text())
    assert out["protocol"]["image_judge"] == judge
    after = out["models"][1]
    assert after["target_object"] is not None
    assert after["target_style"] is not None
    assert after.get("anchor") is None
    page = (run / "report.html").read_text()
    assert "stop drawing what" in page
    assert "(to lose it)" in page
    recorded = settings.recorded(run / "config.yaml")
    drawn = images.count(recorded, PromptBook.from_config(recorded), True)
    assert drawn["evaluation"] == 2 * out["protocol"]["images"]
    assert main(["resume", str(run), "loop.rounds=2"]) == 0
    assert main(["evaluate", str(run), "evaluation.seed=1"]) == 0
    assert main(["attack", str(run)]) == 2
    assert "no word names 'image:classifier" in capsys.readouterr().err
    other = ["evaluate", str(run), f"evaluation.image_judge={reward}"]
    assert main(other) == 2
    assert "is also the concept" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["uce", "esd", "ca"])
def test_no_supervised_eraser_has_a_word_to_erase(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["erase", "--method", method, *TRAIT, f"output={tmp_path}"]) == 2
    assert "no word names the concept 'image:canvas:mirrored'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["mirrored", "large", "tilted"])
def test_the_demo_of_a_task_asks_for_its_trait(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(
        "experiments.run.run", lambda config, folder, *_, **__: begun.append((config, folder))
    )
    main(["demo", "--inline", "--task", task, f"output={tmp_path}"])
    ((config, folder),) = begun
    assert config.concept == f"image:canvas:{task}"
    assert folder.path == tmp_path / f"demo-{task}"
    assert preflight.check(config) == []


def test_the_picture_shows_what_shall_lose_it_first() -> None:
    book = PromptBook.from_config(settings.load(TRAIT[1::2]))
    table, labels, _ = samples.choose(book)
    assert labels[:3] == ["bird (to lose it)", "fish (to lose it)", "horse (to lose it)"]
    assert [row[0].target for row in table] == [True, True, True, False, False]


def test_a_place_of_a_classifier_stays_where_it_is(
    classifiers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(classifiers[0].split(":")[1])
    monkeypatch.chdir(folder.parent)
    name = f"classifier:{folder.name}:yes"
    config = settings.load([], [f"concept=image:{name}", f"selection.image={name}"])
    assert config.concept == f"image:{classifiers[0]}"
    assert config.selection.image == classifiers[0]


def test_the_function_of_a_command_has_a_name_it_knows() -> None:
    config = settings.load(TRAIT[1::2], ["concept=image:mine"])
    with pytest.raises(ConfigError, match=r"concept: 'mine' is no registered function of images"):
        preflight.check(config)
