"""Published weights into a network, with every tensor on both sides accounted for.

A network states where each of its parameters comes from as a table, target path to `Source`; the
same loader then serves every architecture. Only safetensors files are read: they hold
numbers and names, so nothing in them can run.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from w2s_jax.errors import W2SError

ModuleT = TypeVar("ModuleT", bound=nnx.Module)

_CHUNK_BYTES = 1 << 20
_MAX_NAMES_SHOWN = 8


class WeightsError(W2SError):
    """A weights file or folder cannot be used for the network it was given to."""


class Source(NamedTuple):
    """Where one parameter comes from.

    Attributes:
        name: Tensor name in the published file.
        layout: How that tensor lies against ours: `same`; `linear`, `[out, in]` against
            `[in, out]`; `conv`, `[out, in, height, width]` against `[height, width, in, out]`;
            `depthwise`, `[height, width, out, 1]` against `[height, width, 1, out]`; `squeeze`,
            ours without the axes of length 1.
        part: `(i, n)` where the parameter is the i-th of n equal parts along the tensor's first
            axis, as in fused query, key and value matrices.
    """

    name: str
    layout: Literal["same", "linear", "conv", "depthwise", "squeeze"] = "same"
    part: tuple[int, int] | None = None


_AXES = {"linear": (1, 0), "conv": (2, 3, 1, 0), "depthwise": (0, 1, 3, 2)}


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in chunks.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def installed_folder(package: str, subfolder: str) -> Path | None:
    """Folder inside an installed Python package, found without importing the package.

    Args:
        package: Top-level package name.
        subfolder: Folder below the package's own.

    Returns:
        The folder, or None where the package or the folder does not exist.
    """
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / subfolder
        if folder.is_dir():
            return folder
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        WeightsError: The file does not exist or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}; download it again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} does not hold a JSON object; download it again.")
    return content


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensor name to array, dtypes as stored.

    Raises:
        WeightsError: The file does not exist or is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise WeightsError(f"No weights file at {path}; give a folder that has model.safetensors.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); download it again."
        ) from error


def load_weights(
    abstract: ModuleT,
    tensors: Mapping[str, np.ndarray],
    sources: Mapping[str, Source],
    *,
    unused: Sequence[str] = (),
) -> ModuleT:
    """Fill a network with published tensors, or say everything that does not match.

    Args:
        abstract: The network with shapes instead of arrays, `nnx.eval_shape(lambda: Net(...))`.
        tensors: Tensor name to array, as read from the published file.
        sources: Parameter path (names and list positions joined by dots) to its source.
        unused: Regular expressions; a tensor whose whole name matches one is left out on purpose.

    Returns:
        The network with its arrays, converted to each parameter's dtype.

    Raises:
        WeightsError: A parameter has no source, a tensor is missing, misshaped, not finite, or is
            neither used nor listed as unused. All of them are named in the one message.
    """
    graph, state = nnx.split(abstract)
    flat = nnx.to_flat_state(state)
    targets = {
        ".".join(map(str, path)): (path, leaf)
        for path, leaf in zip(flat.paths, flat.leaves, strict=True)
    }
    wanted = {source.name for source in sources.values()}
    problems = [
        _problem("parameters without a source", targets.keys() - sources.keys()),
        _problem("sources for parameters the network lacks", sources.keys() - targets.keys()),
        _problem("missing tensors", wanted - tensors.keys()),
        _problem(
            "unexpected tensors",
            {
                name
                for name in tensors.keys() - wanted
                if not any(re.fullmatch(pattern, name) for pattern in unused)
            },
        ),
    ]
    filled, misshaped, not_finite = [], [], []
    for target, source in sources.items():
        if target not in targets or source.name not in tensors:
            continue
        path, leaf = targets[target]
        value = _in_our_layout(tensors[source.name], source)
        if value.shape != leaf.shape:
            misshaped.append(f"{source.name} {value.shape} instead of {leaf.shape}")
            continue
        if not np.isfinite(value).all():
            not_finite.append(source.name)
        filled.append((path, leaf.replace(jnp.asarray(value, dtype=leaf.dtype))))
    problems += [
        _problem("misshaped tensors (in our layout)", misshaped),
        _problem("tensors that are not finite", not_finite),
    ]
    problems = [problem for problem in problems if problem]
    if problems:
        raise WeightsError(
            f"The weights do not fit {type(abstract).__name__}: {'; '.join(problems)}. "
            "Use the weights and config.json of one published model."
        )
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _in_our_layout(value: np.ndarray, source: Source) -> np.ndarray:
    """The tensor as the network holds it; unchanged where its shape does not allow that."""
    if source.part is not None:
        index, count = source.part
        size, rest = divmod(value.shape[0] if value.ndim else 0, count)
        if rest == 0:
            value = value[index * size : (index + 1) * size]
    if source.layout == "squeeze":
        return value.squeeze()
    axes = _AXES.get(source.layout)
    return value.transpose(axes) if axes is not None and value.ndim == len(axes) else value


def _problem(what: str, names) -> str:
    names = sorted(names)
    shown = ", ".join(names[:_MAX_NAMES_SHOWN])
    more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return f"{len(names)} {what}: {shown}{more}" if names else ""
