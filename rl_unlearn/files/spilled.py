"""Batches of trajectories as Arrow files, which other programs can read too: whole or absent,
checked when read.
"""

from pathlib import Path

import pyarrow as pa

from rl_unlearn.errors import DataError
from rl_unlearn.files.durable import write_whole
from rl_unlearn.trajectory import Trajectory


def write(path: Path, batch: pa.RecordBatch) -> None:
    """Puts one batch into a file in one step; raises MachineError if the disk does not take it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    write_whole(path, sink.getvalue().to_pybytes(), "free space, or set replay.spill=false")


def read(path: Path) -> Trajectory:
    """Returns the trajectories in a file; raises DataError, which names it, if it is damaged or
    holds something else.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            if reader.num_record_batches != 1:
                raise DataError(f"it holds {reader.num_record_batches} batches, not one")
            batch = reader.get_batch(0)
            batch.validate(full=True)
            return Trajectory.from_arrow(batch)
    except (pa.ArrowException, OSError, ValueError, DataError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} holds no trajectories that can be read ({reason}): leave it out"
        ) from error
