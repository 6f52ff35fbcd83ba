"""Checks of arguments take numbers and arrays of any library."""

import jax.numpy as jnp
import numpy as np
import pytest

from fitting import arguments


def test_numbers_of_any_library_are_numbers():
    for number in (2, 2.0, np.float32(2), np.int64(2), jnp.float32(2), np.array(2.0)):
        assert arguments.positive("x", number) == 2.0
        assert isinstance(arguments.positive("x", number), float)
    assert type(arguments.positive_int("n", np.int32(3))) is int
    for array in ([1, 2], (True, False), jnp.ones(2, "bfloat16"), np.ones(2, "uint8")):
        assert arguments.finite_array("x", array).shape == (2,)
    long = "x" * 100
    with pytest.raises(TypeError, match=r"got 'x{50,56}\.\.\.$"):
        arguments.positive("x", long)
