"""What holds for all tests: they check this folder, with every assert on."""

import os
import shutil
import signal
import tempfile

import pytest
from playwright.sync_api import sync_playwright

from print_slides import ARGUMENTS, BROWSERS, find_browser
from setup_check import check_setup

CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    """Refuse another folder's helpers and Python without asserts; let Ctrl-C interrupt.

    A shell that starts pytest with ``&`` has Ctrl-C ignored. All processes of a run,
    kernels of notebooks as well, share one folder of compiled code.
    """
    try:
        check_setup()
    except SystemExit as problem:
        raise pytest.UsageError(str(problem)) from None
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if CACHE not in os.environ:
        config.cache_of_jax = os.environ[CACHE] = tempfile.mkdtemp(prefix="jax-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_unconfigure(config):
    """Remove compiled code; the process that made the folder does so."""
    if folder := getattr(config, "cache_of_jax", None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def browser():
    """The browser of the system; where there is none, CI fails and others skip."""
    found = find_browser()
    if not found:
        text = f"no browser here (tried {', '.join(BROWSERS)} and $CHROMIUM)"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield started
        started.close()
