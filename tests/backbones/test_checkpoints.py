import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2s_jax.backbones import checkpoints
from w2s_jax.backbones.checkpoints import download, read_checkpoint
from w2s_jax.backbones.weights import WeightsError, file_sha256

A, B = {"a": np.arange(3.0)}, {"b": np.ones((2, 2), np.float32)}


def write_shards(folder, weight_map=None):
    save_file(A, folder / "model-00001-of-00002.safetensors")
    save_file(B, folder / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map or names}))
    return index


def assert_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_file_and_folder(tmp_path):
    save_file(A, tmp_path / "other.safetensors")
    for path in (tmp_path, tmp_path / "other.safetensors", str(tmp_path)):
        assert_tensors(read_checkpoint(path).tensors, A)
    save_file(B, tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path)
    assert_tensors(checkpoint.tensors, B)
    digest = file_sha256(tmp_path / "model.safetensors")
    assert checkpoint.fingerprints() == {"model.safetensors": digest}


def test_shards(tmp_path):
    index = write_shards(tmp_path)
    for path in (tmp_path, index):
        checkpoint = read_checkpoint(path)
        assert_tensors(checkpoint.tensors, A | B)
        assert len(checkpoint.fingerprints()) == 3


def test_bad_indices(tmp_path):
    index = write_shards(tmp_path, {"a": "../model.safetensors"})
    save_file(A, tmp_path.parent / "model.safetensors")
    with pytest.raises(WeightsError, match="which is no file beside it"):
        read_checkpoint(index)
    write_shards(tmp_path, {"a": "model-3.safetensors"})
    with pytest.raises(WeightsError, match=r"names .*model-3\.safetensors, which is no file"):
        read_checkpoint(index)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="has no weight_map from tensors to files"):
        read_checkpoint(index)


def test_absent_and_ambiguous(tmp_path):
    with pytest.raises(WeightsError, match="No weights at .*nothing; give a file"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(WeightsError, match=r"nor exactly one file of weights \(found none\)"):
        read_checkpoint(tmp_path)
    save_file(A, tmp_path / "x.safetensors")
    save_file(A, tmp_path / "y.safetensors")
    with pytest.raises(WeightsError, match=r"found x\.safetensors, y\.safetensors"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("file", "module", "extra"),
    [("w.pth", "torch", "torch"), ("w.bin", "torch", "torch"), ("w.h5", "h5py", "keras")],
)
def test_readers_that_are_not_installed(tmp_path, monkeypatch, file, module, extra):
    def fail(name):
        raise ImportError(name)

    (tmp_path / file).write_bytes(b"x")
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(WeightsError, match=rf"{module} is needed to read {file}: .*\[{extra}\]"):
        read_checkpoint(tmp_path / file)
    with pytest.raises(WeightsError, match=r"huggingface_hub is needed to download .*\[hub\]"):
        download("a/b")


def fake_hub(monkeypatch, files, folder):
    """A hub whose repository holds these files; records what was asked for."""
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, *allow_patterns))
        if isinstance(files, Exception):
            raise files
        for name, pattern in files.items():
            if pattern in allow_patterns:
                save_file(A, folder / name)
        return str(folder)

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setattr(checkpoints.importlib, "import_module", lambda name: hub)
    return asked


def test_download_prefers_safetensors(tmp_path, monkeypatch):
    asked = fake_hub(monkeypatch, {"model.safetensors": "model*.safetensors*"}, tmp_path)
    assert_tensors(read_checkpoint(download("a/b", revision="v1")).tensors, A)
    assert asked == [("a/b", "v1", "model*.safetensors*")]


def test_download_takes_torch_files_where_there_is_nothing_else(tmp_path, monkeypatch):
    asked = fake_hub(monkeypatch, {"pytorch_model.bin": "pytorch_model*.bin*"}, tmp_path)
    assert download("a/b") == tmp_path
    assert len(asked) == 2


def test_failed_downloads(tmp_path, monkeypatch):
    fake_hub(monkeypatch, {}, tmp_path)
    with pytest.raises(WeightsError, match=r"a/b has none of model\.safetensors"):
        download("a/b")
    fake_hub(monkeypatch, OSError("no network"), tmp_path)
    with pytest.raises(WeightsError, match=r"a/b cannot be downloaded \(OSError: no network\)"):
        download("a/b")


@pytest.mark.reference
def test_torch_files(tmp_path):
    import torch

    tensors = {"a": torch.arange(3.0), "low": torch.ones(2, dtype=torch.bfloat16)}
    expected = {"a": np.arange(3.0), "low": np.ones(2)}
    path = tmp_path / "model.pth"
    for content in (tensors, {"model": tensors, "epoch": 3}, {"state_dict": tensors}):
        torch.save(content, path)
        assert_tensors(read_checkpoint(path).tensors, expected)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="holds a list instead of named tensors"):
        read_checkpoint(path)


@pytest.mark.reference
def test_torch_files_cannot_run_code(tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    for name in ("evil.pth", "noise.pth"):
        with pytest.raises(WeightsError, match="cannot be read by torch's weights-only mode"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()
