"""A classifier with fit and predict, after scikit-learn's conventions and without needing scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_positive, check_whole
from minicaps.conventions import Estimator, generators_of, not_fitted, warn_of_column
from minicaps.datasets import ImageForm, check_classes, check_numbers
from minicaps.networks import Network, build, files
from minicaps.training import fit_epochs

Self = TypeVar("Self", bound="CapsNetClassifier")
LEAST_STEPS = 600  # of a training whose epochs are not given


class CapsNetClassifier(Estimator):
    r"""A CapsNet that is fitted to arrays and predicts labels.

    Parameters
    ----------
    preset : {"small", "tiny", "paper"}
        Sizes of the network.
    image_shape : (int, int) or (int, int, int), optional
        Height, width and channels of images that come flat, as (N, features). By default a square where the
        number of features is one, and else a single row.
    epochs : int, optional
        How often each image is trained on; by default as often as makes 600 steps or more, 12 at least.
    batch_size : int
    learning_rate : float
        The largest; it rises in the first steps and then falls along a cosine.
    iterations : int
        Of the routing.
    decoder : bool
        Whether the network learns to draw its images, too.
    shift : int
        Training images are moved by up to so many pixels. 0 for what is no picture.
    validation_fraction : float
        Share of the images, 0 to below 1, that is kept apart to validate.
    early_stopping : bool
        Whether to stop where the validation accuracy has not improved for `n_iter_no_change` epochs, and to
        keep the best weights. Without it the last weights are kept.
    n_iter_no_change : int
    random_state : int, numpy.random.RandomState or None
        The same gives the same weights, bit for bit.
    verbose : bool or int
        Whether to print a line for each epoch.

    Attributes
    ----------
    classes_ : array (J,)
        The labels, sorted.
    n_features_in_ : int
        Numbers of an image.
    network_ : CapsNet
    history_ : list of dict
        Of each epoch: loss, accuracy and, where images are kept apart, validation_accuracy.
    n_iter_ : int
        Epochs trained.

    Notes
    -----
    8-bit images are 0 to 255, images of floats 0 to 1. Floats that reach beyond are scaled by the least and
    the largest number of the training images. Images with a side below 20 pixels are enlarged.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((40, 8, 8))
    >>> images[:20, 1:7, 3:5] = images[20:, 3:5, 1:7] = 1
    >>> labels = ["standing"] * 20 + ["lying"] * 20
    >>> classifier = CapsNetClassifier(preset="tiny", epochs=20, random_state=0).fit(images, labels)
    >>> classifier.predict(images[[0, -1]])
    array(['standing', 'lying'], dtype='<U8')
    """

    def __init__(
        self,
        preset: str = "small",
        *,
        image_shape: tuple[int, ...] | None = None,
        epochs: int | None = None,
        batch_size: int = 100,
        learning_rate: float = 0.004,
        iterations: int = 3,
        decoder: bool = True,
        shift: int = 1,
        validation_fraction: float = 0.0,
        early_stopping: bool = False,
        n_iter_no_change: int = 5,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.preset = preset
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.iterations = iterations
        self.decoder = decoder
        self.shift = shift
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    # -- training ------------------------------------------------------------------------------

    def fit(self: Self, X: Any, y: Any) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array (N, H, W), (N, H, W, C) or (N, features)
            Images, 8-bit or floats from 0 to 1.
        y : array (N,)
            Labels of any kind that can be sorted.

        Raises
        ------
        ValueError
            If X or y are not of this form, or a parameter makes no sense.
        """
        self._check_params()
        where = f"{type(self).__name__}.fit"
        X = check_numbers(where, X, least=2)
        labels = check_classes(where, y, len(X))
        if np.asarray(y).ndim == 2:
            warn_of_column(where)
        self.classes_, targets = np.unique(labels, return_inverse=True)  # (J,), (N,)
        if len(self.classes_) < 2:
            raise ValueError(f"{where}: y has one class, {self.classes_[0]}; expected at least two")
        self.n_features_in_, self._form = math.prod(X.shape[1:]), ImageForm.of(where, X, self.image_shape)
        images = self._form.images(X)  # (N, H, W, C)
        weights_rng, rng = generators_of(self.random_state)
        self.network_ = self._build(images.shape[1:], weights_rng)
        order, count = rng.permutation(len(images)), round(self.validation_fraction * len(images))
        kept, trained = order[:count], order[count:]
        validation = (images[kept], targets[kept]) if count else None
        self.history_ = list(self._train(images[trained], targets[trained], validation, rng))
        self.n_iter_ = len(self.history_)
        return self

    def _check_params(self) -> None:
        name, epochs = type(self).__name__, 1 if self.epochs is None else self.epochs
        check_positive(
            name, epochs=epochs, batch_size=self.batch_size, n_iter_no_change=self.n_iter_no_change
        )
        check_whole(name, 0, shift=self.shift)
        share, stops = self.validation_fraction, self.early_stopping
        if not 0 <= share < 1 or (stops and share == 0):
            least = "above 0, since early_stopping needs it," if stops else "0"
            raise ValueError(f"{name}: validation_fraction is {share!r}, expected {least} to below 1")

    def _build(self, image_shape: tuple[int, ...], rng: np.random.Generator | None = None) -> Network:
        options = {"classes": len(self.classes_), "iterations": self.iterations, "decoder": self.decoder}
        return build("capsnet", self.preset, rng=rng, image_shape=image_shape, **options)

    def _train(
        self, images: Array, targets: Array, validation: tuple[Array, Array] | None, rng: np.random.Generator
    ) -> Iterator[dict[str, float]]:
        """Train the network, and yield the numbers of every epoch."""
        network, each = self.network_, math.ceil(len(images) / min(self.batch_size, len(images)))
        epochs = self.epochs or max(12, math.ceil(LEAST_STEPS / each))
        options: Any = {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "shift": self.shift,
        }
        training = fit_epochs(network, images, targets, rng, epochs=epochs, **options)
        best, best_epoch, best_state = -1.0, 0, network.state()
        for epoch, row in enumerate(training, start=1):
            if validation is not None:
                found = _lengths(network, validation[0]).argmax(axis=1)  # (N,)
                row["validation_accuracy"] = float((found == validation[1]).mean())
                if row["validation_accuracy"] > best:
                    best, best_epoch = row["validation_accuracy"], epoch
                    best_state = network.state() if self.early_stopping else best_state
            if self.verbose:
                numbers = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
                print(f"epoch {epoch}/{epochs}: {numbers}", flush=True)
            yield row
            if self.early_stopping and epoch - best_epoch >= self.n_iter_no_change:
                training.close()  # which leaves its loop over epochs
        if self.early_stopping:
            network.load_state(best_state)

    # -- what a fitted classifier knows --------------------------------------------------------

    def decision_function(self, X: Any) -> Array:
        """Return the lengths (N, J) of the class capsules, 0 to 1.

        Of two classes, the second's share of both lengths minus the first's (N,), as is the convention.
        """
        lengths = self._fitted_lengths(X)
        return self.predict_proba(X) @ [-1.0, 1.0] if lengths.shape[1] == 2 else lengths

    def predict_proba(self, X: Any) -> Array:
        """Return the lengths divided by their sum (N, J): shares, not calibrated as probabilities."""
        lengths = self._fitted_lengths(X) + 1e-12
        return lengths / lengths.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """Return the label (N,) of the longest capsule."""
        lengths = self._fitted_lengths(X)  # says first whether it is fitted
        return self.classes_[lengths.argmax(axis=1)]

    def transform(self, X: Any) -> Array:
        """Return the class capsules, one after another (N, J·E): the poses, whose lengths are the scores."""
        images = self._fitted_images(X)
        network = self.network_.for_inference()
        parts = [network(images[k : k + 100])[0] for k in range(0, len(images), 100)]  # each (B, J, E)
        dtype = np.float64 if np.asarray(X).dtype == np.float64 else np.float32
        return np.concatenate(parts).reshape(len(images), -1).astype(dtype)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, 0 to 1."""
        found = self.predict(X)
        labels = check_classes(type(self).__name__, y, len(found))
        return float(np.average(found == labels, weights=sample_weight))

    def _fitted_lengths(self, X: Any) -> Array:
        images = self._fitted_images(X)
        return _lengths(self.network_, images)

    def _fitted_images(self, X: Any) -> Array:
        """Return X as the images (N, H, W, C) that the network takes."""
        name = type(self).__name__
        if not hasattr(self, "network_"):
            raise not_fitted(name)
        features = math.prod((X := check_numbers(name, X)).shape[1:])
        if features != self.n_features_in_:
            expected = f"{name} is expecting {self.n_features_in_} features as input"
            raise ValueError(f"X has {features} features, but {expected}")
        return self._form.images(X)

    # -- files ---------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted classifier to a file; ``load`` reads it.

        Raises
        ------
        ValueError
            If it is not fitted.
        TypeError
            If labels or parameters are neither numbers nor text.
        """
        if not hasattr(self, "network_"):
            raise not_fitted(type(self).__name__)
        if self.classes_.dtype.kind not in "biufU":
            where = f"{type(self).__name__}.save"
            raise TypeError(f"{where}: labels of {self.classes_.dtype}, expected numbers or text")
        params = self.get_params()
        if isinstance(params["random_state"], np.random.RandomState):
            params["random_state"] = None
        classes = self.classes_.tolist(), self.classes_.dtype.str
        fitted = {"form": self._form, "n_features": self.n_features_in_, "history": self.history_}
        files.write(path, self.network_.state(), {"params": params, "classes": classes, "fitted": fitted})

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, or not of a classifier.
        """
        arrays, description = files.read(path)
        try:
            params, fitted = description["params"], description["fitted"]
            shape, (image_shape, *numbers) = params["image_shape"], fitted["form"]
            self = cls(**{**params, "image_shape": None if shape is None else tuple(shape)})
            self.classes_ = np.array(*description["classes"])  # (J,)
            self._form = ImageForm(tuple(image_shape), *map(float, numbers))
            self.n_features_in_, self.history_ = int(fitted["n_features"]), fitted["history"]
            self.n_iter_ = len(self.history_)
            empty = self._form.images(np.zeros((1, self.n_features_in_)))  # (1, H, W, C)
            self.network_ = self._build(empty.shape[1:])
            self.network_.load_state(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a classifier that this minicaps can read ({error})") from None
        return self


def _lengths(network: Network, images: Array) -> Array:
    """Return the lengths (N, J) of the class capsules."""
    network = network.for_inference()
    parts = [network.scores(network(images[k : k + 100])) for k in range(0, len(images), 100)]
    return np.concatenate(parts).astype(np.float64)
