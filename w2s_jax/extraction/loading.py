"""Images by row number, decoded and preprocessed in parallel by Grain.

What travels is a block: a few images that are decoded once and preprocessed for every network,
with the row numbers they belong to. Blocks are fixed before the pass, so that neither the number
of workers nor their speed changes what is in one.
"""

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import flags

from w2s_jax.backbones.preprocess import Preprocessing
from w2s_jax.errors import W2SError
from w2s_jax.imaging import ImageError

BLOCK_IMAGES = 16
_BLOCKS_AHEAD = 2  # that each worker holds ready, beside the one it works on
_NO_SHARED_MEMORY = 1 << 62  # bytes an array must have to travel by shared memory


class LoadingError(W2SError):
    """Images cannot be loaded: something is not installed, or a worker process failed."""


class Records(Protocol):
    """Random access to decoded images: `source[row]["image"]` is uint8 [H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Geometry(NamedTuple):
    """The part of a preprocessing that happens before the network; networks may share one."""

    size: int
    resize: int | None
    interpolation: str


def geometry_of(preprocessing: Preprocessing) -> Geometry:
    """Resizing and cropping, without normalisation."""
    return Geometry(preprocessing.size, preprocessing.resize, preprocessing.interpolation)


class Block(NamedTuple):
    """Rows that are loaded together.

    Attributes:
        rows: [b] row numbers.
        geometries: What their images are needed in.
    """

    rows: np.ndarray
    geometries: tuple[Geometry, ...]


class BlockSource:
    """Blocks by number, as Grain reads them; picklable if its images are.

    Args:
        source: The images.
        blocks: What to load.
    """

    def __init__(self, source: Records, blocks: Sequence[Block]):
        self._source, self._blocks = source, list(blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __repr__(self) -> str:
        return f"BlockSource({len(self._blocks)} blocks)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The images of a block.

        Args:
            index: Number of the block.

        Returns:
            "rows" [b] and "pixels", a list of uint8 [b, size, size, 3], one for each geometry.

        Raises:
            ImageError: An image cannot be preprocessed; says which.
            LoadingError: The source gave another row than it was asked for.
        """
        from PIL import Image

        block = self._blocks[index]
        pixels = [
            np.empty((len(block.rows), geometry.size, geometry.size, 3), np.uint8)
            for geometry in block.geometries
        ]
        steps = [Preprocessing(*geometry) for geometry in block.geometries]  # pyright: ignore[reportArgumentType]
        rows = np.empty(len(block.rows), np.int64)
        for position, row in enumerate(block.rows.tolist()):
            record = self._source[row]
            rows[position] = record["index"]
            if record["index"] != row:
                raise LoadingError(
                    f"row {row} was asked for and the source gave row {record['index']}; "
                    "`source[i]` must return the record of row i"
                )
            image = _as_image(record, Image)
            for step, out in zip(steps, pixels, strict=True):
                out[position] = step(image)
        return {"rows": rows, "pixels": pixels}


def _as_image(record: dict[str, Any], image_module):
    image = np.asarray(record["image"])
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ImageError(
            f"the image of row {record['index']} ({record['id']}) is {image.dtype} "
            f"{list(image.shape)}; images must be uint8 [height, width, 3], none of them empty"
        )
    return image_module.fromarray(image)


def load_blocks(
    source: Records, blocks: Sequence[Block], num_workers: int = 0
) -> Generator[dict[str, Any], None, None]:
    """Blocks in their order, loaded ahead.

    Args:
        source: The images; picklable where there are workers.
        blocks: What to load.
        num_workers: Processes that decode; 0 decodes in threads of this one, as many as there are
            cores. Processes start in a fresh interpreter, so a script that asks for them needs an
            `if __name__ == "__main__"` guard.

    Yields:
        As `BlockSource`.

    Raises:
        LoadingError: Grain or Pillow is not installed, or a worker process died.
        W2SError: An image cannot be read.
    """
    try:
        import grain
        import PIL  # noqa: F401
    except ImportError as error:
        raise LoadingError(
            f"images are loaded by Grain and Pillow, and {error.name} is not installed; run "
            "pip install 'w2s_jax[images]'"
        ) from None
    if not blocks:
        return
    num_workers = min(num_workers, len(blocks))
    threads = 1 if num_workers else num_cores()
    data = grain.MapDataset.source(BlockSource(source, blocks)).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    )
    if num_workers:
        # Grain frees its shared memory in a thread that an exiting process does not wait for, and a
        # container's 64 MiB may not hold it. Blocks are small beside the work of decoding them.
        data = grain.experimental.WithOptionsIterDataset(
            data, grain.experimental.DatasetOptions(min_shm_size=_NO_SHARED_MEMORY)
        ).mp_prefetch(
            grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=_BLOCKS_AHEAD),
            worker_init_fn=_start_worker,
        )
    with readable_flags():
        iterator = iter(data)
        try:
            yield from iterator
        finally:
            iterator.close()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def readable_flags() -> Iterator[None]:
    """Lets Grain read its absl flags where the program never parsed any.

    Grain's processes ask for flags, which absl refuses before they are parsed; a library call from
    a notebook never parses them. They have their defaults inside of this context.
    """
    if flags.FLAGS.is_parsed():
        yield
        return
    flags.FLAGS.mark_as_parsed()
    try:
        yield
    finally:
        flags.FLAGS.unparse_flags()


def _start_worker(index: int, count: int) -> None:
    """Leaves Ctrl-C to the main process, and ends with it, however it ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
