"""A built site, as the tests of its pages see it."""

import functools
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bs4 import BeautifulSoup, Tag

import execute

NOT_SOURCES = shutil.ignore_patterns(
    ".*", "_site", "*_files", "__pycache__", "*.egg-info", "tests"
)
NO_PAGES = ("site_libs/", "site/", "assets/")  # what engines and styles bring


def main_part(soup: BeautifulSoup) -> Tag:
    """Return the part of a page that is neither navigation nor footer."""
    return soup.find("main") or soup.find(class_="reveal")


def words_of(soup: BeautifulSoup) -> str:
    """Return the words that a reader sees, without code, math and scripts."""
    part = BeautifulSoup(str(main_part(soup)), "html.parser")
    for tag in part(["code", "pre", "math", "script", "style", "nav"]):
        tag.decompose()
    return part.get_text(" ")


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
    def words(self) -> dict[str, str]:
        """The words of each page by address."""
        return {name: words_of(soup) for name, soup in self.soups.items()}

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
    names = execute.sidebar()
    return [PurePosixPath(name).with_suffix(".html").as_posix() for name in names]


def build_site(folder: Path, engine: str) -> Site:
    """Build the site from a copy of its sources, as `make site` does."""
    shutil.copytree(execute.ROOT, folder, ignore=NOT_SOURCES)
    command = [sys.executable, str(folder / "tools" / "build.py"), "site"]
    done = subprocess.run(
        [*command, "--engine", engine, "--strict"], capture_output=True, text=True
    )
    log = done.stdout + done.stderr
    if done.returncode:
        lines = log.strip().splitlines()[-12:]
        shown = "\n".join(line[:200] for line in lines)
        raise RuntimeError(f"{engine} could not build the site:\n{shown}")
    return Site(engine, folder / "_site", log)
