"""Several learners that take each optimizer step together: each computes its share, and only sums
cross over.

The wire is unencrypted and asks nobody who they are, as torch.distributed's always is: trusted
networks only.
"""

import hashlib
import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from rl_unlearn.errors import LostError, MachineError, TrainingError


class Ranks:
    """This learner's place among the ranks; alone, every method leaves its argument as it is."""

    def __init__(self) -> None:
        self._rank, self._count = 0, 1
        self._store: dist.TCPStore | None = None
        self._device = torch.device("cpu")

    def listen(self, host: str, seconds: float) -> str:
        """Opens the store in which all ranks meet, on this address of this machine alone; returns
        "host:port".
        """
        listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        port = listener.getsockname()[1]
        self._store = dist.TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=seconds),
            master_listen_fd=listener.detach(),
        )
        return f"{host}:{port}"

    def join(
        self, rank: int, count: int, address: str, device: torch.device, seconds: float
    ) -> None:
        """Meets the others at rank 0's ``address``; no later sum may take longer than ``seconds``.

        Raises MachineError if they do not come.
        """
        host, port = address.rsplit(":", 1)
        if host in ("127.0.0.1", "::1"):
            _stay_on_loopback()
        patience = timedelta(seconds=seconds)
        try:
            store = self._store or dist.TCPStore(host, int(port), is_master=False, timeout=patience)
            # NCCL wants a GPU for each rank; ranks that share one, or have none, sum on the CPU.
            store.set(
                f"gpu{rank}",
                str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else "",
            )
            gpus = [store.get(f"gpu{other}") for other in range(count)]
            own_gpus = all(gpus) and len(set(gpus)) == count
            dist.init_process_group(
                "nccl" if own_gpus else "gloo",
                store=store,
                rank=rank,
                world_size=count,
                timeout=patience,
            )
        except (dist.DistError, RuntimeError) as error:
            raise MachineError(
                f"learner rank {rank} of {count} cannot meet the others at {address} "
                f"({str(error).splitlines()[0]}): open the network between the learners' nodes, or "
                "use learner.ranks=1"
            ) from error
        self._rank, self._count = rank, count
        self._device = device if own_gpus else torch.device("cpu")

    def share(self, rows: int) -> slice:
        """Tells which of so many rows are this rank's; perhaps none."""
        return slice(rows * self._rank // self._count, rows * (self._rank + 1) // self._count)

    def sum(self, *tensors: Tensor) -> None:
        """Adds up each tensor over all ranks, in place; all ranks get the same bits."""
        if self._count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors]).to(self._device)
        try:
            dist.all_reduce(flat)
        except (dist.DistError, RuntimeError) as error:
            raise LostError(
                f"learner rank {self._rank} lost the others ({str(error).splitlines()[0]}): see "
                "their logs"
            ) from error
        for tensor, part in zip(
            tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))

    def agree(self, what: str, text: str) -> None:
        """Raises TrainingError on every rank unless all of them say the same text of ``what``."""
        if self._count == 1:
            return
        digests = torch.zeros(self._count, 32)
        digests[self._rank] = torch.tensor(list(hashlib.sha256(text.encode()).digest()))
        self.sum(digests)
        odd = [rank for rank, row in enumerate(digests) if not torch.equal(row, digests[0])]
        if odd:
            raise TrainingError(
                f"{what} of learner ranks {', '.join(map(str, odd))} of {self._count} differ from "
                "rank 0's: give all of them the same model, packages and kind of machine"
            )


def _stay_on_loopback() -> None:
    """Keeps torch's own sockets there, too; else it takes the address of this machine's name."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, loopback)
