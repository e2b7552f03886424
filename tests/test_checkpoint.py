"""Files of weights: what is written is what is read, and a bad file is one clear ValueError."""

import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from minicaps import checkpoint
from minicaps.models import build

ARRAYS = {"conv.W": np.arange(12, dtype=np.float32).reshape(3, 4), "optimizer/steps": np.array(7)}
NO_FLAKES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    checkpoint.write(tmp_path / "file.npz", ARRAYS, {"epochs": [1, 2], "rng": {"state": 1 << 100}})
    return tmp_path / "file.npz"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "file.npz"
    checkpoint.write(path, ARRAYS, {"epochs": 3})
    return path.read_bytes()


def save_npz(path, **arrays):
    np.savez(path, **arrays)


# -- round trips -------------------------------------------------------------------------------


def test_read_returns_what_was_written(path):
    arrays, description = checkpoint.read(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert description == {"format": checkpoint.FORMAT, "epochs": [1, 2], "rng": {"state": 1 << 100}}


@NO_FLAKES
@given(npst.arrays(st.sampled_from([np.float32, np.float64, np.int64]), npst.array_shapes(min_dims=0)))
def test_any_array_round_trips_bit_for_bit(tmp_path, array):
    checkpoint.write(tmp_path / "any.npz", {"a": array}, {})
    back = checkpoint.read(tmp_path / "any.npz")[0]["a"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", ["capsnet", "cnn", "mlp"])
def test_a_loaded_network_gives_identical_outputs(tmp_path, name):
    images = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    network = build(name, "tiny", rng=3)
    checkpoint.save_network(tmp_path / "model.npz", network, name, tuple("abcdefghij"))
    loaded, class_names = checkpoint.load_network(tmp_path / "model.npz")
    assert class_names == tuple("abcdefghij")
    np.testing.assert_array_equal(loaded.scores(loaded(images)), network.scores(network(images)), strict=True)


def test_a_loaded_network_has_the_options_it_was_saved_with(tmp_path):
    network = build("capsnet", "tiny", image_shape=(20, 24, 3), classes=4, iterations=2, bias=True,
                    leaky=True, decoder=False, primary_kernel=(3, 2), rng=0)  # fmt: skip
    checkpoint.save_network(tmp_path / "model.npz", network, "capsnet", tuple("abcd"))
    loaded, _ = checkpoint.load_network(tmp_path / "model.npz")
    assert json.dumps(loaded.config()) == json.dumps(network.config())


# -- all or nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(path, error):
    before = path.read_bytes()

    def fill(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        checkpoint.write_file(path, fill)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_rename_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def replace(source, target):
        raise OSError("no rename")

    monkeypatch.setattr(checkpoint.os, "replace", replace)
    with pytest.raises(OSError, match="no rename"):
        checkpoint.write(path, {"new": np.zeros(3)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_complete(path):
    before = path.read_bytes()

    def fill(file):
        file.write(b"new")
        assert path.read_bytes() == before

    checkpoint.write_file(path, fill)
    assert path.read_bytes() == b"new"


def test_write_text_replaces_the_whole_file(path):
    checkpoint.write_text(path, "a longer text, δ")
    checkpoint.write_text(path, "short")
    assert path.read_text() == "short"


# -- bad files ---------------------------------------------------------------------------------


def refuse(path, content, match=r"file\.npz: (damaged|not a file of minicaps)"):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        checkpoint.read(path)
    assert "\n" not in str(caught.value)


def test_truncated_at_any_length_is_refused(tmp_path, good):
    for length in range(0, len(good), 7):
        refuse(tmp_path / "file.npz", good[:length])


def test_one_damaged_byte_never_changes_a_value(tmp_path, good):
    path = tmp_path / "file.npz"
    for position in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            arrays, description = checkpoint.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert description == {"format": checkpoint.FORMAT, "epochs": 3}
            for name in arrays.keys() & ARRAYS.keys():
                np.testing.assert_array_equal(arrays[name], ARRAYS[name])


@pytest.mark.parametrize("flag, position", [("compression method", 10), ("encryption", 8)])
def test_a_zip_that_claims_unknown_features_is_refused(tmp_path, good, flag, position):
    damaged = bytearray(good)
    for start in [k for k in range(len(good)) if good[k : k + 4] == b"PK\x01\x02"]:
        damaged[start + position] ^= 0x01 if flag == "encryption" else 0xFF
    refuse(tmp_path / "file.npz", damaged)


@NO_FLAKES
@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04"]))
def test_random_bytes_are_refused(tmp_path, content, start):
    refuse(tmp_path / "file.npz", start + content)


def test_an_npz_of_another_program_is_refused(tmp_path):
    save_npz(tmp_path / "file.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="not a file of minicaps"):
        checkpoint.read(tmp_path / "file.npz")


@pytest.mark.parametrize("text", ["", "no JSON", "3", "[]", "{}", '{"format": null}', '{"format": "x"}'])
def test_a_description_of_another_kind_is_refused(tmp_path, text):
    save_npz(tmp_path / "file.npz", description=np.array(text))
    with pytest.raises(ValueError, match="not a file of minicaps"):
        checkpoint.read(tmp_path / "file.npz")


def test_a_single_array_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    refuse(tmp_path / "file.npz", content.getvalue())


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    refuse(tmp_path / "file.npz", pickle.dumps(Bomb()))


def test_an_npz_with_a_pickled_array_is_refused_and_not_executed(tmp_path):
    np.savez(tmp_path / "file.npz", description=np.array('{"format": 1}'), a=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match=r"file\.npz: damaged"):
        checkpoint.read(tmp_path / "file.npz")


def test_a_newer_format_is_refused_with_the_cure(tmp_path):
    newer = checkpoint.FORMAT + 1
    save_npz(tmp_path / "file.npz", description=np.array(json.dumps({"format": newer})))
    with pytest.raises(ValueError, match=rf"newer minicaps \(format {newer}.*update minicaps"):
        checkpoint.read(tmp_path / "file.npz")


@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.load_network])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        read(tmp_path / "absent.npz")


# -- networks that cannot be built -------------------------------------------------------------


def network_file(folder, change_description=None, change_arrays=None):
    """Write a small network with something changed, and return its path."""
    network = build("mlp", rng=0)
    description = {"model": "mlp", "network": network.config(), "class_names": list("0123456789")}
    description |= change_description or {}
    arrays = network.state() | (change_arrays or {})
    checkpoint.write(folder / "model.npz", {k: a for k, a in arrays.items() if a is not None}, description)
    return folder / "model.npz"


@pytest.mark.parametrize(
    "description, arrays, reason",
    [
        ({"model": "transformer"}, {}, "transformer"),
        ({"model": ["mlp"]}, {}, "unhashable"),
        ({"network": {"depth": 9}}, {}, "depth"),
        ({"network": {"image_shape": [28, 28]}}, {}, r"height, width, channels"),
        ({"network": None}, {}, "mapping"),
        ({"class_names": None}, {}, "None"),
        ({}, {"chain.fc1.bias": np.zeros(3)}, r"chain\.fc1\.bias has shape \(3,\)"),
        ({}, {"chain.fc1.bias": None}, r"lacks chain\.fc1\.bias"),
        ({}, {"chain.fc9.W": np.zeros(3)}, r"unknown chain\.fc9\.W"),
    ],
)
def test_a_file_of_no_network_is_refused_with_the_reason(tmp_path, description, arrays, reason):
    path = network_file(tmp_path, description, arrays)
    with pytest.raises(ValueError, match=rf"model\.npz: no network that .* can build .*{reason}"):
        checkpoint.load_network(path)


def test_a_checkpoint_of_something_else_is_no_network(path):
    with pytest.raises(ValueError, match="no network that this minicaps can build"):
        checkpoint.load_network(path)


def test_class_names_must_be_as_many_as_the_classes(tmp_path):
    path = network_file(tmp_path, {"class_names": ["only one"]})
    with pytest.raises(ValueError, match="class"):
        checkpoint.load_network(path)
