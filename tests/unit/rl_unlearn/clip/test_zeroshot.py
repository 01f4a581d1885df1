"""Zero-shot evidence: against open_clip by hand; and what is refused."""

import pytest
import tiny
import torch

from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.errors import DataError
from rl_unlearn.prompts import PromptBook
from rl_unlearn.vision import open_clip


@pytest.fixture(scope="module")
def clip():
    return load_open_clip(str(tiny.clip_folder()), "reward")


@pytest.mark.parametrize("concept", ["cat", "style:noto"])
def test_evidence_is_that_of_open_clip(clip, concept):
    model, tokenizer = clip
    book = PromptBook.from_config(tiny.config(concept=concept))
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = ZeroShot(model, tokenizer, book.phrases, torch.device("cpu"))(images)
    assert set(found) == {"object", "style"}
    for domain, classes in (("object", tiny.OBJECTS), ("style", tiny.STYLES)):
        template = "A {} image." if domain == "object" else "An image in {} style."
        texts = open_clip.get_tokenizer(f"local-dir:{tiny.clip_folder()}")(
            [template.format(c) for c in classes]
        )
        with torch.no_grad():
            _, logits = None, model((images - 0.5) / 0.3, texts)
            image, text, scale = logits[:3]
            expected = (scale * image @ text.T).log_softmax(dim=1)
        torch.testing.assert_close(found[domain], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[domain].exp().sum(dim=1), torch.ones(5))


def test_images_of_another_size_are_resized(clip):
    book = PromptBook.from_config(tiny.config())
    judge = ZeroShot(*clip, book.phrases, torch.device("cpu"))
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 40, 40)
    torch.testing.assert_close(
        judge(flat)["object"], judge(flat[:, :, :16, :16])["object"], atol=1e-4, rtol=1e-4
    )


def test_the_clip_is_frozen_and_in_eval_mode(clip):
    model, _ = clip
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("spec", ["nowhere", "/no/such/folder", "a/b/c", "no-such-arch/none"])
def test_what_is_no_clip_is_refused_in_one_line(spec):
    with pytest.raises(DataError) as caught:
        load_open_clip(spec, "reward")
    assert "\n" not in str(caught.value)
    assert spec in str(caught.value)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="pickled"):
        load_open_clip(str(tmp_path), "reward")
    for file in tiny.clip_folder().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="pickled"):
        load_open_clip(str(tmp_path), "reward")


def test_a_truncated_clip_is_refused(tmp_path):
    for file in tiny.clip_folder().iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(
            content[:1000] if file.suffix == ".safetensors" else content
        )
    with pytest.raises(DataError) as caught:
        load_open_clip(str(tmp_path), "reward")
    assert "\n" not in str(caught.value)
