import numpy as np
import pandas as pd
import pytest

from helpers.panels import number_groups, to_panel

FRAME = pd.DataFrame(
    {
        "shop": ["b", "a", "b", "c"],
        "week": [3, 3, 1, 1],
        "sales": [5, 0, 7, 2],
        "price": [1.5, 2.0, 1.0, 0.5],
    }
)


def test_groups_get_numbers_in_the_order_of_their_names():
    codes, levels = number_groups(FRAME["shop"])
    assert levels.tolist() == ["other", "a", "b", "c"]
    assert codes.tolist() == [2, 1, 2, 3]
    assert codes.dtype == "int32"


def test_new_and_missing_groups_get_number_0():
    codes, levels = number_groups(["a", None, "b", np.nan])
    assert codes.tolist() == [1, 0, 2, 0]
    new, same = number_groups(["c", "b", None], levels)
    assert new.tolist() == [0, 2, 0]
    assert same.tolist() == levels.tolist()


def test_numbers_can_be_names():
    codes, levels = number_groups(np.array([30, 10, 30]))
    assert levels.tolist() == ["other", 10, 30]
    assert codes.tolist() == [2, 1, 2]
    assert number_groups(pd.Series([10, 20]), levels)[0].tolist() == [1, 0]


def test_levels_find_names_of_another_container():
    days = pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"]))
    _, levels = number_groups(days)
    for unit in ("ns", "D", "s"):
        array = days.to_numpy().astype(f"datetime64[{unit}]")
        assert number_groups(array, levels)[0].tolist() == [1, 2]
    _, levels = number_groups([10, 20])
    assert number_groups(np.array([20.0, np.nan, 10.0]), levels)[0].tolist() == [
        2,
        0,
        1,
    ]


def test_categories_that_do_not_occur_are_no_levels():
    column = pd.Series(["x", "y"], dtype="category")[:1]
    assert number_groups(column)[1].tolist() == ["other", "x"]


@pytest.mark.parametrize(
    ("column", "levels", "message"),
    [
        (FRAME[["shop"]], None, "column: expected one dimension, got 2"),
        (["other", "a"], None, "column: expected no 'other'"),
        (["a"], ["a", "b"], "'other' first"),
        (["a"], ["other", "a", "a"], "different names"),
        (["a"], [], "'other' first"),
        (["a", 1], None, "column: expected names of one kind, got number, str"),
        (["10"], ["other", 10], "column: expected names of the kind of the levels"),
        (["a"], "other", "levels: expected a sequence"),
    ],
)
def test_bad_groups(column, levels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        number_groups(column, levels)


def test_rows_find_their_place():
    panel = to_panel(FRAME, "shop", "week", ["sales", "price"])
    assert panel.groups.tolist() == ["a", "b", "c"]
    assert panel.times.tolist() == [1, 3]
    assert panel.seen.tolist() == [[False, True], [True, True], [True, False]]
    assert panel.values["sales"].tolist() == [[0, 0], [7, 5], [2, 0]]
    assert panel.values["sales"].dtype == "int32"
    assert panel.values["price"].dtype == "float32"


def test_categories_are_sorted_by_name():
    shops = pd.Categorical(FRAME["shop"], categories=["c", "b", "a"])
    panel = to_panel(FRAME.assign(shop=shops), "shop", "week", ["sales"])
    assert panel.groups.tolist() == ["a", "b", "c"]
    assert panel.values["sales"].tolist() == [[0, 0], [7, 5], [2, 0]]


def test_columns_are_a_list():
    with pytest.raises(TypeError, match="columns: expected a list of names"):
        to_panel(FRAME, "shop", "week", "sales")


def test_the_order_of_rows_does_not_matter():
    one, other = (
        to_panel(frame, "shop", "week", ["sales"]) for frame in (FRAME, FRAME[::-1])
    )
    np.testing.assert_array_equal(one.values["sales"], other.values["sales"])


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (
            FRAME.to_dict(),
            TypeError,
            "frame: expected a pandas DataFrame, got builtins.dict",
        ),
        (FRAME.drop(columns="week"), ValueError, "expected a column 'week', got"),
        (pd.concat([FRAME, FRAME[:1]]), ValueError, "several for shop b, week 3; add"),
        (FRAME.assign(sales=[1, np.nan, 2, 3]), ValueError, "'sales' has 1 missing"),
        (FRAME.assign(sales=list("abcd")), TypeError, "real numbers in column 'sales'"),
        (FRAME.assign(sales=list("1234")), TypeError, "real numbers in column 'sales'"),
        (
            FRAME.assign(sales=[1j, 1, 2, 3]),
            TypeError,
            "real numbers in column 'sales'",
        ),
        (FRAME.assign(sales=[1.0, 2, 3, 1e39]), ValueError, "too large for float32"),
        (pd.concat([FRAME, FRAME["sales"]], axis=1), ValueError, "one column 'sales'"),
        (FRAME.assign(sales=[1, 2, 3, 2**40]), ValueError, "too large for int32"),
        (FRAME.assign(shop=["a", None, "b", "c"]), ValueError, "'shop' has 1 missing"),
    ],
)
def test_bad_frames(frame, error, message):
    with pytest.raises(error, match=message):
        to_panel(frame, "shop", "week", ["sales"])


