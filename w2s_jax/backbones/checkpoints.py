"""Tensors from the files that published networks come in.

safetensors, whole or in shards; torch's files only through its weights-only mode, which cannot
run code; Keras's HDF5 files, of which only arrays are read. Torch, h5py and huggingface_hub are
imported where a file needs them.
"""

import importlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2s_jax.backbones.weights import WeightsError, file_sha256, read_json, read_safetensors

_TORCH_SUFFIXES = (".bin", ".pt", ".pth")
_HDF5_SUFFIXES = (".h5", ".hdf5", ".keras")
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Under which training scripts keep the tensors among other things.
_WRAPPERS = ("model", "state_dict")


class Checkpoint(NamedTuple):
    """Tensors by their published names, and the files they came from."""

    tensors: dict[str, np.ndarray]
    files: tuple[Path, ...]

    def fingerprints(self) -> dict[str, str]:
        """File name to SHA-256."""
        return {path.name: file_sha256(path) for path in self.files}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of weights, an index of shards, or a folder that holds either.

    Args:
        path: A `.safetensors`, `.bin`, `.pt`, `.pth` or `.h5` file, an `.index.json`, or a folder
            in Hugging Face's layout; another folder must hold exactly one such file.

    Returns:
        The tensors.

    Raises:
        WeightsError: There is no such file, it is malformed, or its reader is not installed.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.is_file():
        raise WeightsError(f"No weights at {path}; give a file of weights or its folder.")
    if path.name.endswith(".index.json"):
        files = _shards(path)
        tensors: dict[str, np.ndarray] = {}
        for file in files:
            tensors |= _read_file(file)
        return Checkpoint(tensors, (path, *files))
    return Checkpoint(_read_file(path), (path,))


def download(repository: str, *, revision: str | None = None) -> Path:
    """Folder with a published model's weights, by huggingface_hub and its cache.

    Args:
        repository: Name on the hub, such as `facebook/dinov2-large`.
        revision: Branch, tag or commit; a commit pins the weights for good.

    Returns:
        A folder for `read_checkpoint`.

    Raises:
        WeightsError: huggingface_hub is not installed, or the download failed.
    """
    hub = _import("huggingface_hub", "download weights", "hub")
    for pattern in ("model*.safetensors*", "pytorch_model*.bin*"):
        try:
            folder = hub.snapshot_download(repository, revision=revision, allow_patterns=[pattern])
        # Bad names are ValueErrors, all else (no network, no such repository) OSErrors.
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{repository} cannot be downloaded ({type(error).__name__}: "
                f"{' '.join(str(error).split())}); "
                "download it elsewhere and give its folder."
            ) from error
        if any((Path(folder) / name).is_file() for name in _FOLDER_FILES):
            return Path(folder)
    raise WeightsError(f"{repository} has none of {', '.join(_FOLDER_FILES)}; give a file.")


def _file_in(folder: Path) -> Path:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    suffixes = (".safetensors", *_TORCH_SUFFIXES, *_HDF5_SUFFIXES)
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise WeightsError(
            f"{folder} holds neither {', '.join(_FOLDER_FILES)} nor exactly one file of weights "
            f"(found {found}); name the file."
        )
    return files[0]


def _shards(index: Path) -> Sequence[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files; download it again.")
    files = [index.parent / name for name in sorted(set(names.values()))]
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise WeightsError(f"{index} names {file}, which is no file beside it.")
    return files


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    if path.suffix in _HDF5_SUFFIXES:
        return _read_hdf5(path)
    return read_safetensors(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _import("torch", f"read {path.name}", "torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} cannot be read by torch's weights-only mode ({error}); "
            "convert it to safetensors where you trust it."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__} instead of named tensors.")
    tensors = {
        str(name): value.detach() for name, value in content.items() if torch.is_tensor(value)
    }
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        for name, value in tensors.items()
    }


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    h5py = _import("h5py", f"read {path.name}", "keras")
    tensors = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            tensors[name] = np.asarray(item)

    try:
        with h5py.File(path) as file:
            file.visititems(keep)
    except (OSError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read as HDF5 ({error}).") from error
    return tensors


def _import(module: str, purpose: str, extra: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WeightsError(
            f"{module} is needed to {purpose}: pip install 'w2s_jax[{extra}]'."
        ) from error
