"""Tables: numbers as a reader wants them, and refused rows."""

import re

import jax.numpy as jnp
import pypandoc
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


@pytest.mark.parametrize(
    ("cells", "dashes"),
    [
        (["off", "good"], ":--"),
        (["off", "off"], ":--"),
        (["`mu`", "`x`"], ":--"),
        (["no", 3], ":--"),
        (["240 B", "2.4 MB"], "--:"),
        (["1.2 (0.9 to 1.4)", "NaN"], "--:"),
        ([9.94e-5, float("inf")], "--:"),
        (["", 3.0], "--:"),
    ],
)
def test_words_are_aligned_left_and_numbers_right(cells, dashes):
    rows = [{"site": "a", "column": cell} for cell in cells]
    head = tables.table(rows).data.splitlines()[1]
    assert head == f"| :-- | {dashes} |"


def test_columns_of_a_wide_table_are_as_wide_as_their_content():
    says = "the posterior is far from the guide in one direction of several"
    rows = [{"verdict": "off", "largest ratio of sds": 9.94e-5, "why": says}] * 2
    text = tables.table(rows).data
    verdict, ratio, why = map(len, text.splitlines()[1].strip("| ").split(" | "))
    assert (verdict, ratio, why) == (7, 10, len(says))
    page = pypandoc.convert_text(text, "html", format="markdown")
    widths = [int(width) for width in re.findall(r"width: (\d+)%", page)]
    assert widths == [100 * w // (7 + 10 + len(says)) for w in (verdict, ratio, why)]

    narrow = [{"verdict": "off", "sds": 1.0, "why": "narrow"}] * 2
    page = pypandoc.convert_text(tables.table(narrow).data, "html", format="markdown")
    assert "width" not in page
