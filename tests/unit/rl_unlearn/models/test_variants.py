"""Weights under other names than the plain ones: which are read, and that every reader takes the
same.
"""

import shutil
from pathlib import Path

import pytest
import tiny_families
import torch
from safetensors.torch import load_file, save_file
from weight_files import halve, networks, split, stem

from experiments.doctor import preflight
from rl_unlearn.config import Config, Model
from rl_unlearn.errors import DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import foundation, model_folder
from rl_unlearn.models.weight_names import spellings, variant_of

KINDS = tiny_families.KINDS


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_families.FOLDERS[request.param](), tmp_path / "model"))


def load(folder: Path, variant: str | None = None) -> dict[str, torch.Tensor]:
    pipeline = load_pipeline(Model(path=str(folder), size=tiny_families.SIZE, variant=variant))
    return {
        f"{name}.{key}": value.clone()
        for name in networks(folder)
        for key, value in getattr(pipeline, name).state_dict().items()
    }


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def rounded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in state.items()
    }


def test_half_precision_alone_is_read_unasked(folder: Path) -> None:
    expected = rounded(load(folder))
    for name in networks(folder):
        halve(folder, name)
    for variant in (None, "fp16"):
        assert same(load(folder, variant), expected)
        files = foundation.of_model(Model(path=str(folder), variant=variant))
        assert {name for name in files if name.endswith(".safetensors")} == {
            f"model {name}/{stem(folder, name)}.fp16.safetensors" for name in networks(folder)
        }
    preflight.model(Config(model=Model(path=str(folder), size=tiny_families.SIZE)))


def test_one_component_of_each_kind(folder: Path) -> None:
    whole = load(folder)
    first, *rest = networks(folder)
    halve(folder, first)
    found = load(folder)
    assert same(
        found, {n: rounded({n: v})[n] if n.startswith(f"{first}.") else v for n, v in whole.items()}
    )
    assert any(not torch.equal(found[name], whole[name]) for name in whole)
    assert same(load(folder, "fp16"), found), (
        f"{rest} have no such variant: their plain weights are read"
    )


@pytest.mark.parametrize("which", [1, 2], ids=["diffusers'", "older"])
def test_shards_of_a_variant_in_both_spellings(folder: Path, which: int) -> None:
    expected = rounded(load(folder))
    for name in networks(folder):
        halve(folder, name)
        split(folder, name, spellings(stem(folder, name), "fp16")[which])
    assert same(load(folder), expected)
    model = Model(path=str(folder))
    assert sum(
        name.endswith("-of-00002.safetensors") for name in foundation.of_model(model)
    ) == 2 * len(networks(folder))
    digest = foundation.model_digest(model)
    shard = next(iter((folder / networks(folder)[0]).glob("*-00002-of-00002.safetensors")))
    state = load_file(shard)
    state[min(state)].flatten()[-1] += 1
    save_file(state, shard, {"format": "pt"})
    assert foundation.model_digest(model) != digest
    shard.unlink()
    with pytest.raises(DataError, match=shard.name):
        model_folder.check(folder, None, tiny_families.SIZE)


def test_the_one_that_is_asked_for_is_read(folder: Path) -> None:
    plain = load(folder)
    name = networks(folder)[0]
    halve(folder, name, keep=True, by=2.0)
    halve(folder, name, "ema", keep=True, by=3.0)
    assert same(load(folder), plain), "the plain files come first"
    double, triple = load(folder, "fp16"), load(folder, "ema")
    key = max((key for key in plain if key.startswith(name)), key=lambda key: plain[key].numel())
    torch.testing.assert_close(double[key], 2 * plain[key], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(triple[key], 3 * plain[key], rtol=1e-3, atol=1e-6)
    digests = {
        foundation.model_digest(Model(path=str(folder), variant=v)) for v in (None, "fp16", "ema")
    }
    assert len(digests) == 3
    with pytest.raises(
        DataError, match=r"no variant 'bf16' \(there: ema, fp16\): leave model\.variant out"
    ):
        load(folder, "bf16")


def test_a_variant_that_is_not_taken_unasked_is_named(folder: Path) -> None:
    name = networks(folder)[0]
    halve(folder, name, "bf16")
    with pytest.raises(DataError, match=rf"only bf16: set model\.variant=bf16 in {name}/"):
        load(folder)
    load(folder, "bf16")


def test_a_single_file_beside_an_old_index_is_the_one(folder: Path) -> None:
    """Libraries take the index: foundation and loading would not be of the same files."""
    expected, name = load(folder), networks(folder)[0]
    halve(folder, name, keep=True, by=2.0)
    split(folder, name, spellings(stem(folder, name), None)[1])
    assert same(load(folder), expected)


def test_names_of_variants() -> None:
    for variant in (None, "fp16", "non_ema"):
        assert {variant_of(name, "model") for name in spellings("model", variant)} == {variant}
    for other in (
        "model.fp16-00001-of-00002.safetensors",
        "model-00001-of-00002.fp16.safetensors",
        "config.json",
    ):
        assert variant_of(other, "model") is None
