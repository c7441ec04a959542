"""Work spread over the local devices: each takes the next piece as soon as it is free.

A device has two pieces at a time, so that it computes one while the host prepares or writes up the
other.
"""

import collections
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax

T = TypeVar("T")
AT_ONCE = 2


def on_devices(
    work: Sequence[Callable[[], T]],
    devices: Sequence[Any],
    stopping: Callable[[], bool] = lambda: False,
    at_once: int = 1,
) -> Iterator[T]:
    """Runs pieces of work, each wholly on one device, and yields results as they are ready.

    Each piece has a thread that waits for its device; arrays that it makes lie there by default.
    Only as many results as there are threads wait to be taken, so that memory stays bounded. Until
    the first is there, each device has one piece alone: the others would compile the same programs.

    Args:
        work: the pieces, started in this order.
        devices: of this process; with one, and one piece at a time, the pieces run in the caller's
            thread.
        stopping: once true, no further piece is started; those that run are waited for.
        at_once: pieces that a device has at a time.

    Raises:
        Exception: what a piece raises, after the results of those that ran beside it.
    """
    most = min(len(devices), len(work))
    devices = (list(devices) * at_once)[: len(work)]
    if len(devices) <= 1:
        for piece in work:
            if stopping():
                return
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
    failure: BaseException | None = None
    threads = ThreadPoolExecutor(len(devices))
    try:
        while running or (waiting and not stopping() and failure is None):
            while waiting and len(running) < most and not stopping() and failure is None:
                running.add(threads.submit(on_a_free_device, waiting.popleft()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            most = len(devices)
            for finished in done:
                if finished.exception() is None:
                    yield finished.result()
                else:
                    failure = failure or finished.exception()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure
