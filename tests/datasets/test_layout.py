import os

import pytest

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.layout import list_folders, list_images, path_inside


@pytest.mark.parametrize("name", ["a.jpg", "a b/c.JPEG", "10:30.png", "a/./b.png", "..a"])
def test_names_inside(tmp_path, name):
    assert path_inside(tmp_path, name) == os.path.join(tmp_path, name)


def test_links_inside_the_folder_are_followed(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for folder in (tmp_path / "data", tmp_path / "link"):
        assert path_inside(folder, "b/c.png") == os.path.join(folder, "b/c.png")
    # A sibling whose name only starts with the folder's.
    (tmp_path / "data2").mkdir()
    (tmp_path / "data" / "d").symlink_to(tmp_path / "data2")
    with pytest.raises(DatasetError, match="a link leads out"):
        path_inside(tmp_path / "data", "d/c.png")


def test_listings(tmp_path):
    for name in ("b.JPG", "a c.jpeg", "x.txt", "._a.jpg", "Thumbs.db", "d.webp"):
        (tmp_path / name).write_bytes(b"")
    for name in ("02_b c", "01_a", ".hidden"):
        (tmp_path / name).mkdir()
    assert list_images(tmp_path) == ["a c.jpeg", "b.JPG", "d.webp"]
    assert list_folders(tmp_path) == ["01_a", "02_b c"]
    for list_ in (list_images, list_folders):
        with pytest.raises(DatasetError, match="There is no folder"):
            list_(tmp_path / "none")
