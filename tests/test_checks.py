"""What a caller can get wrong is refused where it is given: place, what came, what was expected."""

import inspect
import re

import numpy as np
import pytest

import minicaps
from minicaps import (
    BatchNorm,
    CapsuleLayer,
    Conv2d,
    CrossEntropyLoss,
    Decoder,
    Dense,
    DynamicRouting,
    Hard,
    Layer,
    LayerNorm,
    MarginLoss,
    Mask,
    MaxPool2d,
    PrimaryCaps,
    ReconstructionLoss,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    SpreadLoss,
    Squash,
    Votes,
    WeightedSum,
    gradcheck,
)
from minicaps.capsules import Given
from minicaps.datasets import augment
from minicaps.layers import Loss
from minicaps.networks import CNN, MLP, CapsNet, CapsNetConfig, CNNConfig, MLPConfig, OverlapCNN, build
from minicaps.proof import find_examples
from minicaps.training import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Exponential,
    OneProcess,
    backpropagate,
    batches,
    evaluate,
    train_step,
)

DENSE = Dense(3, 2, rng=0)
IMAGES = np.zeros((4, 28, 28, 1), np.uint8)
LABELS = np.zeros(4, int)

OPTIONS = [  # how a thing is made, and what the error says
    (lambda: Dense(0, 2), "Dense: in_features is 0, expected a whole number above 0"),
    (lambda: Dense(3, 2.0), "Dense: out_features is 2.0, expected a whole number above 0"),
    (lambda: Dense(3, 1 << 63), f"Dense: out_features is {1 << 63}, expected a whole number above 0"),
    (lambda: Reshape(3, True), "Reshape: axis 2 is True, expected a whole number above 0"),
    (lambda: Conv2d(0, 2, 3), "Conv2d: in_channels is 0, expected a whole number above 0"),
    (lambda: Conv2d(1, 2, 3, padding=-1), "Conv2d: padding is -1, expected one or two whole numbers of at"),
    (lambda: Conv2d(1, 2, "3"), "Conv2d: kernel_size is '3', expected one or two whole numbers"),
    (lambda: MaxPool2d(0), "MaxPool2d: window is 0, expected one or two whole numbers"),
    (lambda: PrimaryCaps(1, 0, 2, 3), "PrimaryCaps: types is 0, expected a whole number above 0"),
    (lambda: Votes(0, 1, 1, 1), "Votes: lower_capsules is 0, expected a whole"),
    (lambda: Votes(1, 1, 1, 1, std=-1.0), "Votes: std is -1.0, expected a number, 0 or more"),
    (lambda: CapsuleLayer(1, 1, 1, 1, std=np.nan), "Votes: std is nan, expected a number, 0 or more"),
    (lambda: CapsuleLayer(1, 1, 1, 1, bias="yes"), "CapsuleLayer: bias is 'yes', expected True or False"),
    (lambda: DynamicRouting(0), "DynamicRouting: iterations is 0, expected a whole number above 0"),
    (lambda: DynamicRouting(bias_shape=3), "DynamicRouting: bias_shape is 3, expected (J, E)"),
    (lambda: Decoder(4, (2, 2, 1), hidden=5), "Decoder: hidden is 5, expected the widths of two layers"),
    (lambda: Decoder(4, 28), "Decoder: image_shape is 28, expected (height, width, channels)"),
    (lambda: MarginLoss(present=np.inf), "MarginLoss: present is inf, expected a number, 0 or more"),
    (lambda: MarginLoss(down_weight="0.5"), "MarginLoss: down_weight is '0.5', expected a number, 0 or more"),
    (lambda: ReconstructionLoss(scale=-1), "ReconstructionLoss: scale is -1, expected a number, 0 or more"),
    (lambda: ReconstructionLoss(scale=10**400), f"scale is {10**400}, expected a number, 0 or more"),
    (lambda: LayerNorm(3, epsilon=-1), "LayerNorm: epsilon is -1, expected a number above 0"),
    (lambda: BatchNorm(3, epsilon=np.inf), "BatchNorm: epsilon is inf, expected a number above 0"),
    (lambda: Squash(offset=True), "Squash: offset is True, expected a number above 0"),
    (lambda: WeightedSum([]), "WeightedSum: got 0 losses and 0 weights"),
    (lambda: WeightedSum([MarginLoss()], [None]), "WeightedSum: weight 0 is None, expected a number"),
    (lambda: Sequential(), "Sequential: got no layers, expected at least one"),
    (lambda: CapsNetConfig(28), "CapsNetConfig: image_shape is 28, expected (height, width, channels)"),
    (lambda: CapsNetConfig((28, 28, 0)), "CapsNetConfig: channels is 0, expected a whole number above 0"),
    (lambda: CapsNetConfig(decoder="no"), "CapsNetConfig: decoder is 'no', expected True or False"),
    (lambda: CapsNetConfig(coupling="soft"), "CapsNetConfig: coupling is 'soft', expected 'softmax' or"),
    (lambda: CapsNetConfig(std=-1), "CapsNetConfig: std is -1, expected a number, 0 or more"),
    (lambda: CapsNetConfig(reconstruction_scale=None), "reconstruction_scale is None, expected a number"),
    (lambda: CapsNet(CapsNetConfig((8, 28, 1))), "a window of height 9 does not fit an image of height 8"),
    (
        lambda: CNN(CNNConfig((20, 28, 1))),
        "CNN: conv3: a window of height 4 does not fit an image of height 2",
    ),
    (lambda: MLPConfig(hidden=0), "MLPConfig: hidden is 0, expected a whole number above 0"),
    (lambda: build("svm"), "model is 'svm', expected one of capsnet, cnn, efficient, matrix, mlp"),
    (lambda: build("mlp", "huge"), "preset is 'huge', expected one of tiny, small, paper"),
    (lambda: Constant(0), "Constant: learning_rate is 0, expected a number above 0"),
    (lambda: Constant(10**400), f"learning_rate is {10**400}, expected a number above 0"),
    (lambda: Exponential(np.nan), "Exponential: learning_rate is nan, expected a number"),
    (lambda: Cosine(0.1, 0), "Cosine: steps is 0, expected"),
    (lambda: Cosine(0.1, 10, warmup=1.5), "Cosine: warmup is 1.5, expected a whole number, 0 or more"),
    (lambda: SGD(DENSE, "fast"), "Constant: learning_rate is 'fast', expected a number"),
    (lambda: SGD(DENSE, 0.1, momentum=1), "SGD: momentum is 1, expected 0 to below 1"),
    (lambda: Adam(DENSE, 0.1, epsilon=-1e-8), "Adam: epsilon is -1e-08, expected a number, 0 or more"),
    (
        lambda: augment.shift(IMAGES, 0.5, np.random.default_rng(0)),
        "shift: largest is 0.5, expected a whole number",
    ),
    (
        lambda: augment.shift(IMAGES[0], 1, np.random.default_rng(0)),
        "shift: images have shape (28, 28, 1), expected",
    ),
    (lambda: list(batches(10, 0, np.random.default_rng(0))), "batches: size is 0, expected a whole number"),
    (lambda: evaluate(build("mlp"), IMAGES, LABELS[:3]), "evaluate: 3 labels for 4 images"),
    (lambda: evaluate(build("mlp"), IMAGES, LABELS, 0), "evaluate: batch_size is 0, expected a whole number"),
    (lambda: evaluate(build("mlp"), IMAGES, LABELS + 10), "labels run from 10 to 10, expected 0 to 9"),
]


