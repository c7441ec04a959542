"""Work spread over the local devices: each takes the next piece as soon as it is free.

A device may have two pieces at a time, so that it computes one while the host prepares or writes up
the other.
"""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax

from w2s_jax.errors import WORKER

T = TypeVar("T")
# Pieces of work that share a device and the memory budget.
AT_ONCE = 2


def on_devices(
    work: Sequence[Callable[[], T]],
    devices: Sequence[Any],
    stopping: Callable[[], bool] = lambda: False,
    at_once: int = 1,
) -> Iterator[T]:
    """Runs pieces of work, each wholly on one device, and yields results as they are ready.

    Each piece has a thread that waits for its device; arrays that it makes lie there by default.
    No piece is started while a result waits to be taken, so that memory stays bounded. Until the
    first is there, each device has one piece alone: the others would compile the same programs.
    Threads do not keep a process alive that is interrupted.

    Args:
        work: the pieces, started in this order.
        devices: those of this process; with one, and one piece at a time, the pieces run in the
            caller's thread. With one, the caller's `jax.default_device` holds for them.
        stopping: once true, no further piece is started; those that run are waited for.
        at_once: pieces that a device has at a time.

    Raises:
        Exception: what a piece raises, after the results of those that ran beside it.
    """
    if min(len(devices) * at_once, len(work)) <= 1:
        for piece in work:
            if stopping():
                return
            yield piece()
        return
    # Settings of a context belong to its thread. A device is named only where there are several,
    # or the caller did: to name the default one would compile every program once more.
    given = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    ended: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def run_on(number: int, piece: Callable[[], T]) -> None:
        try:
            device = devices[number] if len(devices) > 1 else given
            place = contextlib.nullcontext() if device is None else jax.default_device(device)
            with place, jax.enable_x64(x64):
                ended.put((number, piece(), None))
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            ended.put((number, None, error))

    waiting, in_hand = collections.deque(work), [0] * len(devices)
    most = len(devices)
    failure: BaseException | None = None
    while any(in_hand) or (waiting and not stopping() and failure is None):
        while waiting and sum(in_hand) < most and not stopping() and failure is None:
            number = in_hand.index(min(in_hand))
            in_hand[number] += 1
            given_work = (number, waiting.popleft())
            threading.Thread(target=run_on, args=given_work, name=WORKER, daemon=True).start()
        if not any(in_hand):
            break
        number, result, error = ended.get()
        in_hand[number] -= 1
        most = len(devices) * at_once
        if error is None:
            yield result
        else:
            failure = failure or error
    if failure is not None:
        raise failure
