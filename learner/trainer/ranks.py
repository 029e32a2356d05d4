"""The trainer in several processes: who this one is among them, and all that they say to each other.

Every rank runs the same code on the same groups (port.py) and holds its share of every parameter, gradient and moment
(FSDP2); a step's trajectories are dealt out (batch.py). What one rank alone may do, rank 0 does: ask the gateway, look
at the run folder, write. What follows from it is told to all, so that all take the same turns: a rank that took
another would wait in a collective that nobody else enters.

    rank 0 ── groups, and what it found in the run folder ──► every rank: forward, backward on its own trajectories
       ▲                                                          │ layer by layer: gradients, summed over the ranks
       └── whole tensors, one at a time, to be written ◄──────────┘ loss, norm, KL: summed, so all decide alike

A process alone is rank 0 of one: nothing here then touches torch.distributed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm

from common.errors import UsageError
from common.log import get_logger

log = get_logger(__name__)

# A rank that ends is noticed at once. This is for one that lives and is silent: a large state takes long to write.
LONGEST_SILENCE = timedelta(minutes=30)
Column = npt.NDArray[Any]
LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "timed out")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of the trainer's processes this is."""

    rank: int = 0  # from 0
    count: int = 1  # processes in all
    local: int = 0  # rank on this machine: the number of its GPU

    @property
    def is_first(self) -> bool:
        """Whether this one talks to the gateway and writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return self.count == 1

    def broadcast(self, frames: Sequence[bytes] | None) -> list[bytes]:
        """Rank 0's frames, on every rank; the others give None."""
        if self.is_alone:
            return list(frames or ())
        mine = list(frames or ()) if self.is_first else []
        count = torch.tensor([len(mine)])
        dist.broadcast(count, 0)
        sizes = torch.tensor([len(frame) for frame in mine]) if self.is_first else torch.empty(int(count)).long()
        dist.broadcast(sizes, 0)
        body = _bytes_tensor(b"".join(mine)) if self.is_first else torch.empty(int(sizes.sum()), dtype=torch.uint8)
        dist.broadcast(body, 0)
        view, ends = body.numpy().tobytes(), np.cumsum(sizes.numpy())
        return [view[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]

    def first(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on rank 0, on every rank: None, numbers, text, and lists of them. Runs on rank 0 alone."""
        if self.is_alone:
            return make()
        (frame,) = self.broadcast([json.dumps(make()).encode()] if self.is_first else None)
        return json.loads(frame)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, in their order: the same bits on every rank, so that all decide alike on them."""
        if self.is_alone:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64)
        every = torch.empty(self.count, len(values), dtype=torch.float64)
        dist.all_gather_single(every.flatten(), mine)
        return [float(column) for column in every.sum(0)]

    def norm(self, gradients: Iterable[torch.Tensor]) -> torch.Tensor:
        """The global 2-norm of gradients, scalar: over all parameters, and over every rank's share of each."""
        if self.is_alone:
            return get_total_norm(gradients)
        own = get_total_norm([own_share(one) for one in gradients])
        (squared,) = self.sums([float(own) ** 2])
        return own.new_tensor(squared**0.5)

    def collected(self, columns: Mapping[str, Sequence[Column]]) -> dict[str, list[Column]]:
        """Arrays [n] by name: those of all ranks in their order, on every rank. A name may be missing on some."""
        if self.is_alone:
            return {name: list(arrays) for name, arrays in columns.items()}
        head = {name: [(str(one.dtype), len(one)) for one in arrays] for name, arrays in columns.items()}
        body = b"".join(one.tobytes() for arrays in columns.values() for one in arrays)
        made: dict[str, list[Column]] = {}
        for said, content in zip(self._gather(json.dumps(head).encode()), self._gather(body), strict=True):
            begin = 0
            for name, shapes in json.loads(said).items():
                for kind, length in shapes:
                    made.setdefault(name, []).append(np.frombuffer(content, kind, length, begin))
                    begin += made[name][-1].nbytes
        return made

    def _gather(self, mine: bytes) -> list[bytes]:
        """Every rank's bytes, in order, on every rank."""
        sizes = torch.empty(self.count, dtype=torch.int64)
        dist.all_gather_single(sizes, torch.tensor([len(mine)]))
        longest = int(sizes.max())
        every = torch.empty(self.count * longest, dtype=torch.uint8)
        dist.all_gather_single(every, _bytes_tensor(mine.ljust(longest, b"\0")))
        rows = every.view(self.count, longest).numpy()
        return [rows[rank, :size].tobytes() for rank, size in enumerate(sizes.tolist())]

    def whole(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """On rank 0 the tensors whole, in its main memory, in `dtype`; elsewhere nothing. Every rank calls it.

        One tensor at a time is put together; one that stands under two names (tied weights) stays one.
        """
        made: dict[str, torch.Tensor] = {}
        seen: dict[int, torch.Tensor] = {}
        for name, tensor in tensors.items():
            if id(tensor) not in seen:
                value = tensor.detach()
                value = value.full_tensor() if isinstance(value, DTensor) else value
                seen[id(tensor)] = value.to("cpu", dtype).contiguous() if self.is_first else value.new_empty(0)
            if self.is_first:
                made[name] = seen[id(tensor)]
        return made

    def shard(self, module: torch.nn.Module, layers: Iterable[torch.nn.Module], device: torch.device) -> None:
        """Leave this rank its share of `module`: each of `layers` is gathered when it is used, the rest with `module`.

        Gradients are summed over the ranks: a batch's loss is divided by the whole batch's totals already.
        """
        from torch.distributed.fsdp import FSDPModule, fully_shard  # noqa: PLC0415 - seconds to import

        mesh = init_device_mesh(device.type, (self.count,))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # embeddings, last norm and head: gathered once for a forward and its backward pass
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)


ALONE = Ranks()


def here() -> Ranks:
    """Who this process is by its environment, as torchrun and `loop learner --nproc` set it; alone without it.

    Raises:
        UsageError: the environment names some of what is needed only.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {count}, but {missing[0]} is not set: start the trainer through torchrun")
    return Ranks(rank=int(os.environ["RANK"]), count=count, local=int(os.environ["LOCAL_RANK"]))


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Who this process is, once it has met the others. Raises as `here`."""
    ranks = here()
    if ranks.is_alone:
        yield ranks
        return
    log.info("rank_joins", rank=ranks.rank, waiting_for=f"the other ranks, {ranks.count} in all")
    # bytes and figures go through main memory (gloo) whatever the gradients take
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local % torch.cuda.device_count())
    dist.init_process_group(
        backend, store=_store(ranks), rank=ranks.rank, world_size=ranks.count, timeout=LONGEST_SILENCE
    )
    log.info("rank_joined", rank=ranks.rank, count=ranks.count, backend=backend)
    yield ranks
    dist.destroy_process_group()  # not after an error: the others may be gone, and it would wait for them


