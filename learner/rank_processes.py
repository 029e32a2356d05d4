"""The trainer's processes as their parent sees them: what each is called and told, and which one's end is the cause.

Free of torch; what the ranks say to each other is in trainer/ranks.py.
"""

from __future__ import annotations

import socket

LOST_EXIT = 3  # exit code of a rank that ended because another one had: never the cause
LOOPBACK = "127.0.0.1"


def name_of(rank: int, count: int) -> str:
    """What a person reads: `trainer`, or `trainer rank 1` where there are several."""
    return "trainer" if count == 1 else f"trainer rank {rank}"


def stem_of(name: str) -> str:
    """What a process's files in the run folder are called: rank 0 writes to `trainer`, rank 1 to `trainer-1`."""
    return name.replace(" rank ", "-").removesuffix("-0")


def environments(count: int) -> list[dict[str, str]]:
    """A rank's environment each, as torchrun would set it, for `count` ranks on this machine's loopback."""
    if count == 1:
        return [{"WORLD_SIZE": "1"}]
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    interface = {} if loopback is None else {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        **interface,
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
