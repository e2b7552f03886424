"""Data sets in the forms in which they are about: EMNIST, QMNIST, .npz, CSV; sizes, paths, and wrong ones."""

import gzip
import importlib
import io
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from helpers import idx_bytes, mnist, small_dataset, write_folder, write_idx
from PIL import Image

from minicaps.datasets import Dataset, cache_folder, fit_picture, load, read_csv, read_idx_folder, read_npz
from minicaps.datasets.pixels import to_8_bit, turn
from minicaps.networks import find_pretrained

load_module = importlib.import_module("minicaps.datasets.load")  # datasets.load is the function in it

SHAPE = (6, 6)


def random_set(classes=3, first=0, train=40, test=12, shape=(*SHAPE, 1)):
    """Return a set of random pixels with labels from `first` on."""
    rng = np.random.default_rng(1)
    return Dataset(
        rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        first + np.arange(train) % classes,
        rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        first + np.arange(test) % classes,
        tuple(map(str, range(first + classes))),
        "random",
    )


def same(found, expected, names=None):
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    return found.class_names == tuple(expected.class_names if names is None else names)


def refused(data, error=ValueError, **options):
    """Return the message with which `load` refuses; it must be one line that begins with the path."""
    with pytest.raises(error) as caught:
        load(data, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(data).split("~")[0])
    return message


# -- IDX files of other names ------------------------------------------------------------------


def write_parts(folder, prefix, dataset, test="test", labels="idx1-ubyte", packed=False, form=np.uint8):
    """Write a set as IDX files named PREFIXtrain-images-idx3-ubyte and so on."""
    folder.mkdir(exist_ok=True)
    ending = ".gz" if packed else ""
    for part, name in (("train", "train"), ("test", test)):
        images, numbers = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        write_idx(folder / f"{prefix}{name}-images-idx3-ubyte{ending}", images[..., 0], packed)
        write_idx(folder / f"{prefix}{name}-labels-{labels}{ending}", numbers.astype(form), packed)
    return folder


def turned(dataset):
    swapped = {
        f"{part}_images": getattr(dataset, f"{part}_images").swapaxes(1, 2) for part in ("train", "test")
    }
    return replace(dataset, **swapped)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["balanced", "byclass", "bymerge", "digits", "mnist"])
def test_emnist_is_read_by_its_names_and_turned(tmp_path, name, packed):
    dataset = random_set()
    write_parts(tmp_path, f"emnist-{name}-", turned(dataset), packed=packed)
    assert same(load(tmp_path), dataset)
    assert load(tmp_path).source == str(tmp_path / f"emnist-{name}")


def test_images_that_are_no_squares_are_turned_too(tmp_path):
    dataset = random_set(shape=(4, 7, 1))
    write_parts(tmp_path, "emnist-digits-", turned(dataset))
    assert same(load(tmp_path), dataset)


def test_turning_squares_takes_no_second_copy():
    images = np.random.default_rng(0).integers(0, 256, (20_000, 28, 28), dtype=np.uint8)
    expected = images[::1999].swapaxes(1, 2).copy()
    tracemalloc.start()
    try:
        found = turn(images)
        assert tracemalloc.get_traced_memory()[1] < images.nbytes / 4
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found[::1999], expected)


def test_the_letters_of_emnist_are_numbered_from_0_and_called_a_to_z(tmp_path):
    dataset = random_set(classes=26, first=1, train=260, test=26)
    write_parts(tmp_path, "emnist-letters-", turned(dataset))
    found = load(tmp_path)
    assert "".join(found.class_names) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and found.classes == 26
    np.testing.assert_array_equal(found.train_labels, dataset.train_labels - 1)
    np.testing.assert_array_equal(found.test_labels, dataset.test_labels - 1)
    assert found.remarks() == []


def test_letters_with_a_label_0_keep_their_numbers(tmp_path):
    dataset = random_set(classes=26, train=130, test=26)
    write_parts(tmp_path, "emnist-letters-", turned(dataset))
    assert same(load(tmp_path), dataset)


