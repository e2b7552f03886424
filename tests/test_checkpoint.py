"""Files of weights: what is written is what is read, and a bad file is one clear ValueError."""

import errno
import io
import json
import os
import pickle
import re
import stat
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from minicaps import Conv2d, Dense
from minicaps.capsules import Leaky, Softmax
from minicaps.networks import (
    PRESETS,
    CapsNet,
    CapsNetConfig,
    OverlapCapsNet,
    build,
    files,
    load,
    load_network,
    save_network,
)

ARRAYS = {"conv.W": np.arange(12, dtype=np.float32).reshape(3, 4), "optimizer/steps": np.array(7)}
NO_FLAKES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    files.write(tmp_path / "file.npz", ARRAYS, {"epochs": [1, 2], "rng": {"state": 1 << 100}})
    return tmp_path / "file.npz"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "file.npz"
    files.write(path, ARRAYS, {"epochs": 3})
    return path.read_bytes()


def save_npz(path, **arrays):
    np.savez(path, **arrays)


# -- round trips -------------------------------------------------------------------------------


def test_read_returns_what_was_written(path):
    arrays, description = files.read(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert description == {"format": files.FORMAT, "epochs": [1, 2], "rng": {"state": 1 << 100}}


@NO_FLAKES
@given(npst.arrays(st.sampled_from([np.float32, np.float64, np.int64]), npst.array_shapes(min_dims=0)))
def test_any_array_round_trips_bit_for_bit(tmp_path, array):
    files.write(tmp_path / "any.npz", {"a": array}, {})
    back = files.read(tmp_path / "any.npz")[0]["a"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", ["capsnet", "cnn", "efficient", "matrix", "mlp"])
def test_a_loaded_network_gives_identical_outputs(tmp_path, name):
    images = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    network = build(name, "tiny", rng=3)
    save_network(tmp_path / "model.npz", network, tuple("abcdefghij"))
    loaded, class_names = load_network(tmp_path / "model.npz")
    assert class_names == tuple("abcdefghij")
    np.testing.assert_array_equal(loaded.scores(loaded(images)), network.scores(network(images)), strict=True)


def test_a_loaded_network_has_the_options_it_was_saved_with(tmp_path):
    options = {"iterations": 2, "bias": True, "coupling": "leaky hard", "stopped_gradient": True, "std": 0.1}
    shapes = {"image_shape": (20, 24, 3), "classes": 4, "decoder": False, "primary_kernel": (3, 2)}
    network = build("capsnet", "tiny", **options, **shapes, rng=0)
    save_network(tmp_path / "model.npz", network, tuple("abcd"))
    loaded, _ = load_network(tmp_path / "model.npz")
    assert loaded.config == network.config and type(loaded.config) is CapsNetConfig


OLD_OPTIONS = {
    "plain": ({"leaky": False, "gradient": "full", "coupling": "softmax"}, "softmax", False),
    "leaky": ({"leaky": True, "gradient": "full", "coupling": "softmax"}, "leaky", False),
    "hard": ({"leaky": False, "gradient": "full", "coupling": "hard"}, "hard", False),
    "leaky hard": ({"leaky": True, "gradient": "stopped", "coupling": "hard"}, "leaky hard", True),
    "none of them": ({}, "softmax", False),
}


def write_old(path, version, network, model, changes=None):
    """Write a network as minicaps 0.1.0 did: format 2, or format 1, which had no checksum."""
    description = {"format": version, "model": model, "class_names": list("0123456789")}
    description["network"] = vars(network.config) | (changes or {})
    for name in {"std", "stopped_gradient", *({"coupling"} - {*(changes or {})})}:
        description["network"].pop(name, None)
    new_names = {"capsules.votes.": "capsules.prediction.", "decoder.": "reconstruct."}
    arrays = {}
    for name, array in network.state().items():
        for new, old in new_names.items():
            name = old + name.removeprefix(new) if name.startswith(new) else name
        arrays[name] = array
    text = json.dumps(description)
    checksum = {} if version == 1 else {"checksum": np.array(files.digest(arrays, text))}
    np.savez(path, description=np.array(text), **checksum, **arrays)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("old, coupling, stopped", OLD_OPTIONS.values(), ids=OLD_OPTIONS)
def test_a_capsnet_of_format_1_or_2_loads_with_its_options_and_its_answers(
    tmp_path, version, old, coupling, stopped
):
    options = {"coupling": coupling, "stopped_gradient": stopped, "bias": True, "iterations": 2}
    network = build("capsnet", "tiny", **options, rng=3)
    for param in network.params.values():
        param += 0.01  # the bias of the capsules is 0 at first
    write_old(tmp_path / "model.npz", version, network, "capsnet", old)
    loaded, class_names = load_network(tmp_path / "model.npz")
    assert loaded.config == network.config and class_names == tuple("0123456789")
    images = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)
    for one, other in zip(loaded(images), network(images), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_the_other_networks_of_format_1_or_2_load(tmp_path, version, name):
    network = build(name, rng=3)
    write_old(tmp_path / "model.npz", version, network, name)
    loaded = load(tmp_path / "model.npz")
    assert loaded.config == network.config
    for key, array in network.state().items():
        np.testing.assert_array_equal(loaded.params[key], array)


@pytest.mark.parametrize(
    "old, reason",
    [
        ({"leaky": 1}, "leaky is 1, expected True or False"),
        ({"gradient": "half"}, "gradient is 'half', expected 'full' or 'stopped'"),
        ({"coupling": "soft"}, "coupling is 'soft', expected"),
        ({"coupling": ["hard"]}, "coupling is|sequence item 0"),
    ],
)
def test_an_old_option_that_never_was_is_refused(tmp_path, old, reason):
    write_old(tmp_path / "model.npz", 2, build("capsnet", "tiny", rng=3), "capsnet", old)
    with pytest.raises(ValueError, match=rf"model\.npz: no network that .* can build .*({reason})"):
        load_network(tmp_path / "model.npz")


class OwnCoupling(Softmax):
    pass


@pytest.mark.parametrize(
    "network, reason",
    [
        (CapsNet(PRESETS["tiny"], coupling=OwnCoupling(), rng=0), "a capsules.routing.coupling of its own"),
        (OverlapCapsNet(PRESETS["tiny"], rng=0), "the class OverlapCapsNet"),
    ],
)
def test_a_network_that_a_file_could_not_build_again_is_not_saved(tmp_path, network, reason):
    with pytest.raises(ValueError, match=f"{reason} cannot be built again from a file"):
        save_network(tmp_path / "model.npz", network)
    assert not (tmp_path / "model.npz").exists()


def test_a_path_where_the_network_belongs_is_told(tmp_path):
    with pytest.raises(
        TypeError, match=r"save: got .*model.npz.* the path comes first, save\(path, network\)"
    ):
        save_network(CapsNet(PRESETS["tiny"], rng=0), tmp_path / "model.npz")


@pytest.mark.parametrize("names", [("a", "b"), tuple("abcdefghijk"), tuple(range(10))])
def test_class_names_that_could_not_be_read_are_not_written(tmp_path, names):
    with pytest.raises(ValueError, match=r"class names .* for 10 classes, expected a text for each"):
        save_network(tmp_path / "model.npz", build("mlp", rng=0), names)
    assert not (tmp_path / "model.npz").exists()


def replace_the_convolution(network):
    network.conv = Conv2d(1, 8, 5, stride=2, padding=1, rng=0)  # its weights have the same shapes


def double_the_precision_of_the_decoder(network):
    network.decoder.astype(np.float64)


@pytest.mark.parametrize(
    "change, reason",
    [
        (
            lambda network: setattr(network.capsules.routing, "coupling", Leaky()),
            "capsules.routing.coupling of",
        ),
        (lambda network: setattr(network.capsules.routing, "iterations", 5), "a capsules.routing of its own"),
        (lambda network: setattr(network, "decoder", None), "asks for more weights"),
        (lambda network: setattr(network, "more", [Dense(2, 2)]), "has unknown more.0.W, more.0.bias"),
        (replace_the_convolution, "a conv of its own"),
        (double_the_precision_of_the_decoder, "a dtype of conv.W of its own"),
    ],
)
def test_a_network_that_was_changed_afterwards_is_not_saved_as_another(tmp_path, change, reason):
    network = build("capsnet", "tiny", rng=0)
    change(network)
    with pytest.raises(ValueError, match=f"{reason}.* cannot be built again"):
        save_network(tmp_path / "model.npz", network)
    assert not list(tmp_path.iterdir())


class OtherForward(CapsNet):
    def forward(self, images, labels=None):
        raise AssertionError("not asked here")


def test_a_subclass_is_not_saved_as_its_base(tmp_path):
    with pytest.raises(ValueError, match="the class OtherForward cannot be built again"):
        save_network(tmp_path / "model.npz", OtherForward(PRESETS["tiny"], rng=0))


@pytest.mark.parametrize(
    "names",
    [("a" * 100_000, "b"), ("\ud800", "\x00"), ("same", "same"), ("", "ä\n"), tuple(np.array(["x", "y"]))],
    ids=["long", "surrogate", "same", "empty", "of NumPy"],
)
def test_whatever_class_names_are_written_are_read(tmp_path, names):
    save_network(tmp_path / "model.npz", build("mlp", classes=2, rng=0), names)
    assert load_network(tmp_path / "model.npz")[1] == names


@pytest.mark.parametrize(
    "options",
    [
        {"classes": np.array([0, 4, 9]).max() + 1},
        {"image_shape": tuple(np.array([28, 28, 1]))},
        {"iterations": 1000, "std": np.float32(0.1), "bias": np.True_},
        {"conv_kernel": (np.int8(5), 5), "decoder_hidden": tuple(np.array([3, 4], np.uint8))},
    ],
)
def test_options_of_numpy_s_types_and_at_their_limits_come_back(tmp_path, options):
    network = build("capsnet", "tiny", rng=0, **options)
    save_network(tmp_path / "model.npz", network)
    assert load_network(tmp_path / "model.npz")[0].config == network.config


def test_double_precision_and_options_of_numpy_s_types_come_back(tmp_path):
    network = build("mlp", hidden=np.int64(7), rng=0, dtype=np.float64)
    save_network(tmp_path / "model.npz", network)
    again, _ = load_network(tmp_path / "model.npz")
    assert type(again.config.hidden) is int and again.first_param.dtype == np.float64
    assert all((again.params[name] == param).all() for name, param in network.params.items())


def test_class_names_are_numbers_unless_they_are_given(tmp_path):
    save_network(tmp_path / "model.npz", build("mlp", classes=3, rng=0))
    assert load_network(tmp_path / "model.npz")[1] == ("0", "1", "2")


# -- all or nothing ----------------------------------------------------------------------------


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "fdopen", "replace"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(path, monkeypatch, step, error):
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(type(error)):
        files.write(path, {"new": np.zeros(3)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_name_of_the_file(path, monkeypatch):
    class FullDisk(io.BytesIO):
        def write(self, content):
            raise FULL

    def fdopen(descriptor, mode):
        os.close(descriptor)
        return FullDisk()

    before = path.read_bytes()
    monkeypatch.setattr(files.os, "fdopen", fdopen)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write(path, {"new": np.zeros(3)}, {})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_told_with_the_name_of_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        files.write_text(tmp_path / "absent" / "file", "text")
    assert caught.value.filename == str(tmp_path / "absent" / "file")


def test_the_folder_is_synchronised_after_the_file_was_renamed(path, monkeypatch):
    happened, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(descriptor):
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(source, target):
        happened.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "replace", watched_replace)
    files.write_text(path, "text")
    assert happened == ["file", "rename", "folder"]


def test_a_file_system_that_cannot_synchronise_folders_is_put_up_with(path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", only_files)
    files.write_text(path, "text")
    assert path.read_text() == "text"


def test_only_the_leftovers_of_the_file_itself_are_removed(path):
    keep = [path, path.with_name(".other.npz.abc.tmp"), path.with_name(".file.npz"), path.with_name("a.tmp")]
    for kept in keep[1:]:
        kept.touch()
    path.with_name(".file.npz.x1y2z3.tmp").touch()
    files.remove_leftovers(path)
    assert sorted(path.parent.iterdir()) == sorted(keep)


def test_write_text_replaces_the_whole_file(path):
    files.write_text(path, "a longer text, δ")
    files.write_text(path, "short")
    assert path.read_text() == "short"


# -- bad files ---------------------------------------------------------------------------------


def refuse(path, content, match):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: {match}") as caught:
        files.read(path)
    assert "\n" not in str(caught.value)


def test_truncated_at_any_length_is_refused(tmp_path, good):
    for length in range(0, len(good), 7):
        refuse(tmp_path / "file.npz", good[:length], f"truncated, after {length:,} bytes")


def test_one_damaged_byte_never_changes_a_value(tmp_path, good):
    path = tmp_path / "file.npz"
    for position in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            arrays, description = files.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert description == {"format": files.FORMAT, "epochs": 3}
            assert arrays.keys() == ARRAYS.keys()
            for name in ARRAYS:
                np.testing.assert_array_equal(arrays[name], ARRAYS[name])


def test_a_damaged_number_is_refused(tmp_path, good):
    position = good.index(ARRAYS["conv.W"].tobytes())
    refuse(tmp_path / "file.npz", good[:position] + b"\7" + good[position + 1 :], "damaged .*CRC")


def rewrite(path, change):
    """Write the file again with something changed in its arrays, every zip checksum right."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


CHANGES = {
    "a number": lambda arrays: arrays["conv.W"].__setitem__((0, 0), 7),
    "a dtype": lambda arrays: arrays.update({"conv.W": arrays["conv.W"].view(np.int32)}),
    "a shape": lambda arrays: arrays.update({"conv.W": arrays["conv.W"].reshape(4, 3)}),
    "a name": lambda arrays: arrays.update({"conv.w": arrays.pop("conv.W")}),
    "an array too many": lambda arrays: arrays.update({"more": np.zeros(2)}),
    "an array too few": lambda arrays: arrays.pop("conv.W"),
    "the description": lambda arrays: arrays.update(description=np.array('{"format": 3, "epochs": 4}')),
    "the format": lambda arrays: arrays.update(description=np.array('{"format": 2, "epochs": [1, 2]}')),
    "the checksum": lambda arrays: arrays.update(checksum=np.array("0" * 64)),
    "no checksum": lambda arrays: arrays.pop("checksum"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_the_checksum_covers_is_refused_where_it_changed(path, change):
    rewrite(path, change)
    with pytest.raises(ValueError, match=r"file\.npz: damaged \(its content has another checksum"):
        files.read(path)


def test_a_file_of_format_1_which_had_no_checksum_is_read(tmp_path):
    save_npz(tmp_path / "file.npz", description=np.array('{"format": 1, "epochs": 3}'), **ARRAYS)
    arrays, description = files.read(tmp_path / "file.npz")
    assert arrays.keys() == ARRAYS.keys() and description == {"format": 1, "epochs": 3}


def npy(header, content=b""):
    """A file of one array whose header says what we like."""
    header = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    "dtype, shape, length",
    [
        ("'<f8'", (10**6, 10**6), 8),
        ("'<f8'", (2**32, 2**32), 8),
        ("'<f8'", (-1, -1), 8),
        ("'<U1000000000'", (), 8),
        ("'<U1000000000'", (0,), 0),
        ("[('a', '<f8', (10**9,))]", (1,), 8),
        ("[('a', '<f8', (1000000000,))]", (0,), 0),
        ("'|O'", (1,), 8),
    ],
)
def test_a_header_that_promises_too_much_is_refused_without_allocating(tmp_path, dtype, shape, length):
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.npy", npy(header, bytes(length)))
    tracemalloc.start()
    try:
        refuse(tmp_path / "file.npz", content.getvalue(), r"damaged \(")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_refused_without_unpacking_it(tmp_path, compression):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr(
            "a.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (8388608,)}", bytes(1 << 23))
        )
    tracemalloc.start()
    try:
        refuse(tmp_path / "file.npz", content.getvalue(), "damaged .its parts are longer than the file")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flag, position", [("compression method", 10), ("encryption", 8)])
def test_a_zip_that_claims_unknown_features_is_refused(tmp_path, good, flag, position):
    damaged = bytearray(good)
    for start in [k for k in range(len(good)) if good[k : k + 4] == b"PK\x01\x02"]:
        damaged[start + position] ^= 0x01 if flag == "encryption" else 0xFF
    refuse(tmp_path / "file.npz", damaged, "damaged")


def test_an_npz_of_another_program_is_refused(tmp_path):
    save_npz(tmp_path / "file.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="not a file of minicaps"):
        files.read(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "3",
        "[]",
        "{}",
        '{"format": null}',
        '{"format": "x"}',
        '{"format": 0}',
        '{"format": true}',
        "[" * 100_000,
    ],
)
def test_a_description_of_another_kind_is_refused(tmp_path, text):
    save_npz(tmp_path / "file.npz", description=np.array(text))
    with pytest.raises(ValueError, match="not a file of minicaps"):
        files.read(tmp_path / "file.npz")


def test_a_single_array_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    refuse(tmp_path / "file.npz", content.getvalue(), "not a file of minicaps .starts with 93 4e 55 4d")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    refuse(tmp_path / "file.npz", pickle.dumps(Bomb()), "not a file of minicaps .starts with 80 04")


def test_an_npz_with_a_pickled_array_is_refused_and_not_executed(tmp_path):
    np.savez(tmp_path / "file.npz", description=np.array('{"format": 1}'), a=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match=r"file\.npz: damaged"):
        files.read(tmp_path / "file.npz")


def test_a_newer_format_is_refused_with_the_cure(tmp_path):
    newer = files.FORMAT + 1
    save_npz(tmp_path / "file.npz", description=np.array(json.dumps({"format": newer})))
    with pytest.raises(ValueError, match=rf"newer minicaps \(format {newer}.*update minicaps"):
        files.read(tmp_path / "file.npz")


@pytest.mark.parametrize("read", [files.read, load_network])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        read(tmp_path / "absent.npz")


# -- networks that cannot be built -------------------------------------------------------------


def network_file(folder, change_description=None, change_arrays=None):
    """Write a small network with something changed, and return its path."""
    network = build("mlp", rng=0)
    description = {"model": "mlp", "network": vars(network.config), "class_names": list("0123456789")}
    description |= change_description or {}
    arrays = network.state() | (change_arrays or {})
    files.write(folder / "model.npz", {k: a for k, a in arrays.items() if a is not None}, description)
    return folder / "model.npz"


@pytest.mark.parametrize(
    "description, arrays, reason",
    [
        ({"model": "transformer"}, {}, "transformer"),
        ({"model": ["mlp"]}, {}, "unhashable"),
        ({"network": {"depth": 9}}, {}, "depth"),
        ({"network": {"image_shape": [28, 28]}}, {}, r"height, width, channels"),
        ({"network": None}, {}, "mapping"),
        ({"network": [1]}, {}, "mapping"),
        ({"class_names": None}, {}, "None"),
        ({"class_names": list(range(10))}, {}, "class names"),
        ({"network": {"hidden": 10**9}}, {}, "asks for more weights than the file holds"),
        ({"network": {"classes": 10**400}}, {}, "classes is 1000"),
        ({"network": {"image_shape": [10**6, 10**6, 1]}}, {}, "images of 1,000,000,000,000 numbers"),
        ({"network": {"dtype": "float64"}}, {}, "dtype"),
        ({"network": {"rng": 0}}, {}, "rng"),
        ({}, {"chain.fc1.bias": np.zeros(3)}, r"chain\.fc1\.bias has shape \(3,\)"),
        ({}, {"chain.fc1.bias": None}, r"lacks chain\.fc1\.bias"),
        ({}, {"chain.fc9.W": np.zeros(3)}, r"unknown chain\.fc9\.W"),
    ],
)
def test_a_file_of_no_network_is_refused_with_the_reason(tmp_path, description, arrays, reason):
    path = network_file(tmp_path, description, arrays)
    with pytest.raises(ValueError, match=rf"model\.npz: no network that .* can build .*{reason}"):
        load_network(path)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"image_shape": [10**6, 10**6, 1], "conv_stride": 10**5}, "images of 1,000,000,000,000 numbers"),
        ({"iterations": 1001}, "iterations is 1,001, expected at most 1,000"),
    ],
)
def test_a_network_that_could_never_answer_is_neither_built_nor_read(tmp_path, options, reason):
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    with pytest.raises(ValueError, match=reason):
        build("capsnet", "tiny", rng=0, **tuples)
    network = build("capsnet", "tiny", rng=0)
    description = {"model": "capsnet", "network": {**vars(network.config), **options}, "class_names": []}
    files.write(tmp_path / "model.npz", network.state(), description)
    with pytest.raises(ValueError, match=rf"model\.npz: no network that .*{reason}"):
        load_network(tmp_path / "model.npz")


def test_a_checkpoint_of_something_else_is_no_network(path):
    with pytest.raises(ValueError, match="no network that this minicaps can build"):
        load_network(path)


def test_class_names_must_be_as_many_as_the_classes(tmp_path):
    path = network_file(tmp_path, {"class_names": ["only one"]})
    with pytest.raises(ValueError, match="class"):
        load_network(path)
