import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

pytest.importorskip("grain")
from tests.extraction import tiny
from w2s_jax.backbones.loading import load_backbone
from w2s_jax.backbones.registry import BACKBONES
from w2s_jax.datasets import DatasetError
from w2s_jax.errors import Interrupted
from w2s_jax.extraction import ExtractionError, extract_image_features, images, passes
from w2s_jax.extraction.loading import geometry_of
from w2s_jax.features import load_features

# Stated in `w2s_jax.extraction.images`, relative to the largest value; storage is float32 here.
TOLERANCE = 1e-5
NUM_IMAGES = 41


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    for name, spec in tiny.SPECS.items():
        monkeypatch.setitem(BACKBONES, name, spec)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {name: tiny.write_weights(folder, name) for name in tiny.SPECS}


@pytest.fixture
def vit(weights):
    return load_backbone("tiny_vit", weights["tiny_vit"], layers=("cls", "mean"))


@pytest.fixture
def net(weights):
    return load_backbone("tiny_net", weights["tiny_net"])


@pytest.fixture(scope="module")
def source():
    return tiny.MemorySource(NUM_IMAGES)


def one_by_one(source, backbone):
    """Layer to features, an image at a time and without any of the extraction's code."""
    from PIL import Image

    rows = [
        backbone.apply(backbone.preprocess(Image.fromarray(source[row]["image"]))[None])
        for row in range(len(source))
    ]
    return {layer: np.concatenate([row[layer] for row in rows]) for layer in backbone.outputs}


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".npy"}


def test_several_networks_and_layers_in_one_pass(source, vit, net, tmp_path, monkeypatch):
    decoded = []
    original = type(source).read
    monkeypatch.setattr(type(source), "read", lambda *a: decoded.append(a[1]) or original(*a))
    made = extract_image_features(
        source, [vit, net], tmp_path, batch_size=8, storage="float32", shard_size=20
    )
    assert sorted(decoded) == list(range(NUM_IMAGES))  # once each, the last partial batch too
    names = ["squares/tiny_vit_cls", "squares/tiny_vit_mean", "squares/tiny_net_pooled"]
    assert [features.name for features in made] == names
    expected = one_by_one(source, vit) | one_by_one(source, net)
    for features, layer in zip(made, ("cls", "mean", "pooled"), strict=True):
        assert features.features.dtype == np.float32
        assert_close(features.features, expected[layer])
        assert features.ids.tolist() == source.columns["id"].tolist()
        assert features.labels.tolist() == source.columns["label"].tolist()
        assert features.minority.tolist() == (source.columns["minority"] == 1).tolist()
        assert (features.eta_o, features.pool, features.source_ids) == (0.25, "train", None)
        assert features.class_names == ("no", "yes")
        features.verify()
    assert sorted(path.name for path in (tmp_path / "squares").iterdir()) == [
        name.split("/")[1] for name in sorted(names)
    ]
    provenance = made[0].provenance
    assert provenance["weights_sha256"] == vit.fingerprints
    assert provenance["preprocessing"]["size"] == 16
    assert provenance["benchmark"]["licence"] == "none"
    assert provenance["extraction"]["layer"] == "cls"


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batch_size_changes_nothing_but_rounding(source, vit, tmp_path, batch_size):
    made = extract_image_features(
        source, vit, tmp_path, batch_size=batch_size, storage="float32", shard_size=15
    )
    expected = one_by_one(source, vit)
    for features, layer in zip(made, ("cls", "mean"), strict=True):
        assert_close(features.features, expected[layer])


def test_every_batch_runs_the_same_program(source, vit, tmp_path, count_compilations):
    extract_image_features(source, vit, tmp_path / "a", batch_size=9, shard_size=20)
    assert sum("apply" in name for name in count_compilations) <= 1
    before = len(count_compilations)
    extract_image_features(source, vit, tmp_path / "b", batch_size=9, shard_size=33)
    assert len(count_compilations) == before