def test_the_mapping_names_the_classes_of_emnist(tmp_path):
    dataset = random_set(classes=4)
    write_parts(tmp_path, "emnist-balanced-", turned(dataset))
    (tmp_path / "emnist-balanced-mapping.txt").write_text("0 48\n1 65\n2 97 98\n3 116\n\n")
    assert load(tmp_path).class_names == ("0", "A", "a", "t")


@pytest.mark.parametrize(
    "text", ["0 48\nx y\n", "0\n", "0 7\n", "99999999999 65", "0 99999999999999999999", "-1 65", "é"]
)
def test_a_mapping_of_another_form_is_refused(tmp_path, text):
    write_parts(tmp_path, "emnist-balanced-", random_set())
    path = tmp_path / "emnist-balanced-mapping.txt"
    path.write_text(text, encoding="utf-8")
    assert f"{path}: not a mapping of EMNIST" in refused(tmp_path)


def test_of_several_sets_in_a_folder_one_is_named(tmp_path):
    folder = tmp_path / "gzip"
    write_parts(folder, "emnist-digits-", turned(random_set(classes=10, train=50)), packed=True)
    write_parts(
        folder, "emnist-letters-", turned(random_set(classes=26, first=1, train=130, test=26)), packed=True
    )
    message = refused(folder)
    assert "several data sets (emnist-digits, emnist-letters); name one, as in" in message
    assert str(folder / "emnist-digits") in message
    assert load(folder / "emnist-digits").classes == 10 and load(folder / "emnist-letters").classes == 26
    assert load(f"{folder}/emnist-letters", 12).image_shape == (12, 12, 1)
    assert "emnist-byclass: no such folder" in refused(folder / "emnist-byclass", FileNotFoundError)
    write_folder(folder, mnist_like := random_set())
    assert same(load(folder), mnist_like)  # MNIST's own names win


def test_qmnist_has_the_digit_in_the_first_of_eight_columns(tmp_path):
    dataset = random_set(classes=10, train=50)
    write_parts(tmp_path, "qmnist-", dataset)
    for part in ("train", "test"):
        labels = getattr(dataset, f"{part}_labels")
        columns = np.stack([labels, *[np.full(len(labels), 4_000 + k) for k in range(7)]], axis=1)
        (tmp_path / f"qmnist-{part}-labels-idx1-ubyte").unlink()
        write_idx(tmp_path / f"qmnist-{part}-labels-idx2-int", columns.astype(np.int32))
    assert same(load(tmp_path), dataset)
    (tmp_path / "qmnist-test-labels-idx2-int").unlink()
    assert "holds no qmnist-test-labels-idx2-int (plain or .gz)" in refused(tmp_path, FileNotFoundError)


@pytest.mark.parametrize("missing", ["train-images", "test-labels"])
def test_a_part_of_emnist_that_is_missing_is_named(tmp_path, missing):
    write_parts(tmp_path, "emnist-mnist-", random_set())
    next(tmp_path.glob(f"emnist-mnist-{missing}*")).unlink()
    assert f"holds no emnist-mnist-{missing}-idx" in refused(tmp_path, FileNotFoundError)


@pytest.mark.parametrize("form", [np.uint8, np.int8, np.int16, np.int32])
def test_labels_of_any_integer_type_are_read(tmp_path, form):
    dataset = random_set()
    assert same(load(write_parts(tmp_path, "", dataset, test="t10k", form=form)), dataset)


@pytest.mark.parametrize(
    "label, form, words",
    [(-1, np.int8, "run from -1 to 2, expected class numbers"), (2**31 - 1, np.int32, "below 65,536")],
)
def test_a_label_that_is_no_class_number_is_refused_before_it_makes_classes(tmp_path, label, form, words):
    dataset = random_set()
    dataset.train_labels[7] = label
    write_parts(tmp_path, "", dataset, test="t10k", form=form)
    assert words in refused(tmp_path)


