"""CONTRIBUTING.md does what it says: its code is run, and the files that it names are there."""

import json
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import diffusers
import pytest
import tiny
import torch
from conftest import ROOT
from tiny import quick  # noqa: F401
from tiny_policies import PROMPTS
from transformers import ViTConfig, ViTForImageClassification

from cluster import program
from experiments import settings
from experiments.__main__ import VERBS, main
from learner.policy_gradient import PolicyGradient
from rl_unlearn import advantages
from rl_unlearn.advantages import Advantages
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.estimators import ESTIMATORS
from rl_unlearn.families import of
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import model_folder
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.trajectory import Scored

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LOAD = settings.load
HOUSE = ("rl_unlearn/", "actors/", "learner/", "cluster/", "experiments/", "tests/", "docs/")


def section(heading: str) -> str:
    """The text under a heading of the page."""
    _, text = PAGE.split(f"\n## {heading}\n")
    return text.partition("\n## ")[0]


def code(heading: str) -> list[str]:
    """The Python blocks under a heading."""
    blocks = re.findall(r"```python\n(.*?)```", section(heading), re.DOTALL)
    return [textwrap.dedent(block) for block in blocks]


def executed(source: str, **names: Any) -> dict[str, Any]:
    """What a block defines."""
    space = {"__name__": "toy", **names}
    exec(compile(source, "CONTRIBUTING.md", "exec"), space)
    return space


@pytest.fixture
def tiny_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configurations start from the tiny world's; the file that says so."""
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.dump(tiny.config(loop={"rounds": 1})))

    def load(files: Any = (), overrides: Any = (), environ: Any = None) -> Config:
        whole = environ is not None  # what a run has recorded
        return LOAD(files if whole else [str(file), *files], overrides, {})

    monkeypatch.setattr(settings, "load", load)
    return file


def test_every_file_that_the_page_names_is_there() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", PAGE)
    quoted = re.findall(r"`([\w./-]+)`", PAGE)
    files = [name for name in quoted if name.startswith(HOUSE) or name.endswith(".md")]
    assert len(files) > 20, "the test sees no files"
    named = [name for name in linked + files if not name.endswith("/NAME.py")]
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_section_is_a_page_at_most() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert all(len(section(heading).splitlines()) <= 60 for heading in headings)
    assert max(map(len, PAGE.splitlines())) <= 100


@pytest.fixture
def toy_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, type]:
    """The folder of a Toy pipeline and its family, in the two tables that the page names."""
    layout, family = (executed(source) for source in code("A family"))
    kind = type("ToyPipeline", (diffusers.StableDiffusionPipeline,), {})
    monkeypatch.setattr(diffusers, "ToyPipeline", kind, raising=False)
    monkeypatch.setitem(model_folder.LAYOUTS, layout["LAYOUT"].pipeline, layout["LAYOUT"])
    monkeypatch.setitem(sys.modules, "toy", SimpleNamespace(**family))
    monkeypatch.setitem(of.FAMILIES, "ToyPipeline", "toy:Toy")
    folder = tmp_path / "toy"
    tiny.load_quickly(tiny.config().model).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "ToyPipeline"}))
    return folder, family["Toy"]


def test_a_family_is_a_layout_and_a_class_in_two_tables(toy_family: tuple[Path, type]) -> None:
    folder, kind = toy_family
    config = tiny.config(model={"path": str(folder)}, loop={"rounds": 1})
    pipeline = load_pipeline(config.model, config.sampler)
    policy = DiffusionPolicy(pipeline, config)
    assert (type(pipeline).__name__, type(policy.family)) == ("ToyPipeline", kind)
    plain = tiny.config()
    other = DiffusionPolicy(tiny.load_quickly(plain.model), plain)
    drawn, expected = (one.generate(PROMPTS, [0, 1], 2) for one in (policy, other))
    assert torch.equal(torch.stack([*drawn]), torch.stack([*expected]))
    result = program.train(config, lambda event: None)
    assert result.updates == 1
    assert result.adapter.keys() == policy.adapter_state().keys()


