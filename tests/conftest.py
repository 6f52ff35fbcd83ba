"""What holds for all tests: they check this folder, with every assert on."""

import signal

import pytest

from setup_check import check_setup


def pytest_configure():
    """Refuse another folder's helpers and Python without asserts; let Ctrl-C interrupt.

    A shell that starts pytest with ``&`` has Ctrl-C ignored.
    """
    try:
        check_setup()
    except SystemExit as problem:
        raise pytest.UsageError(str(problem)) from None
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