def test_channels_before_rows_are_refused_with_the_cure(tmp_path):
    write_folder(tmp_path, random_set())
    for name, count in (("train-images-idx3-ubyte", 40), ("t10k-images-idx3-ubyte", 12)):
        write_idx(tmp_path / name, np.ones((count, 3, 32, 32), np.uint8))
    assert "expected channels as the last axis; move them there" in refused(tmp_path)


# -- .npz --------------------------------------------------------------------------------------


def arrays_of(dataset):
    return {
        "x_train": dataset.train_images[..., 0],
        "y_train": dataset.train_labels.astype(np.uint8),
        "x_test": dataset.test_images[..., 0],
        "y_test": dataset.test_labels.astype(np.uint8),
    }


@pytest.fixture
def npz(tmp_path):
    """Return a function that writes arrays as an .npz file, and returns its path."""

    def write(save=np.savez, **arrays):
        save(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_kerass_file_is_read_by_its_path_and_by_its_folder(npz, save):
    dataset = random_set()
    path = npz(save, **arrays_of(dataset))
    assert same(load(path), dataset) and same(load(path.parent), dataset)
    assert load(path).source == str(path) and load(path).notes == ()


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
    ],
)
def test_arrays_may_have_other_names(npz, names):
    dataset = random_set()
    assert same(load(npz(**dict(zip(names, arrays_of(dataset).values(), strict=True)))), dataset)


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("data", "target")])
def test_without_a_test_part_every_fifth_of_a_class_is_for_the_test(npz, names):
    dataset = random_set()
    path = npz(**dict(zip(names, (dataset.train_images, dataset.train_labels), strict=True)))
    found = load(path)
    for k in range(3):
        of_class = np.flatnonzero(dataset.train_labels == k)
        np.testing.assert_array_equal(
            found.test_images[found.test_labels == k], dataset.train_images[of_class[4::5]]
        )
    assert len(found.train_images) + len(found.test_images) == 40
    assert (
        found.remarks()[0]
        == f"{path} has no labelled test images; every fifth of a class is taken for the test"
    )


def test_what_else_the_file_holds_is_told(npz):
    found = load(npz(**arrays_of(random_set()), val_images=np.zeros(3)))
    assert found.notes[0].endswith("set.npz: not read: val_images")


@pytest.mark.parametrize("form", [np.int64, np.uint16, ">i4", np.float32, np.float64])
def test_pixels_may_be_whole_numbers_of_any_type(npz, form):
    dataset, arrays = random_set(), arrays_of(random_set())
    assert same(load(npz(**arrays | {k: arrays[k].astype(form) for k in ("x_train", "x_test")})), dataset)


def test_pixels_from_0_to_1_are_times_255(npz):
    dataset, arrays = random_set(), arrays_of(random_set())
    floats = {k: (arrays[k] / 255).astype(np.float32) for k in ("x_train", "x_test")}
    assert same(load(npz(**arrays | floats)), dataset)
    np.testing.assert_array_equal(to_8_bit("x", np.array([[False, True]])), np.array([[0, 255]], np.uint8))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 6, 6), -1),
        np.full((40, 6, 6), 256),
        np.full((40, 6, 6), 1.5),
        np.full((40, 6, 6), np.nan),
        np.full((40, 6, 6), 1j),
        np.full((40, 6, 6), "a"),
    ],
)
def test_pixels_of_another_range_are_refused(npz, pixels):
    assert "set.npz (x_train): " in refused(npz(**arrays_of(random_set()) | {"x_train": pixels}))


