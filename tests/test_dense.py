"""What the contract tests leave open about the plain layers: the kink of the rectifier."""

import numpy as np

from minicaps import ReLU


def test_the_rectifier_passes_no_gradient_at_0():
    x = np.array([[-1.0, 0.0, 2.0]])
    y, cache = ReLU().forward(x)
    np.testing.assert_array_equal(y, [[0, 0, 2]])
    np.testing.assert_array_equal(ReLU().backward(np.full_like(x, 3.0), cache), [[0, 0, 3]])
