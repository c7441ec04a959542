import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.coco_masks import decode_counts, decode_segmentation, read_objects


def encode_runs(mask):
    """Run lengths down the columns, background first, the slow way."""
    counts, current = [0], False
    for value in mask.T.reshape(-1):
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def encode_counts(counts):
    """The compressed string, after the description of COCO's format."""
    text = ""
    for index, count in enumerate(counts):
        value = count - (counts[index - 2] if index > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def test_strings_of_pycocotools():
    y, x = np.mgrid[:300:10, :400:10]
    disc = (y - 150) ** 2 + (x - 200) ** 2 < 120**2
    text = "i89c04M2N2N2N2O0O2O0000000000000001N101N2N2N2N3LW7"
    found = decode_segmentation({"size": [30, 40], "counts": text}, 30, 40)
    np.testing.assert_array_equal(found, disc)
    bar = np.zeros((1000, 800), bool)
    bar[400:900, 300:305] = True
    found = decode_segmentation({"size": [1000, 800], "counts": b"`[U9d?d?0000000XPS?"}, 1000, 800)
    np.testing.assert_array_equal(found, bar)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_runs_round_trip(mask):
    counts = encode_runs(mask)
    height, width = mask.shape
    for form in (counts, encode_counts(counts), encode_counts(counts).encode()):
        found = decode_segmentation({"size": [height, width], "counts": form}, height, width)
        np.testing.assert_array_equal(found, mask)


@given(st.lists(st.integers(0, 10**7), max_size=30))
def test_counts_round_trip(counts):
    assert decode_counts(encode_counts(counts)) == counts


def test_polygons_are_unions_and_may_leave_the_photograph():
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    found = decode_segmentation([square, [8, 8, 30, 8, 30, 30, 8, 30]], 10, 12)
    expected = np.zeros((10, 12), bool)
    expected[1:5, 2:7] = expected[8:, 8:] = True
    np.testing.assert_array_equal(found, expected)


def test_a_large_polygon_has_the_area_of_its_formula():
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = np.stack([150 + 100 * np.cos(angle), 120 + 80 * np.sin(angle)], axis=1)
    found = decode_segmentation([points.reshape(-1).tolist()], 240, 300)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    perimeter = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1).sum()
    # Pixels that the border cuts count as inside.
    assert area <= found.sum() <= area + perimeter


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "must be polygons or a run-length"),
        (None, "must be polygons or a run-length"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ({"size": [4, 5], "counts": [20]}, r"of size \[5, 4\]"),
        ({"size": [5, 4], "counts": [19]}, "sum to 5 x 4 = 20"),
        ({"size": [5, 4], "counts": [30, -10]}, "at least 0"),
        ({"size": [5, 4]}, "sum to 5 x 4 = 20"),
        ({"size": [5, 4], "counts": "é"}, "does not occur"),
        ({"size": [5, 4], "counts": "d0 "}, "' ' does not occur"),
        ({"size": [5, 4], "counts": "P"}, "ends within a number"),
    ],
)
def test_malformed_segmentations(segmentation, message):
    with pytest.raises(DatasetError, match=message):
        decode_segmentation(segmentation, 5, 4)


def test_objects_of_categories_without_crowds(tmp_path):
    content = {
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}],
        "images": [{"id": 5, "file_name": "5 a.jpg", "height": 4, "width": 6}],
        "annotations": [
            {
                "id": 1,
                "image_id": 5,
                "category_id": 3,
                "area": 9.5,
                "segmentation": [],
                "iscrowd": 0,
            },
            {"id": 2, "image_id": 5, "category_id": 3, "area": 4, "segmentation": {}, "iscrowd": 1},
            {"id": 3, "image_id": 5, "category_id": 7, "area": 4, "segmentation": []},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    (dog,) = read_objects(path, ["dog"])
    assert (dog.id, dog.file_name, dog.category, dog.area) == (1, "5 a.jpg", "dog", 9.5)
    with pytest.raises(DatasetError, match="Annotation 1: the segmentation must be"):
        dog.mask()
    with pytest.raises(DatasetError, match="has no categories cow; it has cat, dog"):
        read_objects(path, ["cow", "dog"])
    for broken in ("{", "[]", json.dumps({**content, "images": []}), json.dumps({"images": []})):
        path.write_text(broken)
        with pytest.raises(DatasetError, match="is no file of COCO instance annotations"):
            read_objects(path, ["dog"])
    with pytest.raises(DatasetError, match="cannot be read .No such file"):
        read_objects(tmp_path / "none.json", ["dog"])