@pytest.mark.parametrize("make, message", OPTIONS, ids=[message[:40] for _, message in OPTIONS])
def test_a_wrong_option_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


DTYPES = [
    (lambda: Dense(3, 2, dtype=int), "Dense: the parameter W has dtype int64, expected float32 or float64"),
    (lambda: Conv2d(1, 2, 3, dtype=np.float16), "Conv2d: the parameter W has dtype float16, expected"),
    (lambda: CapsuleLayer(1, 1, 1, 1, dtype=complex), "Votes: the parameter W has dtype complex"),
    (lambda: Dense(3, 2).astype(np.int8), "Dense.astype: the result has dtype int8, expected float32 or"),
    (lambda: Layer.add_param(Hard(), "a", [1.0]), "expected a NumPy or CuPy array, got list"),
    (lambda: evaluate(build("mlp"), IMAGES / 255, LABELS), "evaluate: images have dtype float64, expected"),
]  # fmt: skip


@pytest.mark.parametrize("make, message", DTYPES, ids=[message[:40] for _, message in DTYPES])
def test_a_wrong_dtype_is_refused_by_name(make, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        make()


# -- every public layer and loss: what they are called with ------------------------------------

PUBLIC = [getattr(minicaps, name) for name in minicaps.__all__]
CLASSES = [
    c for c in PUBLIC if isinstance(c, type) and issubclass(c, (Layer, Loss)) and not inspect.isabstract(c)
]
NETWORKS = [CNN, MLP]


def example(cls, dtype=np.float32):
    return find_examples(cls, dtype=dtype)[0]


def spoilt(inputs, how):
    """Return the inputs with the first array changed, wherever it is."""
    first = inputs[0]
    return (((how(first[0]), *first[1:]) if isinstance(first, tuple) else how(first)), *inputs[1:])


SPOILERS = {
    "a list": (lambda x: x.tolist(), TypeError, "got list"),
    "None": (lambda x: None, TypeError, "got "),
    "integers": (lambda x: (x * 10).astype(int), TypeError, "has dtype int64, expected float32 or float64"),
    "half precision": (lambda x: x.astype(np.float16), TypeError, "has dtype float16, expected float32 or"),
    "an empty batch": (lambda x: x[:0], ValueError, "is empty"),
    "a single number": (lambda x: x[(0,) * x.ndim], (TypeError, ValueError), "has shape|axes|got "),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
@pytest.mark.parametrize("cls", CLASSES + NETWORKS, ids=lambda cls: cls.__name__)
def test_forward_refuses_what_is_no_batch_of_floats(cls, spoiler):
    how, error, message = SPOILERS[spoiler]
    _, layer, inputs, *_ = example(cls)
    with pytest.raises(error, match=message) as caught:
        layer.forward(*spoilt(inputs, how))
    assert re.match(r"\w+(\.forward)?: \w+", str(caught.value))  # the place and the argument


@pytest.mark.parametrize(
    "cls", [c for c in CLASSES + NETWORKS if issubclass(c, Layer)], ids=lambda c: c.__name__
)
def test_backward_refuses_another_shape_and_another_dtype(cls):
    _, layer, inputs, *_ = example(cls)
    y, cache = layer.forward(*inputs)
    for how, error in ((lambda x: x[..., None], ValueError), (lambda x: x.astype(int), TypeError),
                       (lambda x: np.concatenate([x, x]), ValueError)):  # fmt: skip
        dy = tuple(map(how, y)) if isinstance(y, tuple) else how(y)
        with pytest.raises(error, match=r"\w+\.backward: d\w+ has "):
            layer.backward(dy, cache)


FLOATS = np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)  # (B, H, W, C)


def with_network(name, what):
    """Return a function that hands labels to a network for 4 classes."""

    def call(labels):
        network = build(name, "tiny", rng=0, classes=4)
        if what == "evaluate":
            return evaluate(network, (255 * FLOATS).astype(np.uint8), labels)
        if what == "correct":
            return network.correct(network(FLOATS), labels)
        return backpropagate(network, network.objective(), FLOATS, labels)

    return call


WITH_LABELS = {
    "Mask.forward": lambda labels: Mask().forward(np.ones((3, 4, 5), np.float32), labels),
    "MarginLoss.forward": lambda labels: MarginLoss().forward(np.ones((3, 4, 5), np.float32), labels),
    "CrossEntropyLoss.forward": lambda labels: CrossEntropyLoss().forward(
        np.ones((3, 4), np.float32), labels
    ),
    "MLP.correct": with_network("mlp", "correct"),
    "CapsNet.correct": with_network("capsnet", "correct"),
    **{what: with_network("mlp", what) for what in ("evaluate", "backpropagate")},
}
LABELS_OF_0_AND_1 = ("MarginLoss.forward", "CrossEntropyLoss.forward")  # they take T (B, J) too
ONE_HOT = np.eye(4, dtype=int)[[0, 1, 3]]


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize(
    "labels, error, message",
    [([0, 1, 2], TypeError, "got list"),
     (np.array([0.0, 1.0, 2.0]), TypeError, "labels have dtype float64, expected integers"),
     (np.array([True, False, True]), TypeError, "labels have dtype bool, expected integers"),
     (np.array(["0", "1", "2"]), TypeError, "labels have dtype <U1, expected integers"),
     (np.ma.array([0, 1, 2]), TypeError, "got a MaskedArray"),
     (np.array([0, 1]), ValueError, r"labels has shape \(2,\), expected \(3,\)|2 labels for 3 images"),
     (np.array([0, 1, 4]), ValueError, "labels run from 0 to 4, expected 0 to 3"),
     (np.array([-1, 1, 2]), ValueError, "labels run from -1 to 2, expected 0 to 3")],
)  # fmt: skip
def test_wrong_labels_are_refused(name, labels, error, message):
    with pytest.raises(error, match=rf"^{name}: .*({message})"):
        WITH_LABELS[name](labels)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_mean_one_thing_everywhere(name):
    """Class numbers; what is one-hot is understood by losses, and refused by name with the cure elsewhere."""
    one = WITH_LABELS[name](np.array([0, 1, 3]))
    for form, cure in ((ONE_HOT, r"labels.argmax\(axis=1\)"), (ONE_HOT[:, :1], r"labels\[:, 0\]")):
        if name not in LABELS_OF_0_AND_1:
            with pytest.raises(ValueError, match=rf"^{name}: labels has shape .*{cure}"):
                WITH_LABELS[name](form)
    if name in LABELS_OF_0_AND_1:
        np.testing.assert_array_equal(WITH_LABELS[name](ONE_HOT)[0], one[0])
        with pytest.raises(ValueError, match=rf"^{name}: target has shape \(3, 1\), expected \(3, 4\)"):
            WITH_LABELS[name](ONE_HOT[:, :1])


def test_pairs_have_two_labels_each_and_no_other_number():
    network = OverlapCNN(CNNConfig(classes=4), rng=0)
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert network.correct(logits, np.array([[0, 1], [1, 2], [3, 0]])).shape == (3,)
    for labels in (np.array([0, 1, 2]), np.array([[0, 1, 2]] * 3), ONE_HOT):
        with pytest.raises(ValueError, match=r"^OverlapCNN.correct: labels has shape"):
            network.correct(logits, labels)
    with pytest.raises(ValueError, match=r"^OverlapCNN.correct: labels run from 0 to 4, expected 0 to 3"):
        network.correct(logits, np.array([[0, 1], [1, 2], [4, 0]]))


class Quantity(np.ndarray):
    """Stands in for numpy.matrix and others whose operators mean something else."""


ANOTHER_KIND = {
    "a layer": lambda kind: DENSE(kind(np.ones((2, 3), np.float32))),
    "an upstream gradient": lambda kind: DENSE.backward(
        kind(np.ones((2, 2), np.float32)), DENSE.forward(np.ones((2, 3), np.float32))[1]
    ),
    "a loss": lambda kind: ReconstructionLoss()(np.ones((2, 3)), kind(np.ones((2, 3)))),
    "a parameter": lambda kind: Layer.add_param(Hard(), "a", kind(np.ones(2))),
    "predict": lambda kind: build("mlp", rng=0).predict(kind(FLOATS)),
    "evaluate": lambda kind: evaluate(build("mlp", rng=0), kind(IMAGES), LABELS),
    "train_step": lambda kind: train_step(
        OneProcess(MLP(rng=0)), Adam(MLP(rng=0), 0.1), kind(FLOATS), np.array([0, 1, 2])
    ),
}


@pytest.mark.parametrize("kind", [lambda x: x.view(Quantity), np.ma.array], ids=["subclass", "masked"])
@pytest.mark.parametrize("door", ANOTHER_KIND)
def test_arrays_whose_operators_mean_something_else_are_refused(door, kind):
    with pytest.raises(TypeError, match=r": .*got a (Quantity|MaskedArray), whose operators .*numpy.asarray"):
        ANOTHER_KIND[door](kind)


def test_a_matrix_is_refused_and_an_array_in_a_file_is_not(tmp_path):
    matrix = np.ones((2, 3), np.float32).view(np.matrix)
    with pytest.raises(TypeError, match="got a matrix"):
        DENSE(matrix)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(
        DENSE(np.load(tmp_path / "x.npy", mmap_mode="r")), DENSE(np.asarray(matrix))
    )


@pytest.mark.parametrize("images", [[[1.0]], None, "image.png"])
def test_predict_and_evaluate_refuse_what_is_no_array(images):
    with pytest.raises(TypeError, match=r"^predict: images: expected a NumPy or CuPy array"):
        MLP(rng=0).predict(images)
    with pytest.raises(TypeError, match=r"^evaluate: images: expected a NumPy or CuPy array"):
        evaluate(MLP(rng=0), images, LABELS)


def test_pixels_up_to_255_are_told_once_where_they_come_in():
    network, labels = MLP(rng=0), np.array([0, 1, 2])
    source, adam = OneProcess(network), Adam(network, 1e-9)
    with pytest.warns(UserWarning, match="train_step: the pixels run up to 25.*, expected 0 to 1; divide"):
        train_step(source, adam, 255 * FLOATS, labels)
    train_step(source, adam, 255 * FLOATS, labels)  # warnings are errors in tests, so there is none
    with pytest.warns(UserWarning, match="predict: the pixels run up to 25"):
        network.predict(255 * FLOATS)
    for images in (FLOATS, (FLOATS - 0.5) * 4, (255 * FLOATS).astype(np.uint8)):
        network.predict(images)


def test_the_four_kinds_of_a_wrong_prediction_are_told_apart():
    layer = DENSE
    for x, error, message in [
        (np.ones((2, 4), np.float32), ValueError, "x has shape (2, 4), expected (B, 3); axis 1 (features N)"),
        (np.ones(3, np.float32), ValueError, "x has shape (3,), expected (B, 3); it has 1 axes, not 2"),
        (np.ones((2, 3)), TypeError, "x has dtype float64, but the parameters are float32; convert one of"),
        (np.ones((2, 3), np.uint8), TypeError, "(and divide 8-bit pixels by 255)"),
    ]:  # fmt: skip
        with pytest.raises(error, match=re.escape(message)):
            layer.forward(x)


def test_what_a_prediction_has_to_agree_with_is_named():
    one, other = np.ones((2, 3), np.float32), np.ones((2, 3))
    for call, message in [
        (lambda: Given().forward(one[..., None], other), "a has dtype float64, but v is float32"),
        (lambda: ReconstructionLoss().forward(one, other), "target has dtype float64, but the prediction is"),
        (lambda: LayerNorm(3).backward(other, LayerNorm(3).forward(one)[1]), "dy has .*, but the output is"),
        (lambda: SpreadLoss().forward(one, [0, 1]), "labels: expected an array, got list; make"),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\), expected \(B, …, 7\); axis 2"):
        LayerNorm(7).forward(np.ones((2, 5, 3), np.float32))


def test_gradcheck_refuses_float32_and_what_is_no_array():
    with pytest.raises((TypeError, ValueError), match="float64"):
        gradcheck(Dense(3, 2, rng=0), [np.ones((2, 3), np.float32)])
    with pytest.raises(TypeError, match="tuple"):
        gradcheck(Dense(3, 2, rng=0, dtype=np.float64), [[[1.0, 2.0, 3.0]]])


def test_elementwise_layers_take_any_number_of_axes():
    for layer in (ReLU(), Sigmoid(), Squash()):
        for shape in ((2,), (2, 3), (2, 3, 4, 5, 6)):
            assert layer(np.ones(shape, np.float32)).shape == shape
