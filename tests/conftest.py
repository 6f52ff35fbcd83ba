"""The site, built once with each engine that is there, for the tests of pages."""

import functools
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from bs4 import BeautifulSoup

import build
import execute

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "_site", "*_files", "__pycache__", "*.egg-info", "tests"
)
NO_PAGES = ("site_libs/", "site/", "assets/")  # what engines and styles bring


def pytest_configure():
    """Let Ctrl-C interrupt: a shell that starts pytest with ``&`` has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Site:
    """A built site: the folder that it is in and what was printed on the way."""

    engine: str
    folder: Path
    log: str = ""

    @functools.cached_property
    def pages(self) -> list[str]:
        """Addresses of all pages and decks, relative to the site's root."""
        found = self.folder.rglob("*.html")
        names = (path.relative_to(self.folder).as_posix() for path in found)
        return sorted(name for name in names if not name.startswith(NO_PAGES))

    @functools.cached_property
    def soups(self) -> dict[str, BeautifulSoup]:
        """The parsed pages by address."""
        return {
            name: BeautifulSoup((self.folder / name).read_bytes(), "html.parser")
            for name in self.pages
        }

    @functools.cached_property
    def decks(self) -> list[str]:
        """Addresses of the decks."""
        return [name for name, soup in self.soups.items() if soup.select(".reveal")]

    @functools.cached_property
    def articles(self) -> list[str]:
        """Addresses of the pages that are no decks."""
        return [name for name in self.pages if name not in self.decks]


def listed_pages() -> list[str]:
    """Return the addresses of all pages that _quarto.yml lists, in order."""
    names = execute.sidebar(ROOT)
    return [PurePosixPath(name).with_suffix(".html").as_posix() for name in names]


@pytest.fixture(scope="session", params=["pandoc", "quarto"])
def site(request, tmp_path_factory) -> Site:
    """Build the site from a copy of its sources, as `make site` does."""
    engine = request.param
    if engine == "quarto" and not build.find_quarto():
        pytest.skip("no Quarto here: the pages of the Pandoc engine are tested")
    copy = tmp_path_factory.mktemp(engine) / "course"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCES)
    command = [sys.executable, str(copy / "tools" / "build.py"), "site"]
    done = subprocess.run(
        [*command, "--engine", engine, "--strict"], capture_output=True, text=True
    )
    log = done.stdout + done.stderr
    if done.returncode:
        lines = log.strip().splitlines()
        shown = "\n".join(line[:200] for line in lines[-12:])
        pytest.fail(f"{engine} could not build the site:\n{shown}", pytrace=False)
    return Site(engine, copy / "_site", log)