def _store(ranks: Ranks) -> Any:
    """Where the ranks find each other: torchrun's own, or one that rank 0 holds, on the loopback where they all are."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds = ranks.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listening = None
    if holds and host == "127.0.0.1":
        # torch itself would listen on every address of the machine
        try:
            listening = socket.create_server((host, port)).detach()
        except OSError as error:
            raise UsageError(f"MASTER_PORT {port}: cannot listen: {error.strerror}; start the run again") from None
    kind: Any = dist.TCPStore  # type: ignore[attr-defined]
    return kind(host, port, ranks.count, holds, LONGEST_SILENCE, master_listen_fd=listening)


def share_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A rank's share of a tensor that every rank has whole, placed as `like` is; a copy. Scalars are not shared."""
    if isinstance(like, DTensor) and whole.dim():
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole.to(like.device, copy=True)


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another rank is gone, rather than that something is wrong here."""
    if not dist.is_initialized():
        return False
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in LOST)


def leave(act: Callable[[Sequence[str]], int], argv: Sequence[str]) -> NoReturn:
    """Exit with what `act` returns. After a failure at once: torch's threads would wait for ranks that are gone."""
    try:
        code = act(argv)
    except Exception:
        if not dist.is_initialized():
            raise
        traceback.print_exc()
        code = 1
    if code and dist.is_initialized():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def own_share(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor: all of it when it is alone."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bytes_tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