def test_a_family_that_is_not_in_the_tables_is_refused(
    toy_family: tuple[Path, type], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = toy_family
    monkeypatch.delitem(model_folder.LAYOUTS, "ToyPipeline")
    with pytest.raises(DataError, match="holds a ToyPipeline: only StableDiffusionPipeline, "):
        model_folder.check(folder, None)


@pytest.mark.usefixtures("quick")
def test_an_estimator_is_a_row_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    function, row = (executed(source) for source in code("An estimator"))
    config = tiny.config(loop={"rounds": 1})
    estimator = config.estimator.model_copy(update={"name": "rloo"})
    config = config.model_copy(update={"estimator": estimator})
    monkeypatch.setitem(ESTIMATORS, "rloo", row["row"])
    monkeypatch.setattr(advantages, "against_others", function["against_others"], raising=False)
    learned: list[Advantages] = []
    made = PolicyGradient.advantages

    def kept(self: PolicyGradient, scored: Scored) -> Advantages:
        learned.append(made(self, scored))
        return learned[-1]

    monkeypatch.setattr(PolicyGradient, "advantages", kept)
    result = program.train(config, lambda event: None)
    assert result.updates == 1
    assert result.critic is None, "its row asks for none"
    (worth,) = learned
    assert worth.gradients is None
    assert worth.values is not None
    assert worth.values.std() > 0
    assert worth.values.mean().abs() < 1e-6, "each kind's advantages sum to 0"


@pytest.mark.usefixtures("tiny_settings", "quick")
def test_an_image_reward_is_a_function_that_a_run_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = code("An image reward")
    run = executed(source)["run"]
    assert run.config.reward.images == {"brightness": 0.5}
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ConfigError, match="'brightness' is no registered reward"):
        executed(source.replace("(brightness, 0.5)", "0.5"))


@pytest.mark.usefixtures("tiny_settings", "quick")
def test_a_trait_is_told_by_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = code("A trait")
    run = executed(source)["run"]
    assert run.config.selection.image == "redness"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ConfigError, match="concept: 'red' is no registered function of images"):
        executed(source.replace('{"red": red, "redness": redness}', "{}"))


@pytest.mark.usefixtures("tiny_settings")
def test_a_judge_is_a_folder_of_two_classifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for domain, labels in (("object", ["fish", "cat", "dog"]), ("style", ["noto", "flat"])):
        shape = ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=16, patch_size=8, id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        classifier = ViTForImageClassification(shape)
        torch.nn.init.zeros_(classifier.classifier.weight)
        with torch.no_grad():  # whatever the image is, it sees the first label
            classifier.classifier.bias.copy_(torch.tensor([9.0] + [0.0] * (len(labels) - 1)))
        classifier.save_pretrained(tmp_path / "judges" / domain)
    (source,) = code("A judge")
    seen = executed(source, images=torch.rand(2, 3, 16, 16))["seen"]
    assert seen["object"].tolist() == [tiny.OBJECTS.index("fish")] * 2
    assert seen["style"].tolist() == [tiny.STYLES.index("noto")] * 2


@pytest.mark.usefixtures("tiny_settings")
def test_a_verb_is_a_module_in_a_table(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (source,) = code("A verb")
    module = ModuleType("count")
    vars(module).update(executed(source))
    assert main(["count"]) == 2, "it is not in the table yet"
    capfd.readouterr()
    monkeypatch.setitem(VERBS, "count", module)
    assert main(["count", "--json", "concept=dog"]) == 0
    out, err = capfd.readouterr()
    outcome = json.loads(out)
    assert outcome["prompts"] > 2
    assert err == f"{outcome['prompts']} prompts\n"
    with pytest.raises(SystemExit):
        main(["count", "--help"])
    assert module.HELP in capfd.readouterr().out
    assert main(["count", "concept=whale"]) == 2
