"""Trajectories survive Arrow bit for bit."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_batches import trajectories

from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.files import spilled
from rl_unlearn.trajectory import Trajectory

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BITS = {
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.int64: torch.int64,
}


def same(one: Trajectory, other: Trajectory) -> None:
    for field in dataclasses.fields(Trajectory):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a is None or b is None:
            assert a is b, field.name
            continue
        assert a.dtype == b.dtype, field.name
        assert a.shape == b.shape, field.name
        assert torch.equal(
            a.contiguous().view(BITS[a.dtype]), b.contiguous().view(BITS[b.dtype])
        ), field.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_keeps_every_bit(dtype):
    original = trajectories(dtype=dtype)
    special = original.latents.view(-1).view(BITS[dtype])
    special[0] = torch.tensor(-0.0, dtype=dtype).view(BITS[dtype])
    special[1] = torch.tensor(float("nan"), dtype=dtype).view(BITS[dtype])
    special[2] = (
        torch.tensor(float("nan"), dtype=dtype).view(BITS[dtype]) + 1
    )  # a NaN with a payload
    special[3] = torch.tensor(float("-inf"), dtype=dtype).view(BITS[dtype])
    special[4] = 1  # the smallest subnormal
    original.rewards[:2] = torch.tensor([-0.0, float("nan")])
    original.log_probs[0, 0] = -0.0
    same(original, Trajectory.from_arrow(original.to_arrow()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_batch_are_rows_of_the_trajectories(dtype):
    original = trajectories(dtype=dtype)
    batch = original.to_arrow()
    for row in range(len(original)):
        same(original[row : row + 1], Trajectory.from_arrow(batch.slice(row, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ipc_file_round_trip(dtype, tmp_path):
    original = trajectories(dtype=dtype)
    batch = original.to_arrow()
    path = tmp_path / "batch.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.memory_map(str(path)) as source:
        read = Trajectory.from_arrow(pa.ipc.open_file(source).get_batch(0))
    same(original, read)


OPTIONAL = [(), ("means",), ("predicted",), ("means", "predicted")]


@pytest.mark.parametrize("optional", OPTIONAL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_optional_fields_are_columns_only_where_they_are(dtype, optional):
    original = trajectories(dtype=dtype, optional=optional)
    batch = original.to_arrow()
    assert [name for name in ("means", "predicted") if name in batch.schema.names] == list(optional)
    same(original, Trajectory.from_arrow(batch))
    same(original[1:3], Trajectory.from_arrow(batch.slice(1, 2)))
    other = trajectories(2, dtype, first=10, optional=optional)
    both = Trajectory.cat([original, other])
    same(both[:5], original)
    same(both[torch.arange(7) >= 5], other)
    if "means" in optional:
        assert both.means.dtype == torch.float32, "means are not rounded to the storage type"


def test_views_and_other_memory_layouts_come_through():
    original = trajectories(6)
    strided = original[torch.tensor([4, 0, 2])]
    turned = dataclasses.replace(strided, latents=strided.latents.transpose(3, 4))
    same(turned, Trajectory.from_arrow(turned.to_arrow()))
    every_other = original[::2]
    same(every_other, Trajectory.from_arrow(every_other.to_arrow()))


def test_cat_and_index():
    one, other = trajectories(3), trajectories(2, first=10)
    both = Trajectory.cat([one, other])
    assert len(both) == 5
    same(both[:3], one)
    same(both[3:], other)
    same(both[torch.tensor([4])], other[1:])


@pytest.mark.parametrize(
    "batch",
    [
        pa.RecordBatch.from_pydict({"x": [1, 2]}),
        trajectories().to_arrow().replace_schema_metadata(None)
        if hasattr(pa.RecordBatch, "replace_schema_metadata")
        else pa.RecordBatch.from_pydict({"ids": [1]}),
        trajectories().to_arrow().select(["ids", "rewards"]),
        trajectories(optional=("means",))
        .to_arrow()
        .rename_columns([*trajectories().to_arrow().schema.names, "mean"]),
    ],
    ids=["foreign", "no metadata", "columns missing", "unknown column"],
)
def test_another_schema_is_refused(batch):
    with pytest.raises(DataError, match="no trajectories"):
        Trajectory.from_arrow(batch)


def test_trajectories_do_not_change():
    original = trajectories()
    with pytest.raises(dataclasses.FrozenInstanceError):
        original.ids = torch.zeros(5, dtype=torch.int64)  # type: ignore[misc]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_a_number_that_is_not_finite_is_told_wherever_it_is(dtype, bad):
    fields = ("latents", "log_probs", "outcomes", "rewards", "evidence", "means", "predicted")
    whole = trajectories(dtype=dtype, optional=("means", "predicted"))
    assert whole.finite().all()
    for name in fields:
        for place in (0, -1):
            spoiled = whole.clone()
            getattr(spoiled, name)[2].view(-1)[place] = bad
            assert spoiled.finite().tolist() == [True, True, False, True, True], name


def test_a_copy_has_memory_of_its_own_or_that_which_it_was_given():
    one, other = trajectories(2, optional=("means",)), trajectories(2, optional=("means",))
    taken = trajectories(2, first=10, optional=("means",))
    same(one.copied_to(taken), other)
    copy = one.clone()
    one.latents.zero_()
    same(copy, other)
    same(taken, other)


def test_what_is_read_does_not_alias_the_store():
    original = trajectories()
    batch = original.to_arrow()
    Trajectory.from_arrow(batch).latents.zero_()
    same(original, Trajectory.from_arrow(batch))


def replaced(name: str, array: pa.Array) -> pa.RecordBatch:
    batch = trajectories().to_arrow()
    columns = [array if name == other else batch.column(other) for other in batch.schema.names]
    fields = [pa.field(n, c.type) for n, c in zip(batch.schema.names, columns, strict=True)]
    return pa.RecordBatch.from_arrays(
        columns, schema=pa.schema(fields, metadata=batch.schema.metadata)
    )


def tensors(array: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ids", pa.array([1, None, 3, 4, 5])),
        ("rewards", pa.array([0.5, None, 1.0, 1.0, 1.0], pa.float32())),
        ("ids", pa.array(["a"] * 5)),
        ("ids", pa.array([1.0] * 5)),
        ("rewards", pa.array([[1.0]] * 5)),
        ("latents", pa.array([0.5] * 5)),
        ("latents", tensors(np.zeros((5, 3, 2, 3, 3), np.float32))),
        ("latents", tensors(np.zeros((5, 4, 2, 3, 3), np.float16))),
        ("latents", tensors(np.zeros((5, 4, 18), np.float32))),
        ("log_probs", tensors(np.zeros((5, 2), np.float32))),
        ("log_probs", tensors(np.zeros((5, 3, 1), np.float32))),
        ("outcomes", tensors(np.zeros((5, 6), np.int32))),
        ("evidence", tensors(np.zeros((5, 1), np.float32))),
        ("log_probs", pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [3]),
            pa.array([[1, None, 3]] * 5, pa.list_(pa.float32(), 3)))),
    ],
)  # fmt: skip
def test_columns_of_another_kind_or_with_holes_are_refused(name: str, array: pa.Array) -> None:
    with pytest.raises(DataError, match="no trajectories"):
        Trajectory.from_arrow(replaced(name, array))


def test_a_spilled_file_is_whole_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, file = trajectories(optional=("means",)), tmp_path / "x.arrow"
    spilled.write(file, original.to_arrow())
    same(original, spilled.read(file))
    content = file.read_bytes()
    for damaged in (
        b"",
        content[:100],
        content[:-1],
        b"ARROW1" + content[8:],
        b"\0" * len(content),
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.arrow holds no trajectories that can be read"):
            spilled.read(file)
    with pytest.raises(DataError, match="No such file"):
        spilled.read(tmp_path / "no.arrow")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file.write_bytes(content)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        MachineError, match=r"No space left on device; free space, or set replay\.spill=false"
    ):
        spilled.write(file, original[:1].to_arrow())
    assert [path.name for path in tmp_path.iterdir()] == ["x.arrow"]
    assert file.read_bytes() == content
