"""Networks for other tools: ONNX beside our own numbers, safetensors there and back."""

import json
import struct

import numpy as np
import pytest

from minicaps import build, load, load_pretrained, save
from minicaps.capsules import Hard
from minicaps.cli import FAILED, OK, WRONG_USE
from minicaps.networks import PRESETS, CapsNet, load_network, to_onnx
from minicaps.networks.onnx import _field, _varint

NETWORKS = {
    "pretrained": load_pretrained,
    "bias, leaky, 4 iterations, colour": lambda: build(
        "capsnet",
        "tiny",
        rng=0,
        bias=True,
        coupling="leaky",
        iterations=4,
        image_shape=(24, 20, 3),
        classes=4,
    ),
    "one iteration, no decoder": lambda: build("capsnet", "tiny", rng=0, decoder=False, iterations=1),
    "hidden layers": lambda: build(
        "capsnet", "tiny", rng=0, layers=((12, 5), (6, 4)), bias=True, coupling="leaky"
    ),
    "stopped gradient": lambda: build("capsnet", "tiny", rng=1, stopped_gradient=True),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 7])
def test_an_onnx_runtime_gives_the_same_numbers(tmp_path, name, batch):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install minicaps[onnx]")
    network = NETWORKS[name]()
    to_onnx(tmp_path / "net.onnx", network)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((batch, *network.image_shape), dtype=np.float32)
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"images": images}),
            strict=True,
        )
    )
    outputs = network(images)
    v, drawn = outputs if network.decoder is not None else (outputs, None)
    np.testing.assert_allclose(found["lengths"], network.scores(outputs), atol=1e-5)
    np.testing.assert_allclose(found["v"], v, atol=1e-5)
    assert ("reconstruction" in found) == (drawn is not None)
    if drawn is not None:
        np.testing.assert_allclose(found["reconstruction"], drawn, atol=1e-5)


def test_what_onnx_cannot_have_is_refused(tmp_path):
    for network in (build("mlp", rng=0), CapsNet(PRESETS["tiny"], coupling=Hard(), rng=0)):
        with pytest.raises(ValueError, match="to_onnx: "):
            to_onnx(tmp_path / "net.onnx", network)
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("value", "expected"), [(0, b"\0"), (1, b"\1"), (127, b"\x7f"), (128, b"\x80\1"), (300, b"\xac\2")]
)
def test_whole_numbers_are_encoded_by_seven_bits(value, expected):
    assert _varint(value) == expected


def test_fields_carry_their_number_kind_and_length():
    assert _field(1, 150) == b"\x08\x96\x01"
    assert _field(2, "testing") == b"\x12\x07testing"
    assert len(_varint(-1)) == 10  # two's complement of 64 bits


# -- safetensors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: build("capsnet", "tiny", rng=3, classes=3),
        lambda: build("cnn", rng=0, classes=3),
        lambda: build("mlp", rng=0, dtype=np.float64, classes=3),
    ],
)
def test_safetensors_come_back_with_the_same_bits(tmp_path, make):
    network = make()
    save(tmp_path / "net.safetensors", network, ("a", "b", "ü"))
    again, class_names = load_network(tmp_path / "net.safetensors")
    assert class_names == ("a", "b", "ü") and type(again) is type(network) and again.config == network.config
    for name, array in network.state().items():
        np.testing.assert_array_equal(again.state()[name], array)
        assert again.state()[name].dtype == array.dtype
    assert repr(load(tmp_path / "net.safetensors")) == repr(network)


def test_the_library_of_safetensors_reads_ours(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="needs safetensors: pip install minicaps[onnx]")
    network = build("capsnet", "tiny", rng=3)
    save(tmp_path / "net.safetensors", network)
    arrays = library.load_file(tmp_path / "net.safetensors")
    assert arrays.keys() == network.state().keys()
    for name, array in network.state().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_the_layout_is_a_length_a_header_and_the_numbers(tmp_path):
    network = build("capsnet", "tiny", rng=3)
    save(tmp_path / "net.safetensors", network)
    content = (tmp_path / "net.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0 and header["conv.W"]["dtype"] == "F32"
    assert len(content) == 8 + length + 4 * network.count_params()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:-4],
        lambda content: struct.pack("<Q", 1 << 60) + content[8:],
        lambda content: content.replace(b"data_offsets", b"data_offzets", 1),
        lambda content: content.replace(b'"F32"', b'"F16"', 1),
        lambda content: content.replace(b'"minicaps"', b'"minicops"', 1),
        lambda content: content.replace(b"[0, ", b"[-8,", 1),
    ],
)
def test_damaged_safetensors_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    save(path, build("capsnet", "tiny", rng=3))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError) as error:
        load_network(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# -- the command ------------------------------------------------------------------------------


def test_the_command_writes_both_and_reads_its_own(elsewhere, call, tmp_path):
    code, text, _ = call("export", "pretrained", "--onnx", "net.onnx", "--safetensors", "net.safetensors")
    assert code == OK and "written: net.onnx" in text and "written: net.safetensors" in text
    assert load_network("net.safetensors")[1] == tuple("0123456789")
    assert call("export", "net.safetensors", "--onnx", "again.onnx")[0] == OK
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


def test_wrong_use_of_the_command_gets_one_line(elsewhere, complaint, tmp_path):
    assert "name what to write" in complaint("export", "pretrained", code=WRONG_USE)
    assert "ends with .safetensors" in complaint(
        "export", "pretrained", "--safetensors", "x.npz", code=WRONG_USE
    )
    assert "no such file" in complaint("export", "nowhere.npz", "--onnx", "x.onnx", code=WRONG_USE)
    save("cnn.safetensors", build("cnn", rng=0))
    assert "expected a CapsNet" in complaint("export", "cnn.safetensors", "--onnx", "x.onnx", code=FAILED)
