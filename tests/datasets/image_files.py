"""Small images and folders in the published layouts, with content made up here."""

import csv
import io

import numpy as np
from PIL import Image

from w2s_jax.datasets import open_benchmark


def random_image(seed, height=12, width=16):
    """A smooth colour image, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    start, step = rng.uniform(20, 120, 3), rng.uniform(0, 100, 3)
    ramp = np.linspace(0, 1, height)[:, None, None] * np.linspace(0.5, 1, width)[None, :, None]
    return (start + step * ramp).astype(np.uint8)


def encode(image, suffix):
    stream = io.BytesIO()
    format_ = "PNG" if suffix.lower() == ".png" else "JPEG"
    Image.fromarray(image).save(
        stream, format=format_, **({"quality": 95} if format_ == "JPEG" else {})
    )
    return stream.getvalue()


def write_image(path, seed, **size):
    """Writes an image in the format of the suffix; returns its encoded content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encode(random_image(seed, **size), path.suffix)
    path.write_bytes(content)
    return content


def write_table(path, rows, columns=None):
    """Writes rows (dicts) as a CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_waterbirds(folder, counts=((3, 1), (1, 2))):
    """The extracted folder with `counts` [class, place] training images, elsewhere one of each."""
    folder = folder / "waterbird_complete95_forest2water2"
    tables = (np.array(counts), np.ones((2, 2), int), np.ones((2, 2), int))
    rows = []
    for split, table in enumerate(tables):
        for y, place in np.ndindex(2, 2):
            for _ in range(table[y, place]):
                number = len(rows)
                suffix = (".jpg", ".JPG", ".jpeg", ".png")[number % 4]
                name = f"{number:03d}.Some bird, y={y}/Some Bird {number}{suffix}"
                write_image(folder / name, number)
                rows.append(
                    {
                        "img_id": number,
                        "img_filename": name,
                        "y": y,
                        "split": split,
                        "place": place,
                        "place_filename": f"/b/bamboo_forest/{number}.jpg",
                    }
                )
    order = np.random.default_rng(0).permutation(len(rows))
    rows = [rows[i] for i in order]
    write_table(folder / "metadata.csv", rows)
    return folder, rows


def assert_prepared_is_the_same(name, folder, prepared_dir, **options):
    """A benchmark read from its files and from what its TFDS builder makes of them."""
    options = {"check_counts": False, **options}
    source = open_benchmark(name, folder, **options)
    prepared = open_benchmark(name, folder, prepared_dir=prepared_dir, **options)
    assert prepared.benchmark == source.benchmark
    assert len(prepared) == len(source) > 0
    for row, other in zip(source, prepared, strict=True):
        np.testing.assert_array_equal(row.pop("image"), other.pop("image"))
        assert row == other
        content = source.read(row["index"])
        assert isinstance(content, np.ndarray) or content == prepared.read(row["index"])