def test_rows_of_pixels_are_squares_and_labels_may_be_a_column_or_text(npz):
    dataset, arrays = random_set(), arrays_of(random_set())
    flat = {k: arrays[k].reshape(-1, 36) for k in ("x_train", "x_test")}
    column = {k: arrays[k][:, None] for k in ("y_train", "y_test")}
    assert same(load(npz(**arrays | flat | column)), dataset)
    words = {k: np.array(["ant", "bee", "cow"])[arrays[k]] for k in ("y_train", "y_test")}
    assert same(load(npz(**arrays | words)), dataset, ("ant", "bee", "cow"))
    assert same(
        load(npz(**arrays | {k: v.astype("S") for k, v in words.items()})), dataset, ("ant", "bee", "cow")
    )


def test_colour_and_column_order_are_kept(npz):
    dataset = random_set(shape=(5, 4, 3))
    arrays = arrays_of(dataset) | {
        "x_train": np.asfortranarray(dataset.train_images),
        "x_test": dataset.test_images,
    }
    assert same(load(npz(**arrays)), dataset)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"x_train": None}, "holds y_train, but no training images"),
        ({"y_test": None}, "holds x_test, but no test labels"),
        ({"x_train": None, "y_train": None}, "expected the arrays x_train, y_train, x_test, y_test"),
        ({"y_train": np.zeros(39, int)}, "39 labels for 40 images"),
        ({"y_train": np.zeros((40, 10))}, r"set.npz (y_train): holds float64 of shape (40, 10)"),
        ({"y_train": np.array([{}] * 40)}, "y_train.npy holds Python objects"),
        ({"x_train": np.zeros((40, 35))}, "35 pixels in a row, expected a square number"),
        ({"x_train": np.zeros((40, 5, 6))}, "expected one size"),
        ({"y_test": np.full(12, 9)}, "no class that only the test has"),
        ({"x_train": np.array(7)}, "holds int64 of shape ()"),
    ],
)  # fmt: skip
def test_arrays_that_make_no_data_set_are_refused(npz, change, words):
    arrays = {k: v for k, v in (arrays_of(random_set()) | change).items() if v is not None}
    assert words in refused(npz(**arrays))


def npy(shape, dtype="|u1", content=b""):
    """Return an .npy file whose header says what it likes."""
    head = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content


@pytest.mark.parametrize("shape", [(60_000, 2**20, 2**20), (2**62,), (10**30, 3, 3), (-1, 28, 28)])
def test_an_array_that_promises_too_much_is_refused_without_allocating(tmp_path, shape):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("x_train", "y_train"):
            file.writestr(f"{name}.npy", npy(shape, content=bytes(1000)))
    tracemalloc.start()
    try:
        assert "x_train.npy is damaged" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_numpy_did_not_pack_is_refused_before_it_is_unpacked(tmp_path, packing):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", packing) as file:
        for name in ("x_train", "y_train"):
            file.writestr(f"{name}.npy", npy((1 << 24,), content=bytes(1 << 24)))
    tracemalloc.start()
    try:
        assert "x_train.npy is packed in a way that NumPy does not use" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_npz_truncated_or_damaged_anywhere_is_refused(npz):
    path = npz(**arrays_of(random_set()))
    content, expected = path.read_bytes(), load(path)
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        refused(path)
    for position in [*range(0, len(content) - 400, 31), *range(len(content) - 400, len(content))]:
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert same(load(path), expected)
        except ValueError as error:
            assert str(error).startswith(f"{path}") and "\n" not in str(error)


# -- CSV ---------------------------------------------------------------------------------------


