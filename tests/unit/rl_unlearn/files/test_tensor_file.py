"""Equal content gives equal files, which their readers may read; a header tells of a file without
its tensors.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.files.tensor_file import pack, save_tensors
from rl_unlearn.files.tensor_header import read_header

TENSORS = {
    "b": torch.arange(5.0),
    "a": torch.ones(3, 2).half(),
    "c": torch.tensor(3),
    "d": torch.ones(2, 0),
}
ABOUT = {key: f"value {key}" for key in "zyxwvutsrqponmlkjihgfedcba"}


def test_equal_content_is_equal_bytes() -> None:
    packed = {
        pack(TENSORS, dict(sorted(ABOUT.items(), reverse=backwards))) for backwards in (True, False)
    }
    assert len(packed | {pack(TENSORS, ABOUT) for _ in range(20)}) == 1


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "x.safetensors", ABOUT | {"name": "梵高"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        for name, tensor in TENSORS.items()
    )
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == ABOUT | {"name": "梵高"}


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_tensors(TENSORS, tmp_path / "x.safetensors", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_header_tells_names_shapes_and_metadata(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "x.safetensors", ABOUT)
    header = read_header(tmp_path / "x.safetensors")
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert header.dtypes == {"b": "F32", "a": "F16", "c": "I64", "d": "F32"}
    assert header.metadata == ABOUT


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b"[5]", b"[6]"),
        lambda content: content.replace(b"F32", b"F99"),
        lambda content: content.replace(b"[5]", b"-55"),
    ],
)
def test_a_damaged_header_is_named(damage, tmp_path: Path) -> None:
    content = pack(TENSORS, {})
    assert damage(content) != content
    (tmp_path / "x.safetensors").write_bytes(damage(content))
    with pytest.raises(DataError, match=r"x\.safetensors"):
        read_header(tmp_path / "x.safetensors")


def test_a_disk_that_takes_nothing_shows_its_own_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(MachineError, match="Read-only file system"):
        save_tensors(TENSORS, tmp_path / "x.safetensors", {})


def test_the_bytes_of_the_header_are_json(tmp_path: Path) -> None:
    content = pack(TENSORS, ABOUT)
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert list(json.loads(content[8 : 8 + length])["__metadata__"]) == sorted(ABOUT)
