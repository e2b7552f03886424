"""The classifier with fit and predict: its conventions, alone and with scikit-learn."""

import pickle
import random

import numpy as np
import pytest

from minicaps import CapsNetClassifier, build, save
from minicaps.conventions import NotFittedError, generators_of

QUICK = {"preset": "tiny", "epochs": 3, "batch_size": 20, "random_state": 0}


def bars(count=60, side=8, seed=0):
    """Return images (N, side, side) of standing, lying and crossed bars, and their names."""
    rng = np.random.default_rng(seed)
    kinds, images = rng.integers(0, 3, count), np.zeros((count, side, side))
    for image, kind in zip(images, kinds, strict=True):
        k = rng.integers(2, side - 2)
        if kind in (0, 2):
            image[1:-1, k] = 1
        if kind in (1, 2):
            image[k, 1:-1] = 1
    return images, np.array(["standing", "lying", "crossed"])[kinds]


@pytest.fixture(scope="module")
def fitted():
    images, labels = bars()
    return CapsNetClassifier(**QUICK | {"epochs": 40}).fit(images, labels)


def test_it_learns_and_names_what_it_was_taught(fitted):
    images, labels = bars(90, seed=1)
    assert fitted.score(images, labels) > 0.9
    assert fitted.classes_.tolist() == ["crossed", "lying", "standing"]
    assert fitted.predict(images).dtype == fitted.classes_.dtype
    assert fitted.n_features_in_ == 64 and fitted.n_iter_ == len(fitted.history_) == 40
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"] / 3


def test_scores_probabilities_and_poses_belong_together(fitted):
    images, _ = bars(7, seed=2)
    lengths, shares, poses = (
        getattr(fitted, name)(images) for name in ("decision_function", "predict_proba", "transform")
    )
    assert lengths.shape == shares.shape == (7, 3) and (lengths >= 0).all() and (lengths < 1).all()
    np.testing.assert_allclose(shares, lengths / lengths.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(poses.reshape(7, 3, -1), axis=2), lengths, rtol=1e-5)
    np.testing.assert_array_equal(fitted.classes_[lengths.argmax(axis=1)], fitted.predict(images))


def test_of_two_classes_the_decision_is_one_number_whose_sign_decides():
    images, labels = bars()
    two = labels != "crossed"
    classifier = CapsNetClassifier(**QUICK).fit(images[two], labels[two])
    decision = classifier.decision_function(images)
    assert decision.shape == (len(images),)
    np.testing.assert_array_equal(classifier.classes_[(decision > 0).astype(int)], classifier.predict(images))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (255 * x).astype(np.uint8),
        lambda x: x[..., None],
        lambda x: x.reshape(len(x), -1),
        lambda x: x.astype(np.float32),
        lambda x: x.tolist(),
        lambda x: x.astype(bool),
        lambda x: 16 * x,
        lambda x: 6 * x - 3,
    ],
)
def test_images_of_any_form_are_the_same_images(change):
    images, labels = bars(40)
    expected = CapsNetClassifier(**QUICK).fit(images, labels).decision_function(images)
    classifier = CapsNetClassifier(**QUICK).fit(change(images), labels)
    np.testing.assert_allclose(classifier.decision_function(change(images)), expected, atol=2e-4)


def test_flat_images_that_are_no_squares_have_a_shape_or_are_rows():
    images, labels = bars(40)
    oblong = images[:, 1:]  # (N, 7, 8)
    expected = CapsNetClassifier(**QUICK).fit(oblong, labels).predict_proba(oblong)
    flat = oblong.reshape(40, -1)
    shaped = CapsNetClassifier(**QUICK, image_shape=(7, 8)).fit(flat, labels)
    np.testing.assert_array_equal(shaped.predict_proba(flat), expected)
    rows = CapsNetClassifier(**QUICK, shift=0).fit(flat, labels)
    assert rows.network_.image_shape == (20, 56, 1)
    colours = CapsNetClassifier(**QUICK).fit(np.stack([images] * 3, axis=-1), labels)
    assert colours.network_.image_shape == (24, 24, 3)