def write_csv(path, images, labels, head=None, label_at=0, delimiter=","):
    rows = [] if head is None else [head]
    for image, label in zip(images.reshape(len(images), -1).tolist(), labels, strict=True):
        cells = [*map(str, image)]
        cells.insert(label_at, str(label))
        rows.append(delimiter.join(cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def write_tables(folder, dataset, head=None, stem="mnist_", **options):
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        write_csv(folder / f"{stem}{part}.csv", images, labels, head, **options)
    return folder / f"{stem}train.csv"


HEAD = ",".join(f"pixel{k}" for k in range(36))


@pytest.mark.parametrize(
    "head", [None, f"label,{HEAD}", "label," + ",".join(map(str, range(36))), f'"label",{HEAD}']
)
def test_tables_are_read_by_path_and_by_folder_with_a_head_or_without(tmp_path, head):
    dataset = random_set()
    path = write_tables(tmp_path, dataset, head)
    assert same(load(path), dataset) and same(load(tmp_path), dataset) and same(read_csv(path), dataset)
    assert load(path).notes == ()


@pytest.mark.parametrize(
    "options", [{"delimiter": ";"}, {"delimiter": "\t"}, {"label_at": 36}, {"label_at": 5}]
)
def test_columns_may_be_apart_and_in_order_as_they_like(tmp_path, options):
    dataset, names = random_set(), HEAD.split(",")
    names.insert(options.get("label_at", 0), "Class")
    head = options.get("delimiter", ",").join(names)
    assert same(load(write_tables(tmp_path, dataset, head, **options)), dataset)


def test_quotes_spaces_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    dataset = random_set()
    path = write_tables(tmp_path, dataset)
    lines = [", ".join(f'"{cell}"' if k % 3 == 0 else cell for k, cell in enumerate(line.split(",")))
             for line in path.read_text().splitlines()]  # fmt: skip
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", ""]).replace(', "', ',"').encode())
    assert same(load(path), dataset)


def test_kaggles_test_table_without_labels_is_no_test_part(tmp_path):
    dataset = random_set()
    write_csv(tmp_path / "train.csv", dataset.train_images, dataset.train_labels, f"label,{HEAD}")
    (tmp_path / "test.csv").write_text(HEAD + "\n" + ",".join(["0"] * 36) + "\n")
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    found = load(tmp_path)
    assert len(found.train_images) + len(found.test_images) == 40 and len(found.test_images) == 6
    assert "every fifth of a class" in found.remarks()[0]


def test_labels_may_be_any_text_and_are_sorted_naturally(tmp_path):
    dataset = random_set()
    names = np.array(["class 2", "class 10", "é, ü"])
    words = replace(dataset, train_labels=names[dataset.train_labels], test_labels=names[dataset.test_labels])
    for part in ("train_labels", "test_labels"):
        object.__setattr__(words, part, [f'"{name}"' for name in getattr(words, part)])
    assert same(load(write_tables(tmp_path, words)), dataset, names)
    floats = replace(
        dataset,
        train_labels=[f"{k}.0" for k in dataset.train_labels],
        test_labels=[f"{k}.0" for k in dataset.test_labels],
    )
    assert same(load(write_tables(tmp_path / "floats", floats)), dataset)


def test_gaps_in_the_labels_of_a_table_stay_and_are_told(tmp_path):
    dataset = random_set()
    even = replace(dataset, train_labels=2 * dataset.train_labels, test_labels=2 * dataset.test_labels)
    found = load(write_tables(tmp_path, even))
    assert found.classes == 5 and "classes 1 and 3 have no images" in found.remarks()


def test_emnists_tables_are_turned_and_colours_read(tmp_path):
    dataset = random_set()
    assert same(load(write_tables(tmp_path, turned(dataset), stem="emnist-digits-")), dataset)
    colours = random_set(shape=(4, 4, 3))
    assert same(load(write_tables(tmp_path / "rgb", colours)), colours)


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda lines: [*lines, "1,2,3"], "line 41 has 3 columns, expected 37"),
        (lambda lines: [*lines, lines[0] + ",7"], "line 41 has 38 columns"),
        (lambda lines: [*lines, lines[0].rpartition(",")[0] + ",x"], "could not convert string 'x'"),
        (lambda lines: [*lines, lines[0].rpartition(",")[0] + ",256"], "pixels run from 0 to 256"),
        (lambda lines: [*lines, lines[0].rpartition(",")[0] + ",-1"], "pixels run from -1 to"),
        (lambda lines: [*lines, lines[0].rpartition(",")[0] + ",0.5"], "expected whole numbers from 0"),
        (lambda lines: [*lines, lines[0].rpartition(",")[0] + ",nan"], "pixels run from nan"),
        (lambda lines: [*lines, "," + lines[0].partition(",")[2]], "a label of 0 characters"),
        (lambda lines: [*lines, "a" * 200 + "," + lines[0].partition(",")[2]], "a label of 200 characters"),
        (lambda lines: [line + ",7" for line in lines], "37 pixels in a row, expected a square number"),
        (lambda lines: [], "an empty file"),
        (lambda lines: lines[:1], "expected one size|one training image|no class has 5"),
        (lambda lines: ["a,b,c,d", *lines], "its head names no column of labels"),
        (lambda lines: [line for line in lines if line[0] == "0"], "expected at least two classes"),
        (lambda lines: ["9999999" + line for line in lines], "expected class numbers from 0, below 65,536"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_are_refused(tmp_path, edit, words):
    dataset = random_set()
    path = write_csv(tmp_path / "digits.csv", dataset.train_images, dataset.train_labels)
    path.write_text("\n".join(edit(path.read_text().splitlines())))
    message = refused(path)
    assert any(word in message for word in words.split("|"))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00\x01,2\n", b"1,2\n\xff\xff,3\n", b"\0\0\0,\0\n", b'"1,2\n' * 3]
)
def test_what_is_no_text_is_refused(tmp_path, content):
    (tmp_path / "digits.csv").write_bytes(content)
    refused(tmp_path / "digits.csv")


def save_pictures(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{k}.png")
    return [f"{k}.png" for k in range(len(images))]


def write_list(path, names, labels, head="filename,label"):
    path.write_text(
        "\n".join([head, *(f"{name},{label}" for name, label in zip(names, labels, strict=True))])
    )


@pytest.mark.parametrize("inside", ["Images/train", "images/train", "train", "images", ""])
def test_a_table_of_file_names_is_read_with_its_pictures(tmp_path, inside):
    dataset = random_set()
    write_list(
        tmp_path / "train.csv", save_pictures(tmp_path / inside, dataset.train_images), dataset.train_labels
    )
    (tmp_path / "Images" / "test").mkdir(parents=True, exist_ok=True)
    (tmp_path / "Test_fCbTej3.csv").write_text("filename\n0.png\n")  # as in the walk-through
    found = load(tmp_path)
    assert sorted(map(bytes, [*found.train_images, *found.test_images])) == sorted(
        map(bytes, dataset.train_images)
    )
    assert len(found.test_images) == 6 and found.class_names == ("0", "1", "2")


def test_a_labelled_table_of_test_pictures_is_the_test_part(tmp_path):
    dataset, words = random_set(), np.array(["cat", "dog", "eel"])
    for part in ("train", "test"):
        names = save_pictures(tmp_path / part, getattr(dataset, f"{part}_images"))
        write_list(tmp_path / f"{part}.csv", names, words[getattr(dataset, f"{part}_labels")], "image,class")
    assert same(load(tmp_path), dataset, words)
    assert load(tmp_path, (12, 6)).image_shape == (12, 6, 1)
    (tmp_path / "train" / "7.png").unlink()
    assert "7.png: no such file, though" in refused(tmp_path, FileNotFoundError)
    (tmp_path / "train" / "0.png").unlink()
    assert "names 0.png, which is neither beside it nor in train" in refused(tmp_path, FileNotFoundError)


def test_a_table_beside_folders_of_classes_changes_nothing(tmp_path):
    dataset = random_set()
    for k, name in enumerate(("cat", "dog")):
        save_pictures(tmp_path / name, dataset.train_images[k * 10 : k * 10 + 10])
    (tmp_path / "metadata.csv").write_text("a,b\n1,2\n")
    assert load(tmp_path).class_names == ("cat", "dog")


# -- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [12, (12, 9), (3, 6), np.int64(7)])
def test_idx_files_are_scaled_as_pictures_are(tmp_path, size):
    write_folder(tmp_path, dataset := random_set())
    found = load(tmp_path, size)
    shape = (*(size if isinstance(size, tuple) else (int(size), int(size))), 1)
    assert found.image_shape == shape
    for new, old in zip(found.test_images, dataset.test_images, strict=True):
        np.testing.assert_array_equal(new, fit_picture(old, shape))


def test_other_forms_are_scaled_too(npz):
    path = npz(**arrays_of(random_set()))
    assert load(path, 28).image_shape == load(path, (28, 28)).image_shape == (28, 28, 1)
    assert load(write_tables(path.parent / "csv", random_set()), 28).image_shape == (28, 28, 1)


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_every_channel_is_scaled_as_a_grey_image(npz, channels):
    dataset = random_set(shape=(6, 6, channels))
    found = load(npz(x=dataset.train_images, y=dataset.train_labels), 11)
    for k in range(channels):
        one = load(npz(x=dataset.train_images[..., k : k + 1], y=dataset.train_labels), 11)
        np.testing.assert_array_equal(found.train_images[..., k : k + 1], one.train_images)


def test_a_set_of_its_own_size_is_left_as_it_is(tmp_path):
    write_folder(tmp_path, dataset := random_set())
    assert same(load(tmp_path, 6), dataset)


def test_scaling_takes_little_more_memory_than_the_images(tmp_path):
    write_folder(tmp_path, dataset := random_set(train=4_000))
    load(tmp_path, 28)  # what is imported and kept on the way
    tracemalloc.start()
    try:
        found = load(tmp_path, 28)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < found.train_images.nbytes + found.test_images.nbytes + 4 * dataset.train_images.nbytes


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "28", (28,), (28, 0), (1, 2, 3)])
def test_a_size_that_cannot_be_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="load: size is "):
        load(write_folder(tmp_path, random_set()), size)


