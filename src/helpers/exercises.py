"""Checks that learners can run on their own answers to the exercises."""

import re
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
    answer : number, array, None, or callable
        The learner's answer; `None` means not answered yet. Or a function without
        arguments that computes a number or an array from the answer. If it raises an
        error, the verdict says so.
    expected : number, array, or callable
        What is right; it has the shape that the answer should have. Or a function
        without arguments that returns it, which is called only for an answer.
    rtol, atol : float
        Allowed distance: ``atol + rtol * |expected|``.
    hint : str
        Printed when the answer has the right form and is not right.

    Returns
    -------
    bool
        Whether the answer is right.
    """
    try:
        answer = answer() if callable(answer) else answer
        if answer is None:
            print(f"{name}: no answer yet; replace None and run both cells again.")
            return False
        given = arguments.finite_array(name, answer)
    except Exception as error:
        reason = re.sub(r" at 0x[0-9a-f]+", "", str(error).split("\n")[0])
        if not reason.startswith(name):
            kind = f"{name}: your code raised {type(error).__name__}"
            reason = f"{kind}: {reason}" if reason else kind
        print(f"Not yet. {reason}.".replace("..", "."))
        return False
    wanted = np.asarray(expected() if callable(expected) else expected)
    if given.shape != wanted.shape:
        kinds = [
            f"an array of shape {each.shape}" if each.ndim else "one number"
            for each in (wanted, given)
        ]
        print(f"Not yet. {name}: expected {kinds[0]}, got {kinds[1]}.")
        return False
    shown = np.array2string(given, precision=6, threshold=20)
    right = np.isclose(given, wanted, rtol=rtol, atol=atol)
    if right.all():
        print(f"Right. {name}: {shown}")
        return True
    which = ""
    if wanted.ndim and right.any():
        places = [tuple(map(int, at)) for at in np.argwhere(~right)[:5]]
        names = [str(at if len(at) > 1 else at[0]) for at in places]
        which = f" Look at index {', '.join(names)}."
    signs = [np.sign(values.astype(float)) for values in (given, wanted)]
    close = np.allclose(given, wanted, rtol=2 * rtol, atol=2 * atol)
    if close and np.array_equal(*signs):
        verdict = f"Close, but not within the tolerance. {name}: {shown}."
    else:
        verdict = f"Not yet. {name}: {shown} is not the expected value."
    print(f"{verdict}{which} {hint}".strip())
    return False
