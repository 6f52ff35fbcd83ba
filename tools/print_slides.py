"""Print decks as PDF, one page a slide, by a browser: `make slides`."""

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without these the browser asks for hosts of its own at every start.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PRINTABLE = """() => {
    const pages = document.querySelectorAll('.pdf-page').length;
    const empty = document.querySelector('[class*="interactive-"]:not(.ready)');
    return pages > 0 && !empty && [...document.images].every((image) => image.complete);
}"""
MILLISECONDS = 120_000


def find_browser() -> str | None:
    """Return the path of a browser: that of $CHROMIUM, or one of the system."""
    candidates = filter(None, (os.environ.get("CHROMIUM"), *BROWSERS))
    return next(filter(None, map(shutil.which, candidates)), None)


def open_to_print(browser: Browser, deck: Path) -> Page:
    """Open a deck as a page that prints, in light colors."""
    page = browser.new_page(color_scheme="light")
    page.goto(f"{deck.resolve().as_uri()}?print-pdf", timeout=MILLISECONDS)
    page.wait_for_function(PRINTABLE, timeout=MILLISECONDS)
    page.evaluate("document.fonts.ready")
    return page


def print_deck(browser: Browser, deck: Path) -> Path:
    """Print a deck beside its HTML; return the path of the PDF."""
    printed = deck.with_suffix(".pdf")
    with open_to_print(browser, deck) as page:
        page.pdf(path=printed, prefer_css_page_size=True, print_background=True)
    return printed


def print_slides(folder: Path) -> list[Path]:
    """Print all decks of a folder; say so if there is no browser to do it.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of built decks. Each PDF gets the name of its deck.

    Returns
    -------
    list of pathlib.Path
        The PDFs; none if no browser is found.
    """
    found = find_browser()
    if not found:
        print(f"No PDFs: no browser here (tried {', '.join(BROWSERS)} and $CHROMIUM)")
        return []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        return [print_deck(browser, deck) for deck in sorted(folder.glob("*.html"))]