# -- paths, and one form given for another -----------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("MINICAPS_DATA", raising=False)
    return tmp_path


def test_the_home_folder_is_expanded_in_every_path(home, monkeypatch):
    write_folder(home / "digits", dataset := random_set())
    assert same(load("~/digits"), dataset)
    monkeypatch.setenv("MINICAPS_DATA", "~/digits")
    assert same(load(), dataset)
    assert refused("~/absent", FileNotFoundError).endswith("absent: no such folder or file")
    assert "~nobody-of-this-name" in refused("~nobody-of-this-name/x", FileNotFoundError)
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert cache_folder() == home / "cache" / "minicaps"


def test_the_trained_weights_are_found_in_the_home_folder_too(home, monkeypatch):
    (home / "digits").mkdir()
    (home / "digits" / find_pretrained().name).touch()
    monkeypatch.setenv("MINICAPS_DATA", "~/digits")
    assert find_pretrained().parent == home / "digits"


def without_home(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(load_module.Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MINICAPS_DATA", raising=False)


def test_without_a_home_folder_mnist_is_found_where_it_is(tmp_path, monkeypatch):
    without_home(monkeypatch)
    monkeypatch.setattr(load_module, "REPOSITORY_DATA", write_folder(tmp_path, dataset := random_set()))
    assert same(load(), dataset)


def test_without_a_home_folder_a_download_is_refused_with_the_cure(tmp_path, monkeypatch):
    without_home(monkeypatch)
    monkeypatch.setattr(load_module, "REPOSITORY_DATA", tmp_path)
    with pytest.raises(RuntimeError, match=r"no folder to keep MNIST in .*XDG_CACHE_HOME.*--data"):
        load()


def test_a_cache_that_cannot_be_made_is_told_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.delenv("MINICAPS_DATA", raising=False)
    monkeypatch.setattr(load_module, "REPOSITORY_DATA", tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match=r"cannot be kept in .*file.minicaps .*XDG_CACHE_HOME"):
        load()


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="load: data is '', expected the path of a data set"):
        load("")


def test_a_set_in_the_folder_below_is_named(tmp_path):
    raw = write_folder(tmp_path / "data" / "MNIST" / "raw", random_set())
    for folder in (raw.parent, raw.parent.parent):
        assert f"holds no data set, but {raw} does; name that" in refused(folder, FileNotFoundError)


def test_classes_npz_and_tables_in_the_folder_below_are_named(tmp_path):
    dataset = random_set()
    for name in ("cat", "dog"):
        save_pictures(tmp_path / "a" / "animals" / name, dataset.train_images[:10])
    assert "animals does; name that" in refused(tmp_path / "a", FileNotFoundError)
    (tmp_path / "b" / "inner").mkdir(parents=True)
    np.savez(tmp_path / "b" / "inner" / "mnist.npz", **arrays_of(dataset))
    assert "mnist.npz does; name that" in refused(tmp_path / "b", FileNotFoundError)
    write_tables(tmp_path / "c" / "inner", dataset)
    assert "mnist_train.csv does; name that" in refused(tmp_path / "c", FileNotFoundError)


def pack_tar(path):
    with tarfile.open(path, "w:gz") as file:
        file.addfile(tarfile.TarInfo("a"), io.BytesIO())


def write_nothing(path):
    path.write_bytes(b"")


def pack_idx(path):
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(3, np.uint8))))


