"""Tables: numbers as a reader wants them, and refused rows."""

import jax.numpy as jnp
import pytest

from helpers import tables


def test_table_shows_numbers_and_refuses_ragged_rows():
    rows = [
        {"fit": "a", "n": 1_000, "KL": 0.046094, "sd": 1.0},
        {"fit": "b", "n": 2, "KL": 9.94e-5, "sd": -0.361},
    ]
    lines = tables.table(rows).data.splitlines()
    assert lines[0] == "| fit | n | KL | sd |"
    assert lines[1] == "| :-- | --: | --: | --: |"
    assert lines[2] == "| a | 1,000 | 0.0461 | 1.00 |"
    assert lines[3] == r"| b | 2 | $9.94 \times 10^{-5}$ | −0.361 |"
    (scalar,) = tables.table([{"x": jnp.asarray(0.5)}], digits=2).data.splitlines()[2:]
    assert scalar == "| 0.50 |"
    worded = {"a": 1, "from": "memory", "nats": "NaN", "KL": 9.94e-5}
    head = tables.table([worded, worded | {"from": 3}]).data.splitlines()[1]
    assert head == "| :-- | :-- | --: | --: |"
    with pytest.raises(ValueError, match="rows: expected at least one, got none"):
        tables.table([])
    with pytest.raises(ValueError, match=r"rows\[1\]: expected keys \['a'\]"):
        tables.table([{"a": 1}, {"b": 1}])
