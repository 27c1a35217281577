"""A bad line between two network namespaces: delay and loss, packet by packet.

``python -m …slow_link NAMESPACE DEVICE NAMESPACE DEVICE DELAY_MS LOSS SEED``; says ``ready`` once
both TUN devices are there. Losses are drawn from the seed, apart for each direction.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
_MTU = 65_536
# As the queue of a router that is full: what does not fit is lost.
_MAX_WAITING = 4_096


def open_tun(namespace: str, device: str) -> int:
    """A TUN device in a namespace; the calling process stays in it.

    Raises:
        OSError: Without root or TUN support.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", device.encode("ascii"), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    return descriptor


def carry(ends: Sequence[int], *, delay_s: float, loss: float, seed: int) -> None:
    """Hand packets from each end to the other, until killed."""
    draws = {end: random.Random(f"{seed}/{place}") for place, end in enumerate(ends)}
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(list(ends), [], [], pause)[0]:
            packet = os.read(end, _MTU)
            if draws[end].random() >= loss and len(waiting) < _MAX_WAITING:
                count += 1
                heapq.heappush(waiting, (time.monotonic() + delay_s, count, other[end], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            try:
                os.write(end, packet)
            except OSError:
                continue  # the device is down: the packet is lost


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    first, device, second, other_device, delay_ms, loss, seed = arguments
    ends = (open_tun(first, device), open_tun(second, other_device))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(ends, delay_s=float(delay_ms) / 1000.0, loss=float(loss), seed=int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