def pack_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cat/1.png", b"")


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("train-images-idx3-ubyte", write_nothing, "an IDX file, one of four; name the folder"),
        ("emnist-digits-test-labels-idx1-ubyte.gz", pack_idx, "an IDX file, one of four; name the folder"),
        ("train.zip", pack_zip, "a packed file; unpack it, and name what"),
        ("train.tar.gz", pack_tar, "a packed file; unpack it, and name what"),
        ("mnist.pkl.gz", write_nothing, "a packed file; unpack it"),
        ("a.PNG", write_nothing, "a single picture; a data set is a folder"),
        ("data.mat", write_nothing, "a file that is no data set, which is four IDX files"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_data_set_is_told_what_to_name(tmp_path, name, write, words):
    write(tmp_path / name)
    assert words in refused(tmp_path / name, FileNotFoundError)


def test_a_zip_called_npz_is_told_what_it_lacks(tmp_path):
    pack_zip(tmp_path / "a.npz")
    assert "holds cat/1.png, expected the arrays x_train" in refused(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"no archive")
    assert "a.npz: File is not a zip file" in refused(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "name, words", [("data.zip", "unpack data.zip first"), ("a.jpg", "a.jpg lies beside the subfolders")]
)
def test_a_folder_without_a_data_set_is_told_what_is_wrong_with_it(tmp_path, name, words):
    (tmp_path / name).touch()
    message = refused(tmp_path, FileNotFoundError)
    assert (
        words in message
        and "four IDX files" in message
        and ".npz" in message
        and "subfolder of pictures" in message
    )


def test_of_several_tables_one_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays_of(random_set()))
    np.savez(tmp_path / "b.npz", **arrays_of(random_set()))
    assert "several data sets (a.npz, b.npz); name one" in refused(tmp_path)


def test_only_readers_of_their_form_are_asked(tmp_path):
    for read in (read_npz, read_csv, read_idx_folder):
        with pytest.raises(FileNotFoundError, match="absent"):
            read(tmp_path / "absent")


def test_mnist_written_in_every_form_is_the_same_mnist(tmp_path):
    dataset = small_dataset(60, 20)
    np.savez_compressed(tmp_path / "mnist.npz", **arrays_of(dataset))
    forms = [load(tmp_path / "mnist.npz"), load(write_tables(tmp_path / "csv", dataset)),
             load(write_parts(tmp_path / "emnist", "emnist-mnist-", turned(dataset))),
             load(write_parts(tmp_path / "qmnist", "qmnist-", dataset))]  # fmt: skip
    assert all(same(form, dataset) for form in forms) and mnist().classes == 10
