"""Images that a trained network is tested on: all that is there, with the labels of the network."""

import numpy as np
import pytest
from helpers import small_dataset, write_folder
from PIL import Image

from minicaps.datasets import read_test_images

SHAPE, NAMES = (6, 6, 1), ("cat", "dog", "test")


def save(path, brightness, mode="L", size=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, brightness).convert(mode).save(path)
    return path


def fill(folder, **counts):
    """Make `counts` pictures in each class, each of its own brightness, and return the folder."""
    brightness = iter(range(10, 250))
    for name, count in counts.items():
        for k in range(count):
            save(folder / name / f"{k + 1}.png", next(brightness))
    return folder


def read(*paths, shape=SHAPE, names=NAMES):
    test = read_test_images([str(path) for path in paths], shape, names)
    assert test.images.dtype == np.uint8 and test.images.shape == (len(test.labels), *shape)
    assert len(test.names) == len(test.labels) and test.labels.dtype == np.int64
    return test


def brightness(test):
    return test.images[:, 3, 3, 0].tolist()


def refused(*paths, error=ValueError, **options):
    with pytest.raises(error) as caught:
        read(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- which pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [{"cat": 12, "dog": 3}, {"dog": 1}, {"cat": 2}])
def test_all_pictures_are_read_however_few(tmp_path, counts):
    test = read(fill(tmp_path / "new", **counts))
    assert brightness(test) == list(range(10, 10 + sum(counts.values())))
    assert test.labels.tolist() == [NAMES.index(name) for name, n in counts.items() for _ in range(n)]
    assert test.names[0] == str(tmp_path / "new" / next(iter(counts)) / "1.png")
    assert test.source == str(tmp_path / "new")


def test_labels_are_those_of_the_network_not_of_the_folder(tmp_path):
    test = read(fill(tmp_path, dog=2), names=("ant", "bee", "dog", "elk"))
    assert test.labels.tolist() == [2, 2]


@pytest.mark.parametrize("with_train", [True, False])
def test_of_a_folder_for_training_only_test_is_read_and_it_is_said(tmp_path, with_train):
    fill(tmp_path / "test", cat=2, dog=1)
    names = ("cat", "dog")
    if with_train:
        fill(tmp_path / "train", cat=5, dog=5, emu=5)
        names = NAMES
    test = read(tmp_path, names=names)
    assert len(test.labels) == 3 and test.source == f"{tmp_path} (test/ only)"


def test_a_class_may_be_called_test(tmp_path):
    assert read(fill(tmp_path, cat=1, test=2)).labels.tolist() == [0, 2, 2]


def test_a_folder_of_pictures_and_a_single_one_are_of_the_class_they_are_called_after(tmp_path, monkeypatch):
    fill(tmp_path, cat=2, dog=3)
    assert read(tmp_path / "dog").labels.tolist() == [1, 1, 1]
    assert read(tmp_path / "dog" / "2.png").labels.tolist() == [1]
    monkeypatch.chdir(tmp_path / "dog")
    assert read(".", "2.png", "../cat").labels.tolist() == [1, 1, 1, 1, 0, 0]


def test_patterns_are_expanded_in_natural_order(tmp_path):
    fill(tmp_path, cat=11)
    test = read(tmp_path / "*" / "*.png")
    assert brightness(test) == list(range(10, 21)) and test.source == str(tmp_path / "*" / "*.png")


def test_an_empty_class_and_what_systems_leave_are_no_obstacle(tmp_path):
    fill(tmp_path, cat=1)
    (tmp_path / "dog").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "cat" / "Thumbs.db").touch()
    (tmp_path / "labels.txt").touch()
    assert read(tmp_path).labels.tolist() == [0]


