"""Notice a Python that would not test this folder. Imports nothing heavy."""

from pathlib import Path

import helpers

ROOT = Path(__file__).resolve().parents[1]


def check_setup() -> None:
    """Stop if no claim would be checked, or if the helpers of another folder run."""
    if not __debug__:
        raise SystemExit(
            "Python skips every assert here, so no claim would be checked: "
            "unset PYTHONOPTIMIZE (or leave out -O), then try again."
        )
    used = Path(helpers.__file__).resolve().parent
    if used != ROOT / "src" / "helpers":
        raise SystemExit(
            f"This Python imports the helpers of another folder, {used}. "
            f"To use those of {ROOT}, run `make setup` there."
        )
