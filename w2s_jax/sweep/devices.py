"""Work spread over the local devices: each takes the next piece as soon as it is free."""

import collections
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def on_devices(work: Sequence[Callable[[], T]], devices: Sequence[Any]) -> Iterator[T]:
    """Runs pieces of work, each wholly on one device, and yields results as they are ready.

    A thread a device waits for it; arrays that a piece makes lie on its device by default. At most
    one result a device waits to be taken, so that memory stays bounded.

    Args:
        work: the pieces, started in this order.
        devices: of this process; with a single one the pieces run in the caller's thread.

    Raises:
        Exception: what a piece raises; no further piece is started then.
    """
    devices = devices[: len(work)]
    if len(devices) <= 1:
        for piece in work:
            yield piece()
        return
    # Settings of a context belong to its thread.
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def on_a_free_device(piece: Callable[[], T]) -> T:
        device = free.get()
        try:
            with jax.default_device(device), jax.enable_x64(x64):
                return piece()
        finally:
            free.put(device)

    waiting = collections.deque(work)
    running: set[Future[T]] = set()
    with ThreadPoolExecutor(len(devices)) as threads:
        try:
            while waiting or running:
                while waiting and len(running) < len(devices):
                    running.add(threads.submit(on_a_free_device, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for finished in sorted(done, key=lambda f: f.exception() is not None):
                    yield finished.result()
        finally:
            for future in running:
                future.cancel()
