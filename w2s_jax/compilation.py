"""Keeps compiled programs on disk, so that another start of the same work compiles nothing."""

import logging
import os
from pathlib import Path

import jax

LOGGER = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/w2s_jax``, or ``~/.cache/w2s_jax``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "w2s_jax" / "compiled"


def enable_compilation_cache(path: str | Path | None = None) -> Path | None:
    """Turns JAX's persistent compilation cache on.

    A cache that is configured already (``JAX_COMPILATION_CACHE_DIR``) stays as it is. A folder that
    cannot be written costs compilation time, never a run: it is logged and nothing is kept.

    Args:
        path: where to keep programs; default see `default_cache_dir`.

    Returns:
        The folder in use, None if there is none.
    """
    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if configured and path is None:
        return Path(configured)
    folder = Path(path) if path is not None else default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        LOGGER.warning("compiled programs are not kept: cannot write %s (%s)", folder, error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