def test_what_is_wrong_is_named(tmp_path):
    fill(tmp_path / "new", cat=1, emu=1)
    assert f"{tmp_path / 'new' / 'emu'}: the network has no class emu, only cat, dog, test; leave" in refused(
        tmp_path / "new"
    )
    assert "the network has no class new" in refused(save(tmp_path / "new" / "a.png", 1))
    many = tuple(f"class{k}" for k in range(30))
    assert "only class0, class1, class2" in refused(tmp_path / "new", names=many)
    assert "class9 and 20 more; leave" in refused(tmp_path / "new", names=many)
    (tmp_path / "new" / "cat" / "deeper").mkdir()
    assert "cat/deeper: a folder within the class cat" in refused(tmp_path / "new")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert f"{tmp_path / 'empty'}: holds no images to test on" in refused(tmp_path / "empty")
    assert "absent: no such file" in refused(tmp_path / "absent", error=FileNotFoundError)
    assert "nothing fits the pattern" in refused(tmp_path / "x*", error=FileNotFoundError)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("text")
    assert "dog/notes.txt: not an image" in refused(tmp_path / "dog")


# -- as the network takes them -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_in_the_size_and_the_channels_of_the_network(tmp_path, mode, channels):
    save(tmp_path / "cat" / "a.png", 255, mode, (20, 10))
    image = read(tmp_path, shape=(8, 6, channels)).images[0]
    assert (image[3:5] == 255).all() and image[0].max() == 0  # fitted, and centred on black


def test_a_network_of_other_channels_takes_no_picture(tmp_path):
    assert "the network takes 2 channels" in refused(fill(tmp_path, cat=1), shape=(6, 6, 2))


def test_another_way_to_fit_may_be_given(tmp_path):
    fill(tmp_path, cat=3)
    test = read_test_images(tmp_path, SHAPE, NAMES, lambda pixels, shape: np.full(shape, pixels[0, 0] + 100))
    assert brightness(test) == [110, 111, 112]


# -- other data sets ---------------------------------------------------------------------------

DIGITS = tuple("0123456789")


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 20, 1), (28, 28, 3), (14, 28, 3)])
def test_the_test_part_of_idx_files_is_read_in_the_form_of_the_network(tmp_path, shape):
    small = small_dataset(20, 10)
    test = read(write_folder(tmp_path, small), shape=shape, names=DIGITS)
    assert test.labels.tolist() == small.test_labels.tolist()
    assert test.names == [f"{tmp_path}#{k}" for k in range(10)]
    if shape[:2] == (28, 28):
        assert (test.images == small.test_images).all()


def test_idx_labels_are_matched_by_name(tmp_path):
    small = small_dataset(20, 10)
    folder = write_folder(tmp_path / "idx", small)
    test = read(folder, shape=(28, 28, 1), names=DIGITS[::-1])
    assert test.labels.tolist() == (9 - small.test_labels).tolist()
    message = refused(folder, shape=(28, 28, 1), names=DIGITS[:7])
    assert f"{folder}: the network has no class 7, only 0, 1, 2" in message


def test_of_a_table_without_a_test_part_all_is_read(tmp_path):
    lines = [f"{name},{','.join(str(10 * k + n) for n in range(16))}\n"
             for k, name in enumerate(["cat", "dog"] * 6)]  # fmt: skip
    (tmp_path / "new.csv").write_text("".join(lines))
    test = read(tmp_path / "new.csv", shape=(4, 4, 1))
    assert sorted(test.images[:, 0, 0, 0].tolist()) == list(range(0, 120, 10))
    assert all(label == image[0, 0, 0] // 10 % 2 for image, label in zip(*test[:2], strict=True))
    assert sorted(read(tmp_path, shape=(4, 4, 1)).labels.tolist()) == [0] * 6 + [1] * 6


def test_data_sets_and_pictures_may_be_mixed(tmp_path):
    fill(tmp_path / "pictures", **{"3": 2})
    idx = write_folder(tmp_path / "idx", small_dataset(20, 10))
    test = read(tmp_path / "pictures", idx, shape=(28, 28, 1), names=DIGITS)
    assert test.labels.tolist()[:2] == [3, 3] and len(test.labels) == 12
    assert test.source == f"{tmp_path / 'pictures'}, {idx}"