@pytest.mark.parametrize(
    "labels", [np.arange(40) % 3 * 10 - 5, np.arange(40) % 2 == 0, (np.arange(40) % 3) / 1.0]
)
def test_labels_of_any_kind_come_back_as_they_were(labels):
    images, _ = bars(40)
    found = CapsNetClassifier(**QUICK).fit(images, labels).predict(images)
    assert found.dtype == labels.dtype and set(found.tolist()) <= set(labels.tolist())


def test_the_same_random_state_gives_the_same_bits_and_leaves_other_generators_alone():
    images, labels = bars(40)
    state = random.getstate()
    one, other = (CapsNetClassifier(**QUICK).fit(images, labels).decision_function(images) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert random.getstate() == state
    another = CapsNetClassifier(**QUICK | {"random_state": 1}).fit(images, labels).decision_function(images)
    assert np.abs(another - one).max() > 1e-3
    generators = (CapsNetClassifier(**QUICK | {"random_state": np.random.RandomState(3)}) for _ in range(2))
    one, other = (classifier.fit(images, labels).decision_function(images) for classifier in generators)
    np.testing.assert_array_equal(one, other)


def test_early_stopping_keeps_the_best_weights():
    images, labels = bars(120)
    options = QUICK | {
        "epochs": 60,
        "validation_fraction": 0.25,
        "early_stopping": True,
        "n_iter_no_change": 3,
    }
    classifier = CapsNetClassifier(**options).fit(images, labels)
    accuracies = [row["validation_accuracy"] for row in classifier.history_]
    assert classifier.n_iter_ < 60 and classifier.n_iter_ == 1 + np.argmax(accuracies) + 3
    order = generators_of(0)[1].permutation(120)[:30]
    assert classifier.score(images[order], labels[order]) == max(accuracies)


def test_a_saved_classifier_is_the_same(fitted, tmp_path):
    images, _ = bars(5, seed=4)
    fitted.save(tmp_path / "bars.npz")
    loaded = CapsNetClassifier.load(tmp_path / "bars.npz")
    copied = pickle.loads(pickle.dumps(fitted))
    for other in (loaded, copied):
        np.testing.assert_array_equal(other.predict_proba(images), fitted.predict_proba(images))
        assert other.get_params() == fitted.get_params() and other.history_ == fitted.history_
    with pytest.raises(NotFittedError):
        CapsNetClassifier().save(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        CapsNetClassifier.load(tmp_path / "none.npz")


def test_a_file_of_something_else_is_refused(tmp_path):
    save(tmp_path / "net.npz", build("mlp", rng=0))
    with pytest.raises(ValueError, match="not a classifier that this minicaps can read"):
        CapsNetClassifier.load(tmp_path / "net.npz")


def test_parameters_are_read_set_and_shown():
    classifier = CapsNetClassifier(preset="tiny", shift=2)
    assert repr(classifier) == "CapsNetClassifier(preset='tiny', shift=2)"
    assert classifier.set_params(shift=0, epochs=4) is classifier and classifier.get_params()["epochs"] == 4
    with pytest.raises(ValueError, match="no parameter 'shifts'"):
        classifier.set_params(shifts=1)


def test_verbose_prints_a_line_for_each_epoch(capsys):
    images, labels = bars(20)
    CapsNetClassifier(**QUICK, verbose=1).fit(images, labels)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("epoch 1/3: loss ")


IMAGES, LABELS = bars(20)


@pytest.mark.parametrize(
    ("X", "y", "says"),
    [
        (IMAGES[0, 0], LABELS, "X has shape (8,)"),
        (IMAGES[:1], LABELS[:1], "minimum of 2 is required"),
        (IMAGES, LABELS[:7], "y has shape (7,), expected (20,)"),
        (IMAGES, None, "the target y is None"),
        (IMAGES, np.linspace(0, 1, 20), "continuous"),
        (IMAGES, np.zeros(20), "y has one class, 0.0; expected at least two"),
        (IMAGES * np.nan, LABELS, "NaN or infinity"),
        (IMAGES + 1j, LABELS, "Complex data not supported"),
        (np.array([["a"] * 4] * 20), LABELS, "X has dtype <U1, expected numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(X, y, says):
    with pytest.raises(ValueError) as error:
        CapsNetClassifier(**QUICK).fit(X, y)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"shift": -1}, "shift is -1"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0, expected 0 to below 1"),
        ({"early_stopping": True}, "early_stopping needs it"),
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"image_shape": (3, 3)}, "X has 64 features, but image_shape is (3, 3)"),
    ],
)
def test_parameters_without_sense_are_refused_by_fit(options, says):
    classifier = CapsNetClassifier(**QUICK | options)
    with pytest.raises(ValueError) as error:
        classifier.fit(IMAGES.reshape(20, -1), LABELS)
    assert says in str(error.value)


