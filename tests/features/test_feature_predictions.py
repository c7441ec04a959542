import numpy as np
import pytest

from w2s_jax.errors import FeatureError
from w2s_jax.features import load_predictions, make_predictions

IDS = np.array(["a", "b", "c"])
SOFT = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "llm.npz", **arrays)
        return tmp_path / "llm.npz"

    return write


@pytest.fixture
def csv(tmp_path):
    def write(text):
        (tmp_path / "llm.csv").write_text(text)
        return tmp_path / "llm.csv"

    return write


def test_classes(npz, csv):
    hard = load_predictions(npz(ids=IDS, predictions=[1, 0, 2]))
    np.testing.assert_array_equal(hard.probabilities, np.eye(3)[[1, 0, 2]])
    assert (hard.name, hard.hard, hard.num_rows, hard.num_classes) == ("llm", True, 3, 3)
    assert hard.probabilities.dtype == np.float32
    again = load_predictions(csv("id,prediction,note\na,1,x\nb,0,y\nc,2,z\n"))
    assert again.fingerprint == hard.fingerprint
    assert make_predictions(IDS, [0, 0, 0]).num_classes == 2


def test_probabilities(npz, csv):
    soft = load_predictions(npz(ids=IDS, probabilities=SOFT))
    np.testing.assert_allclose(soft.probabilities, SOFT, rtol=1e-7)
    assert not soft.hard
    for names in ("probability_1,probability_0", "p1,p0", "prob_1,prob_0"):
        again = load_predictions(csv(f"{names},id\n.8,.2,a\n0,1,b\n.5,.5,c\n"))
        assert again.fingerprint == soft.fingerprint


def test_rounded_probabilities_are_normalised():
    rounded = make_predictions(IDS, probabilities=np.full((3, 3), 0.33, np.float16))
    np.testing.assert_allclose(rounded.probabilities, 1 / 3, rtol=1e-6)


def test_fingerprint_depends_on_ids_and_values():
    prints = {
        make_predictions(IDS, [0, 1, 0]).fingerprint,
        make_predictions(IDS, [0, 1, 1]).fingerprint,
        make_predictions(["a", "b", "d"], [0, 1, 0]).fingerprint,
    }
    assert len(prints) == 3
    same = make_predictions(IDS, probabilities=np.eye(2)[[0, 1, 0]]).fingerprint
    assert same in prints


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"predictions": [0, 1, 0]}, "lacks the key 'ids'"),
        ({"ids": IDS}, "has ids; give exactly one of predictions"),
        ({"ids": IDS, "predictions": [0, 1, 0], "probabilities": SOFT}, "give exactly one"),
        ({"ids": IDS, "prediction": [0, 1, 0]}, "did you mean 'predictions'?"),
        ({"ids": IDS, "predictions": [0, 1]}, "ids has 3 rows, but the predictions have 2"),
        ({"ids": IDS, "predictions": [0, -1, 1]}, "predictions is -1 in row 1"),
        ({"ids": IDS, "predictions": [0, 99_999_999, 1]}, "predictions is 99999999 in row 1"),
        ({"ids": IDS, "predictions": [0.0, 1.0, 1.0]}, "predictions has dtype float64"),
        ({"ids": IDS, "predictions": np.zeros((3, 2), int)}, "predictions has shape [3, 2]"),
        ({"ids": IDS[:0], "predictions": np.zeros(0, int)}, "predictions has 0 rows"),
        ({"ids": IDS, "predictions": np.array([0, None, 1])}, "holds Python objects"),
        ({"ids": ["a", "b", "a"], "predictions": [0, 1, 0]}, "1 duplicates, for instance 'a'"),
        ({"ids": IDS, "probabilities": SOFT[:, 0]}, "probabilities has shape [3]"),
        ({"ids": IDS, "probabilities": SOFT[:, :1]}, "with two classes or more"),
        ({"ids": IDS, "probabilities": SOFT[:0]}, "probabilities has shape [0, 2]"),
        ({"ids": IDS, "probabilities": [[1, 0]] * 3}, "probabilities has dtype int64"),
        ({"ids": IDS, "probabilities": SOFT * 100}, "sum to one in 3 rows, first in row 0"),
        ({"ids": IDS, "probabilities": SOFT - 0.1}, "negative, NaN or infinite in 1 rows"),
        ({"ids": IDS, "probabilities": SOFT * np.nan}, "first in row 0: [nan, nan]"),
    ],
)
def test_npz_defects(npz, arrays, words):
    path = npz(**arrays)
    with pytest.raises(FeatureError) as error:
        load_predictions(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prediction\n1\n", "lacks the column 'id'; found prediction"),
        ("id,label\na,1\n", "has the columns id, label; give either prediction"),
        ("id,prediction\na,yes\n", "prediction in"),
        ("id,probability_0,probability_2\na,1,0\n", "of the classes [0, 2]"),
        ("id,probability_0,probability_1\na,1,no\n", "a probability that is no number"),
        ("id,predictoin\na,1\n", "'predictoin' (did you mean 'prediction'?)"),
        ("", "is empty"),
    ],
)
def test_csv_defects(csv, text, words):
    path = csv(text)
    with pytest.raises(FeatureError) as error:
        load_predictions(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_other_files(tmp_path):
    with pytest.raises(FeatureError, match=r"come from \.npz or \.csv files"):
        load_predictions(tmp_path / "llm.json")
    for name in ("llm.npz", "llm.csv"):
        with pytest.raises(FeatureError, match=f"cannot read .*{name}: No such file"):
            load_predictions(tmp_path / name)
    with pytest.raises(FeatureError, match="give exactly one"):
        make_predictions(IDS)