def test_bfloat16_is_close_and_told_apart(source, weights, vit, tmp_path):
    half = load_backbone("tiny_vit", weights["tiny_vit"], dtype="bfloat16")
    (found,) = extract_image_features(source, half, tmp_path, storage="float32")
    expected = one_by_one(source, vit)["cls"]
    difference = np.abs(found.features - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 0.05
    with pytest.raises(ExtractionError, match="dtype: 'bfloat16' there, 'float32' now"):
        extract_image_features(source, vit, tmp_path, storage="float32")


def test_worker_processes(vit, tmp_path):
    parsed = flags.FLAGS.is_parsed()
    source = tiny.MemorySource(19)
    (alone, _) = extract_image_features(source, vit, tmp_path / "0", batch_size=5)
    (found, _) = extract_image_features(source, vit, tmp_path / "2", batch_size=5, num_workers=2)
    assert found.fingerprint == alone.fingerprint  # bit for bit
    assert flags.FLAGS.is_parsed() == parsed


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_image_is_named(vit, tmp_path, num_workers):
    source = tiny.MemorySource(12, bad=5)
    with pytest.raises(DatasetError, match=r"image5.jpg cannot be decoded"):
        extract_image_features(source, vit, tmp_path, num_workers=num_workers)


def test_source_ids_group_rows_that_share_one(vit, tmp_path):
    source = tiny.MemorySource(12, sources=True)
    (made, _) = extract_image_features(source, vit, tmp_path)
    assert made.source_ids is not None
    assert made.source_ids[[0, 4]].tolist() == ["only image0.jpg", "source s4"]


def test_devices_share_a_batch(tmp_path, weights):
    prints, sets = {}, {}
    for num_devices in (1, 4):
        out = tmp_path / str(num_devices)
        command = [sys.executable, "-m", "tests.extraction.tiny", str(out)]
        command += ["--weights", str(weights["tiny_vit"]), "--num_devices", str(num_devices)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        prints[num_devices] = done.stdout.split()[0]
        sets[num_devices] = load_features(out / "squares" / "tiny_vit_mean").features
    assert prints == {1: "1", 4: "4"}
    one = sets[1].astype(np.float32)
    # Batches of 6 became 8; beside rounding in float32, storage rounds once more.
    allowed = TOLERANCE * np.abs(one).max() + np.spacing(np.abs(sets[1])).astype(np.float32)
    assert (np.abs(sets[4].astype(np.float32) - one) <= allowed).all()


class Stop(Exception):
    pass


def stop_after(num_shards, monkeypatch, *arguments, **options):
    """An extraction that ends when so many shards are committed."""
    commit = passes.ShardFolder.commit
    done = []

    def counted(self, shard, features):
        if len(done) == num_shards:
            raise Stop
        done.append(shard)
        commit(self, shard, features)

    with monkeypatch.context() as patch:
        patch.setattr(passes.ShardFolder, "commit", counted)
        with pytest.raises(Stop):
            extract_image_features(*arguments, **options)


def test_resumed_extraction_loads_only_what_is_missing(source, vit, net, tmp_path, monkeypatch):
    options = {"batch_size": 4, "shard_size": 10}
    whole = extract_image_features(source, [vit, net], tmp_path / "whole", **options)
    # two networks' three feature sets of one shard, two of the next
    stop_after(5, monkeypatch, source, [vit, net], tmp_path / "again", **options)
    folder = tmp_path / "again" / "squares"
    assert not any(path.suffix != ".extracting" for path in folder.iterdir())
    (folder / ".tiny_vit_cls.extracting" / "shard-000001-0.tmp").write_bytes(b"half")
    loaded = []
    monkeypatch.setattr(
        passes,
        "load_blocks",
        lambda s, blocks, n, load=passes.load_blocks: loaded.extend(blocks) or load(s, blocks, n),
    )
    again = extract_image_features(source, [vit, net], tmp_path / "again", **options)
    rows = np.concatenate([block.rows for block in loaded])
    assert sorted(rows) == list(range(10, NUM_IMAGES))
    # The shard that only one network lacks is not preprocessed for the other.
    needed = {block.rows[0]: block.geometries for block in loaded}
    both = (geometry_of(vit.preprocessing), geometry_of(net.preprocessing))
    assert (needed[10], needed[20]) == (both[1:], both)
    assert [features.fingerprint for features in again] == [f.fingerprint for f in whole]


def test_finished_features_are_not_made_again(source, vit, net, tmp_path, monkeypatch):
    first = extract_image_features(source, vit, tmp_path, shard_size=20)
    monkeypatch.setattr(
        type(source), "read", lambda *a: pytest.fail("an image was read", pytrace=False)
    )
    again = extract_image_features(source, vit, tmp_path, shard_size=30, batch_size=3)
    assert [f.fingerprint for f in again] == [f.fingerprint for f in first]


def test_damaged_shard_is_computed_anew(source, vit, tmp_path, monkeypatch):
    (whole, _) = extract_image_features(source, vit, tmp_path / "whole", shard_size=10)
    stop_after(4, monkeypatch, source, vit, tmp_path / "again", shard_size=10)
    folder = tmp_path / "again" / "squares" / ".tiny_vit_cls.extracting"
    shard = sorted(folder.glob("shard-*.npy"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (again, _) = extract_image_features(source, vit, tmp_path / "again", shard_size=10)
    assert again.fingerprint == whole.fingerprint


def test_shards_of_other_settings_are_refused(source, vit, weights, tmp_path, monkeypatch):
    stop_after(1, monkeypatch, source, vit, tmp_path, shard_size=10)
    other = load_backbone(
        "tiny_vit", tiny.write_weights(tmp_path, "tiny_vit", 1), layers=("cls", "mean")
    )
    larger = load_backbone("tiny_vit", weights["tiny_vit"], layers=("cls", "mean"), image_size=24)
    fewer = tiny.MemorySource(NUM_IMAGES - 1)
    for arguments, options, message in (
        ((source, other), {"shard_size": 10}, r"sha256\.tiny_vit_0.safetensors: '"),
        ((source, larger), {"shard_size": 10}, r"preprocessing\.size: 16 there, 24 now"),
        ((source, vit), {"shard_size": 11}, "shard_size: 10 there, 11 now"),
        ((source, vit), {"storage": "float32"}, "storage: 'float16' there, 'float32' now"),
        ((fewer, vit), {"shard_size": 10}, "num_rows: 41 there, 40 now; rows_sha256"),
    ):
        with pytest.raises(ExtractionError, match=message) as caught:
            extract_image_features(*arguments, tmp_path, **options)
        assert "fingerprint" in str(caught.value)
        assert "choose another --out, or remove" in str(caught.value)


def test_half_written_features_never_open(source, vit, tmp_path, monkeypatch):
    stop_after(8, monkeypatch, source, vit, tmp_path, shard_size=10)
    folder = tmp_path / "squares"
    for path in (folder / "tiny_vit_cls", folder / ".tiny_vit_cls.extracting"):
        with pytest.raises(
            ValueError, match="no feature cache|half-written|does not exist|no such"
        ):
            load_features(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"tiny_vit_cls: feature 3 of row 12 \(image12.jpg\) is nan; the weights are"),
        (np.inf, "is inf; the weights are damaged or the network overflows"),
        (7e4, "is 70000, beyond 65504, the limit of float16; give --storage=float32"),
    ],
)
def test_features_that_cannot_be_stored(source, vit, tmp_path, monkeypatch, value, message):
    wait = passes._wait

    def spoiled(batch, started):
        batch, values = wait(batch, started)
        features = values["tiny_vit"]["cls"].copy()
        features[batch.rows == 12, 3] = value
        values["tiny_vit"]["cls"] = features
        return batch, values

    monkeypatch.setattr(passes, "_wait", spoiled)
    with pytest.raises(ExtractionError, match=message):
        extract_image_features(source, vit, tmp_path, shard_size=10)
    # Nothing of the shard is kept, the one before it is.
    folder = tmp_path / "squares" / ".tiny_vit_cls.extracting"
    assert [path.name.split("-")[1] for path in folder.glob("shard-*")] == ["000000"]
    if value == 7e4:
        (made, _) = extract_image_features(source, vit, tmp_path / "wide", storage="float32")
        assert made.features[12, 3] == 7e4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_shard_and_says_how_to_go_on(vit, tmp_path, monkeypatch, number):
    source, before = tiny.MemorySource(NUM_IMAGES), signal.getsignal(number)
    whole = extract_image_features(source, vit, tmp_path / "whole", batch_size=6, shard_size=10)
    original = type(source).read

    def read(self, index):
        if index == 5:
            os.kill(os.getpid(), number)
        return original(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(type(source), "read", read)
        message = (
            f"stopped by {signal.Signals(number).name} after 10 of 41 images; all of them are on "
            "disk, start the same command again"
        )
        with pytest.raises(Interrupted, match=message) as stop:
            extract_image_features(source, vit, tmp_path / "two", batch_size=6, shard_size=10)
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    folder = tmp_path / "two" / "squares" / ".tiny_vit_cls.extracting"
    assert [path.name.split("-")[1] for path in folder.glob("shard-*")] == ["000000"]
    made = extract_image_features(source, vit, tmp_path / "two", batch_size=6, shard_size=10)
    assert [f.fingerprint for f in made] == [f.fingerprint for f in whole]


def test_rows_of_unknown_group_are_no_majority(vit, tmp_path):
    source = tiny.MemorySource(12)
    source.benchmark = dataclasses.replace(source.benchmark, attributes=(), minority_cells=None)
    source.columns["minority"][2] = -1
    with pytest.raises(ExtractionError, match="1 labelled rows of squares, such as 'image2.jpg'"):
        extract_image_features(source, vit, tmp_path)
    source.columns["label"][2] = -1  # of unlabelled rows it need not be known
    assert extract_image_features(source, vit, tmp_path)[0].labels[2] == -1


def test_bad_settings_fail_before_images_are_read(source, vit, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "run_pass", lambda *a, **k: pytest.fail("images were read"))
    for options, message in (
        ({"batch_size": 0}, "batch_size is 0; give at least 1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"storage": "int8"}, "unknown storage 'int8'; known are float16, float32"),
    ):
        with pytest.raises(ExtractionError, match=message):
            extract_image_features(source, vit, tmp_path, **options)
    with pytest.raises(ExtractionError, match="tiny_vit:cls, tiny_vit:mean is asked for twice"):
        extract_image_features(source, [vit, vit], tmp_path)
    (tmp_path / "squares" / "tiny_vit_cls").mkdir(parents=True)
    with pytest.raises(ExtractionError, match="is there and is no feature cache"):
        extract_image_features(source, vit, tmp_path)
