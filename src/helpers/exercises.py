"""Checks that learners can run on their own answers to the exercises."""

from typing import Any

import numpy as np

from fitting import arguments


def check(
    name: str,
    answer: Any,
    expected: Any,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    hint: str = "",
) -> bool:
    """Compare an answer with what is expected, print the verdict, and return it.

    Parameters
    ----------
    name : str
        What was asked for, as it should stand in the verdict.
    answer : number, array or None
        The learner's answer; `None` means not answered yet.
    expected : number or array
        What is right; it has the shape that the answer should have.
    rtol, atol : float
        Allowed distance: ``atol + rtol * |expected|``.
    hint : str
        Printed when the answer is not right.

    Returns
    -------
    bool
        Whether the answer is right.
    """
    if answer is None:
        print(f"{name}: no answer yet; replace None and run both cells again.")
        return False
    try:
        given = arguments.finite_array(name, answer)
    except (TypeError, ValueError) as error:
        print(f"Not yet. {error}. {hint}".strip())
        return False
    wanted = np.asarray(expected)
    if given.shape != wanted.shape:
        if wanted.ndim == 0:
            shapes = f"expected one number, got an array of shape {given.shape}"
        else:
            shapes = f"expected shape {wanted.shape}, got {given.shape}"
        print(f"Not yet. {name}: {shapes}. {hint}".strip())
        return False
    shown = np.array2string(given, precision=6)
    if np.allclose(given, wanted, rtol=rtol, atol=atol):
        print(f"Right. {name}: {shown}")
        return True
    signs = [np.sign(values.astype(float)) for values in (given, wanted)]
    same_sign = np.array_equal(*signs)
    if same_sign and np.allclose(given, wanted, rtol=2 * rtol, atol=2 * atol):
        print(f"Close, but not within the tolerance. {name}: {shown}. {hint}".strip())
        return False
    print(f"Not yet. {name}: {shown} is not the expected value. {hint}".strip())
    return False
