"""What scikit-learn asks of an estimator, without needing scikit-learn.

References
----------
`Developing scikit-learn estimators <https://scikit-learn.org/stable/developers/develop.html>`_.
"""

from __future__ import annotations

import sys
import warnings
from inspect import signature
from typing import Any, TypeVar

import numpy as np

Self = TypeVar("Self", bound="Estimator")


class NotFittedError(ValueError, AttributeError):
    """An estimator was asked before ``fit``."""


def not_fitted(name: str) -> Exception:
    """Return the error for it: scikit-learn's own where that is in use."""
    error = _theirs("NotFittedError", NotFittedError)
    return error(f"this {name} instance is not fitted yet; call fit(X, y) first")


def warn_of_column(where: str) -> None:
    """Warn that labels came as a column (N, 1)."""
    text = f"A column-vector y was passed when a 1d array was expected; {where} takes y.ravel()"
    warnings.warn(text, _theirs("DataConversionWarning", UserWarning), stacklevel=3)


def generators_of(random_state: Any) -> list[np.random.Generator]:
    """Return two generators, of first weights and of the order, from a number, None or an old generator."""
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    entropy = None if random_state is None else int(random_state)
    return [np.random.default_rng(seed) for seed in np.random.SeedSequence(entropy).spawn(2)]


def _theirs(name: str, ours: type) -> Any:
    """Return scikit-learn's exception of this name where it is in use, or ours."""
    return getattr(sys.modules.get("sklearn.exceptions"), name, ours)


class Estimator:
    """A classifier whose parameters are the arguments of its constructor, kept as attributes."""

    _estimator_type = "classifier"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor by name."""
        names = list(signature(type(self)).parameters)
        return {name: getattr(self, name) for name in names}

    def set_params(self: Self, **params: Any) -> Self:
        """Set some of them, and return self.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(
                    f"{type(self).__name__}: no parameter {name!r}; there are {list(self.get_params())}"
                )
            setattr(self, name, value)
        return self

    def fit_transform(self, X: Any, y: Any) -> Any:
        """Fit, and return what ``transform`` makes of the same samples."""
        return self.fit(X, y).transform(X)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        defaults = signature(type(self)).parameters
        changed = {k: v for k, v in self.get_params().items() if not _same(v, defaults[k].default)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def __sklearn_tags__(self) -> Any:
        """Return what kind of estimator it is; only scikit-learn calls this."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=TransformerTags(),
            classifier_tags=ClassifierTags(),
            regressor_tags=None,
            input_tags=InputTags(three_d_array=True),
        )


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))