@pytest.mark.parametrize(
    ("values", "dtype"), [([1, None], "Int64"), (["a", None], "string")]
)
def test_gaps_of_every_kind_get_number_0(values, dtype):
    column = pd.Series(values, dtype=dtype)
    codes, levels = number_groups(column)
    assert codes.tolist() == [1, 0]
    assert number_groups(column, levels)[0].tolist() == [1, 0]


DAYS = pd.DataFrame(
    {
        "shop": ["a", "b", "a"],
        "day": pd.to_datetime(["2024-01-22", "2024-01-01", "2024-01-08"]),
        "sales": [1.0, 2.0, 0.0],
        "open": [True, False, True],
    }
)


def test_even_steps_keep_times_that_nobody_has():
    panel = to_panel(
        DAYS, "shop", "day", ["sales", "open"], every="7D", counts=["sales"]
    )
    assert (
        panel.times.tolist()
        == pd.date_range("2024-01-01", periods=4, freq="7D").tolist()
    )
    np.testing.assert_array_equal(panel.seen, [[0, 1, 0, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(panel.values["sales"], [[0, 0, 0, 1], [2, 0, 0, 0]])
    assert panel.values["sales"].dtype == np.int32
    np.testing.assert_array_equal(panel.values["open"], [[0, 1, 0, 1], [0, 0, 0, 0]])


def test_even_steps_of_numbers():
    frame = DAYS.assign(day=[7, 1, 3])
    panel = to_panel(frame, "shop", "day", ["sales"], every=2)
    assert panel.times.tolist() == [1, 3, 5, 7]
    assert to_panel(frame[:0], "shop", "day", ["sales"], every=2).seen.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "more", "error", "message"),
    [
        ({"sales": [1, -1, 0.5]}, {}, ValueError, "'sales', got -1 and 1 more"),
        (
            {"day": pd.to_datetime(["2024-01-22", "2024-01-01", "2024-01-09"])},
            {},
            ValueError,
            "got 2024-01-09 00:00:00 and 0 more that lie between",
        ),
        ({"day": ["x", "y", "z"]}, {}, TypeError, "dates or numbers in column 'day'"),
        ({}, {"every": "week"}, ValueError, "every: expected a length of time"),
        ({}, {"every": 7}, ValueError, "every: expected a length of time"),
        ({}, {"every": "-7D"}, ValueError, "every: expected a length of time"),
        (
            {"day": [1, 2, 3]},
            {"every": 0},
            ValueError,
            "every: expected a number above",
        ),
        ({"day": [1, 2, 3]}, {"every": "1D"}, ValueError, "every: expected a number"),
        ({"day": [1, 2, 3]}, {"every": float("inf")}, ValueError, "a number above 0"),
        (
            {"day": pd.to_datetime(["2024-01-22", "1970-01-05", "2024-01-08"])},
            {},
            ValueError,
            "got 3 of 2821 from 1970-01-05",
        ),
        (
            {"day": DAYS["day"].dt.tz_localize("Europe/Berlin")},
            {},
            ValueError,
            "without a time zone",
        ),
        ({}, {"counts": ["units"]}, ValueError, "counts: expected some of the columns"),
        ({}, {"counts": "sales"}, TypeError, "counts: expected a list of names"),
    ],
)
def test_bad_steps_and_counts(change, more, error, message):
    call = {"every": "7D", "counts": ["sales"]} | more
    with pytest.raises(error, match=message):
        to_panel(DAYS.assign(**change), "shop", "day", ["sales"], **call)


def test_steps_of_narrow_integers_and_of_fractions():
    narrow = DAYS.assign(day=np.array([100, -100, 0], "int8"))
    panel = to_panel(narrow, "shop", "day", ["sales"], every=10)
    assert panel.times.tolist() == [*range(-100, 101, 10)]
    np.testing.assert_array_equal(np.flatnonzero(panel.seen[0]), [10, 20])
    tenths = DAYS.assign(day=[0.3, 0.0, 0.1])
    assert to_panel(tenths, "shop", "day", ["sales"], every=0.1).times.size == 4


def test_a_frame_of_another_library_is_named():
    class DataFrame:
        to_pandas = None

    with pytest.raises(TypeError, match=r"DataFrame; \.to_pandas\(\) makes one"):
        to_panel(DataFrame(), "shop", "week", ["sales"])