def test_it_says_that_it_is_not_fitted_and_how_many_features_it_expects(fitted):
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        with pytest.raises((ValueError, AttributeError), match="not fitted yet"):
            getattr(CapsNetClassifier(), method)(IMAGES)
    with pytest.raises(ValueError, match="X has 9 features, but CapsNetClassifier is expecting 64"):
        fitted.predict(np.zeros((2, 9)))


# -- with scikit-learn ------------------------------------------------------------------------

EXPECTED = {
    "check_methods_sample_order_invariance": "float32: a sample's numbers vary by 1e-7 with its place",
}


def sklearn(name):
    return pytest.importorskip(f"sklearn.{name}", reason="needs scikit-learn: pip install minicaps[sklearn]")


@pytest.mark.filterwarnings("ignore:Estimator CapsNetClassifier does not inherit")  # it needs no scikit-learn
def test_the_checks_of_scikit_learn_pass_but_for_those_that_are_expected():
    checks = sklearn("utils.estimator_checks")
    options = {
        "preset": "tiny",
        "epochs": 30,
        "batch_size": 20,
        "shift": 0,
        "learning_rate": 0.01,
        "random_state": 0,
    }
    results = checks.check_estimator(
        CapsNetClassifier(**options), expected_failed_checks=EXPECTED, on_fail=None, on_skip=None
    )
    failed = [
        (result["check_name"], result["exception"]) for result in results if result["status"] == "failed"
    ]
    assert failed == []
    assert sum(result["status"] == "passed" for result in results) > 45


def test_it_works_in_a_pipeline_a_search_and_cross_validation():
    selection, pipeline = sklearn("model_selection"), sklearn("pipeline")
    base, preprocessing = sklearn("base"), sklearn("preprocessing")
    images, labels = bars(60)
    flat = images.reshape(60, -1)
    copy = base.clone(CapsNetClassifier(**QUICK, image_shape=(8, 8)))
    assert copy.get_params() == CapsNetClassifier(**QUICK, image_shape=(8, 8)).get_params()
    scores = selection.cross_val_score(CapsNetClassifier(**QUICK | {"epochs": 30}), flat, labels, cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.6  # a third by chance
    search = selection.GridSearchCV(CapsNetClassifier(**QUICK), {"epochs": [1, 20]}, cv=2).fit(flat, labels)
    assert search.best_params_ == {"epochs": 20}
    whole = pipeline.make_pipeline(preprocessing.StandardScaler(), CapsNetClassifier(**QUICK)).fit(
        flat, labels
    )
    assert whole.predict(flat).shape == (60,) and base.is_classifier(whole)


def test_the_digits_of_scikit_learn_are_read_without_an_option():
    datasets, selection = sklearn("datasets"), sklearn("model_selection")
    X, y = datasets.load_digits(return_X_y=True)
    X, X_test, y, y_test = selection.train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
    assert CapsNetClassifier(random_state=0).fit(X, y).score(X_test, y_test) >= 0.97
