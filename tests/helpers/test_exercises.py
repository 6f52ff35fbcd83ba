"""Exercises: what a learner is told about an answer."""

import jax.numpy as jnp
import numpy as np
import pytest

from helpers.exercises import check


@pytest.mark.parametrize(
    ("answer", "expected", "options"),
    [
        (3, 3, {}),
        (True, True, {}),
        (0.1 + 0.2, 0.3, {"rtol": 1e-9}),
        (1.04, 1.0, {"atol": 0.05}),
        (104, 100, {"rtol": 0.05}),
        ([1, 2], np.array([1.0, 2.0]), {}),
        (jnp.array([1.0, 2.0]), [1.0, 2.0], {}),
        (np.float32(0.5), 0.5, {}),
    ],
)
def test_right_answers(capsys, answer, expected, options):
    assert check("the mean", answer, expected, hint="Think.", **options) is True
    shown = np.array2string(np.asarray(answer), precision=6)
    assert capsys.readouterr().out == f"Right. the mean: {shown}\n"


@pytest.mark.parametrize(
    ("answer", "expected", "options", "said"),
    [
        (1 / 3, 0.3, {}, "0.333333 is not the expected value."),
        (1.26, 1.0, {"atol": 0.05}, "1.26 is not the expected value."),
        (126, 100, {"rtol": 0.05}, "126 is not the expected value."),
        (
            [1, 5],
            [1, 2],
            {"rtol": 0.1},
            "[1 5] is not the expected value. Look at index 1.",
        ),
        (
            [[1, 5], [0, 1]],
            [[1, 2], [1, 1]],
            {},
            "[[1 5]\n [0 1]] is not the expected value. Look at index (0, 1), (1, 0).",
        ),
        (True, False, {"atol": 0.6}, "True is not the expected value."),
        (lambda: 4, 3, {}, "4 is not the expected value."),
        (lambda: 4, lambda: 3, {}, "4 is not the expected value."),
    ],
)
def test_wrong_answers(capsys, answer, expected, options, said):
    assert check("x", answer, expected, hint="Think.", **options) is False
    assert capsys.readouterr().out == f"Not yet. x: {said} Think.\n"


def refuses():
    raise AssertionError


def fails():
    return {}["loc"]


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        ([1, 2], 1, "expected one number, got an array of shape (2,)."),
        (1.0, [1.0, 1.0], "expected an array of shape (2,), got one number."),
        (np.nan, 1, "expected finite numbers, got 1 NaN or infinite of 1."),
        ([1, -np.inf], [1, 2], "expected finite numbers, got 1 NaN or infinite of 2"),
        ("3", 3, "expected an array of numbers, got '3'."),
        ([1, [2, 3]], 3, "expected an array of numbers, got [1, [2, 3]]."),
        ([], 3, "expected data, got none (shape (0,))."),
        (len, 3, "your code raised TypeError: len() takes exactly one argument"),
        (fails, 3, "your code raised KeyError: 'loc'."),
        (refuses, 3, "your code raised AssertionError.\n"),
        (lambda: None + 1, 3, "your code raised TypeError: unsupported operand"),
    ],
)
def test_malformed_answers_get_a_sentence_and_no_hint(capsys, answer, expected, said):
    assert check("x", answer, expected, hint="Think.") is False
    text = capsys.readouterr().out
    assert text.startswith(f"Not yet. x: {said}")
    assert "Think" not in text
    assert text.count("\n") == 1


def test_what_is_expected_is_computed_for_answers_alone(capsys):
    assert check("x", None, lambda: 1 / 0) is False
    assert check("x", lambda: None, lambda: 1 / 0) is False
    assert capsys.readouterr().out.count("no answer yet") == 2


def test_no_answer_yet(capsys):
    assert check("the mean", None, 3, hint="Think.") is False
    said = "the mean: no answer yet; replace None and run both cells again.\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("answer", "expected", "tolerance"),
    [(1.06, 1.0, {"atol": 0.05}), (106, 100, {"rtol": 0.05})],
)
def test_close_answers(capsys, answer, expected, tolerance):
    assert check("x", answer, expected, **tolerance) is False
    said = f"Close, but not within the tolerance. x: {answer}."
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.parametrize("answer", [1.2, -0.01])
def test_answers_that_are_not_close(capsys, answer):
    assert check("x", answer, 0.05, atol=0.05) is False
    assert (
        capsys.readouterr().out == f"Not yet. x: {answer} is not the expected value.\n"
    )


def test_answers_are_shown_with_few_digits(capsys):
    assert check("x", [0.123456789, 2], [0.12, 2], atol=0.1)
    assert capsys.readouterr().out == "Right. x: [0.123457 2.      ]\n"
