"""The index of the search: what each section of the built pages and slides says.

Both engines use it. Quarto's own index holds formulas twice and no keywords.
"""

import html
import re
from pathlib import Path

from bs4 import BeautifulSoup, Tag

NO_PAGES = {"site_libs", "site", "assets"}
# What is no text: the TeX behind a formula, notes of the speaker, buttons.
DROPPED = "annotation, aside.notes, button, nav, script, style, .course-links"
DROPPED += ", .header-section-number, .screen-reader-only, .code-fold > summary"
DROPPED += ", .quarto-categories"
BLOCKS = ["h1", "p", "li", "td", "th", "div", "pre", "figcaption", "summary"]


def search_index(site: Path) -> list[dict[str, str]]:
    """Return an entry for each page and section of a site, pages before decks."""
    pages = sorted(
        path.relative_to(site)
        for path in site.rglob("*.html")
        if not NO_PAGES & set(path.relative_to(site).parts)
    )
    found = [
        entry
        for page in pages
        for entry in entries(page.as_posix(), (site / page).read_bytes())
    ]
    return sorted(found, key=lambda entry: entry["href"].startswith("slides/"))


def entries(page: str, data: bytes) -> list[dict[str, str]]:
    """Return the page's own entry, then those of its sections."""
    soup = BeautifulSoup(data, "html.parser")
    main = soup.find("main") or soup.find(class_="reveal")
    if main is None:  # a page that leads to another one
        return []
    title = words(main.h1) if soup.main else f"Slides: {words(soup.title)}"
    keywords = soup.find("meta", attrs={"name": "keywords"})
    for tag in main.select(DROPPED):
        tag.decompose()
    for tag in main.find_all(BLOCKS):
        tag.append(" ")
    result = []
    # The last first: what is below a heading is out before its own turn.
    for part in [main, *main.select("section[id]:not(#title-slide)")][::-1]:
        heading = part.find(re.compile("^h[1-6]$"))
        section = words(heading.extract()) if heading else ""
        callouts = part.select(".callout-title-container, .callout-title")
        entry = {
            "href": page if part is main else f"{page}#{part['id']}",
            "title": title,
            "section": "" if part is main else section,
            "callouts": " · ".join(map(words, callouts)),
            "text": html.escape(words(part), quote=False),
        }
        if part is main and keywords:
            entry["keywords"] = keywords["content"]
        result.append(entry)
        part.extract()
    return result[::-1]


def words(tag: Tag | None) -> str:
    """Return the text of a tag on one line."""
    return " ".join(tag.get_text().split()) if tag else ""
