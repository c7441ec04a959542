import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from w2s_jax.backbones.weights import (
    Source,
    WeightsError,
    file_sha256,
    installed_folder,
    load_weights,
    read_json,
    read_safetensors,
)


class Net(nnx.Module):
    """A convolution with batch statistics and a dense layer: what image networks need."""

    def __init__(self, *, rngs):
        self.conv = nnx.Conv(3, 5, (2, 4), padding="VALID", use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(5, 2, rngs=rngs)])


SOURCES = {
    "conv.kernel": Source("stem.weight", "conv"),
    "norm.scale": Source("bn.weight"),
    "norm.bias": Source("bn.bias"),
    "norm.mean": Source("bn.running_mean"),
    "norm.var": Source("bn.running_var"),
    "blocks.0.kernel": Source("fc.weight", "linear"),
    "blocks.0.bias": Source("fc.bias"),
}
UNUSED = (r"bn\.num_batches_tracked",)


def make_tensors():
    rng = np.random.default_rng(0)
    shapes = {"bn.weight": 5, "bn.bias": 5, "bn.running_mean": 5, "fc.weight": (2, 5), "fc.bias": 2}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["stem.weight"] = rng.normal(size=(5, 3, 2, 4)).astype(np.float16)
    tensors["bn.running_var"] = rng.uniform(1, 2, 5).astype(np.float32)
    tensors["bn.num_batches_tracked"] = np.array(7)
    return tensors


def load(tensors, sources=SOURCES, unused=UNUSED):
    return load_weights(
        nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(0))), tensors, sources, unused=unused
    )


def test_layouts_statistics_and_dtypes():
    tensors = make_tensors()
    net = load(tensors)
    assert net.conv.kernel[...].dtype == jnp.float32
    image = np.random.default_rng(1).normal(size=(1, 2, 4, 3)).astype(np.float32)
    expected = np.einsum("hwi,oihw->o", image[0], tensors["stem.weight"].astype(np.float32))
    found = net.conv(image)
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=0, atol=1e-5)
    scaled = (expected - tensors["bn.running_mean"]) / np.sqrt(tensors["bn.running_var"] + 1e-5)
    scaled = scaled * tensors["bn.weight"] + tensors["bn.bias"]
    np.testing.assert_allclose(net.norm(found)[0, 0, 0], scaled, rtol=0, atol=1e-5)
    dense = scaled @ tensors["fc.weight"].T + tensors["fc.bias"]
    np.testing.assert_allclose(net.blocks[0](scaled.astype(np.float32)), dense, rtol=0, atol=1e-5)


def test_all_problems_are_in_one_message():
    tensors = make_tensors()
    del tensors["bn.bias"]
    tensors["head.weight"] = np.zeros(3)
    tensors["fc.bias"] = np.zeros(3)
    tensors["bn.weight"][2] = np.nan
    sources = {key: value for key, value in SOURCES.items() if key != "norm.var"}
    sources["norm.offset"] = Source("bn.running_var")
    with pytest.raises(WeightsError) as caught:
        load(tensors, sources)
    assert str(caught.value) == (
        "The weights do not fit Net: 1 parameters without a source: norm.var; "
        "1 sources for parameters the network lacks: norm.offset; 1 missing tensors: bn.bias; "
        "1 unexpected tensors: head.weight; "
        "1 misshaped tensors (in our layout): fc.bias (3,) instead of (2,); "
        "1 tensors that are not finite: bn.weight. "
        "Use the weights and config.json of one published model."
    )


def test_unused_patterns_match_whole_names():
    tensors = {**make_tensors(), "extra.bn.num_batches_tracked": np.array(1)}
    with pytest.raises(WeightsError, match=r"1 unexpected tensors: extra\.bn"):
        load(tensors)


def test_wrong_number_of_axes():
    tensors = make_tensors()
    tensors["fc.weight"] = tensors["fc.weight"].ravel()
    with pytest.raises(WeightsError, match=r"fc\.weight \(10,\) instead of \(5, 2\)"):
        load(tensors)


def test_parts_of_fused_tensors():
    tensors = make_tensors()
    weight, bias = tensors.pop("fc.weight"), tensors.pop("fc.bias")
    tensors["both.weight"] = np.concatenate([weight + 1, weight])
    tensors["both.bias"] = np.concatenate([bias + 1, bias])[None, :, None]
    sources = SOURCES | {
        "blocks.0.kernel": Source("both.weight", "linear", (1, 2)),
        "blocks.0.bias": Source("both.bias", "squeeze"),
    }
    with pytest.raises(WeightsError, match=r"both\.bias \(4,\) instead of \(2,\)"):
        load(tensors, sources)
    tensors["both.bias"] = bias[None, :, None]
    net = load(tensors, sources)
    np.testing.assert_array_equal(net.blocks[0].kernel[...], weight.T)
    np.testing.assert_array_equal(net.blocks[0].bias[...], bias)
    tensors["both.weight"] = tensors["both.weight"][:-1]
    with pytest.raises(WeightsError, match=r"both\.weight \(5, 3\) instead of \(5, 2\)"):
        load(tensors, sources)


def test_many_names_are_cut():
    with pytest.raises(WeightsError, match=r"7 missing tensors: bn\.bias, .*; 20 unexp.* and 12"):
        load({f"t{index}": np.zeros(1) for index in range(20)})


def test_safetensors_files(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match="No weights file at"):
        read_safetensors(path)
    save_file({"a": np.arange(4.0)}, path)
    np.testing.assert_array_equal(read_safetensors(path)["a"], np.arange(4.0))
    whole = path.read_bytes()
    for damaged in (whole[:-3], b"", b"\x80\x02}q\x00."):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be read as safetensors"):
            read_safetensors(path)


def test_json_files(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(WeightsError, match="cannot be read as JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(WeightsError, match="cannot be read as JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(WeightsError, match="does not hold a JSON object"):
        read_json(path)


def test_fingerprint_of_a_file(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    assert file_sha256(path).startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_folder_of_an_installed_package():
    folder = installed_folder("w2s_jax", "backbones")
    assert folder is not None
    assert (folder / "weights.py").is_file()
    assert installed_folder("w2s_jax", "nothing") is None
    assert installed_folder("no_such_package_here", "model") is None
