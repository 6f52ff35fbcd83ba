"""Every page of the built site is whole: links, figures, headings, references."""

import re
from pathlib import PurePosixPath
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
from built import Site, listed_pages, main_part

# What makes a browser ask for a file.
LOADS = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "image": "href",
    "use": "href",
}
NO_LOAD = {"canonical", "prev", "next", "license", "alternate", "search", "author"}
REFERENCE = re.compile(r"\?@|(?<![\w.])@(fig|sec|eq|tbl)-|\?\?|\[@")
TEX = re.compile(r"\\[(\[]|\$\$|\\(frac|theta|mathbb|log)\b")


def split(page, address):
    """Return page and anchor that a relative address leads to."""
    parts = urlsplit(address)
    path = unquote(parts.path)
    target = normpath(join(dirname(page), path)) if path else page
    return target, unquote(parts.fragment)


# Each check takes a site and yields one sentence per fault.


def every_source_has_its_page(site):
    for page in listed_pages():
        if page not in site.pages:
            yield f"no page {page}"
    for page in site.pages:
        if page not in listed_pages():
            yield f"{page} is in no sidebar"


def links_resolve(site):
    ids = {
        page: {tag["id"] for tag in soup.find_all(id=True)}
        for page, soup in site.soups.items()
    }
    for page, soup in site.soups.items():
        for tag in soup.find_all("a", href=True):
            address = tag["href"].strip()
            if re.match(r"(https|mailto):", address) or address in {"#", "#/"}:
                continue
            if re.match(r"[a-z]+:|/", address):
                yield f"{page}: a link that works on one host alone: {address}"
                continue
            target, anchor = split(page, address)
            path = site.folder / target
            path = path / "index.html" if path.is_dir() else path
            name = str(PurePosixPath(path.relative_to(site.folder)))
            if not path.is_file():
                yield f"{page}: broken link {address}"
            elif anchor and anchor.removeprefix("/") not in ids.get(name, ()):
                yield f"{page}: broken anchor {address}"


def ids_are_unique(site):
    for page, soup in site.soups.items():
        ids = [tag["id"] for tag in soup.body.find_all(id=True)]
        yield from (f"{page}: id {x} twice" for x in set(ids) if ids.count(x) > 1)


def loaded_addresses(soup):
    """Yield every address that a page makes a browser load."""
    for name, attribute in LOADS.items():
        for tag in soup.find_all(name):
            yield tag.get(attribute) or tag.get(f"xlink:{attribute}") or ""
            yield from re.findall(r"[^\s,]+:?//[^\s,]+", tag.get("srcset", ""))
    for tag in soup.find_all("link", href=True):
        if not NO_LOAD & set(tag.get("rel", ())):
            yield tag["href"]
    for text in [tag.get_text() for tag in soup.find_all("style")] + [
        tag["style"] for tag in soup.find_all(style=True)
    ]:
        yield from css_addresses(text)


def css_addresses(text):
    """Yield what a style sheet loads."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    yield from re.findall(r"url\(\s*['\"]?([^'\")]+)", text)
    yield from re.findall(r"@import\s+['\"]([^'\"]+)", text)


def nothing_is_loaded_from_elsewhere(site):
    for page, soup in site.soups.items():
        for address in loaded_addresses(soup):
            if re.match(r"(?!data:)[a-z+]*:?//|/|https?:", address):
                yield f"{page} loads {address[:100]}"
            elif address and not address.startswith(("data:", "#")):
                target, _ = split(page, address)
                if not (site.folder / target).is_file():
                    yield f"{page}: missing file {address[:100]}"
    for path in site.folder.rglob("*.css"):
        for address in css_addresses(path.read_text(encoding="utf-8")):
            name = path.relative_to(site.folder).as_posix()
            if re.match(r"[a-z+]*:?//|https?:", address):
                yield f"{name} loads {address[:100]}"
            elif not address.startswith(("data:", "#")):
                target, _ = split(name, address)
                if not (site.folder / target).is_file():
                    yield f"{name}: missing file {address[:100]}"


def figures_are_described(site):
    for page, soup in site.soups.items():
        for image in main_part(soup).find_all("img"):
            if not image.get("alt", "").strip():
                yield f"{page}: no alternative text: {image.get('src', '')[:80]}"
            if page in site.articles and not image.find_parent("figure"):
                yield f"{page}: not in a figure: {image.get('src', '')[:80]}"
        for figure in main_part(soup).find_all("figure"):
            caption = figure.find("figcaption")
            if caption is None or not caption.get_text(strip=True):
                yield f"{page}: a figure without caption: {str(figure)[:100]}"


def interactive_figures_have_scripts_and_words(site):
    for page, soup in site.soups.items():
        for place in soup.select('div[class*="interactive-"]'):
            [name] = re.findall(r"interactive-(\w+)", " ".join(place["class"]))
            for script in ("draw", name):
                if not (site.folder / f"assets/interactive/{script}.js").is_file():
                    yield f"{page}: no script {script}.js"
            if not place.get_text(strip=True):
                yield f"{page}: no words say what to try with {name}"


def headings_are_in_order(site):
    for page in site.articles:
        soup = site.soups[page]
        if len(soup.find_all("h1")) != 1:
            yield f"{page}: {len(soup.find_all('h1'))} h1 instead of one"
        levels = [
            (int(tag.name[1]), tag.get_text(" ", strip=True))
            for tag in main_part(soup).find_all(re.compile("^h[1-6]$"))
            if not tag.find_parent("nav")
        ]
        previous = 0
        for level, title in levels:
            if level > previous + 1:
                yield f"{page}: h{level} after h{previous}: {title}"
            if not title:
                yield f"{page}: an empty h{level}"
            previous = level


def references_are_resolved(site):
    for page, soup in site.soups.items():
        for found in REFERENCE.finditer(site.words[page]):
            around = site.words[page][max(0, found.start() - 30) : found.end() + 30]
            yield f"{page}: unresolved reference: {' '.join(around.split())}"
        for tag in soup.select(".quarto-unresolved-ref, .citeproc-not-found"):
            yield f"{page}: unresolved reference: {tag.get_text()}"


def formulas_are_mathml(site):
    for page, soup in site.soups.items():
        for found in TEX.finditer(site.words[page]):
            around = site.words[page][max(0, found.start() - 30) : found.end() + 30]
            yield f"{page}: a formula left as TeX: {' '.join(around.split())}"
        for tag in soup.select("span.math"):
            if not tag.find("math") and not tag.find_parent("math"):
                yield f"{page}: a formula left as TeX: {tag.get_text()[:80]}"


def pages_say_what_they_are(site):
    titles = {}
    for page, soup in site.soups.items():
        if not (soup.html.get("lang") or "").strip():
            yield f"{page}: no lang"
        if not soup.find("meta", attrs={"name": "viewport"}):
            yield f"{page}: no viewport"
        title = soup.title.get_text(strip=True) if soup.title else ""
        if not title:
            yield f"{page}: no title"
        elif title in titles:
            yield f"{page} has the title of {titles[title]}"
        titles[title] = page


def every_page_is_in_every_sidebar(site):
    for page in site.articles:
        links = site.soups[page].select("a.sidebar-link[href], .sidebar-item a[href]")
        linked = [split(page, tag["href"])[0] for tag in links]
        if list(dict.fromkeys(linked)) != listed_pages():
            yield f"{page}: the sidebar lists {linked}"


def notebooks_can_be_downloaded_and_show_their_run(site):
    for page in site.articles:
        if not page.startswith("notebooks/"):
            continue
        soup = site.soups[page]
        source = str(PurePosixPath(page).with_suffix(".ipynb"))
        linked = [split(page, tag["href"])[0] for tag in soup.select("main a[href]")]
        if source not in linked:
            yield f"{page}: no link to {source}"
        if "The outputs on this page were made on" not in site.words[page]:
            yield f"{page}: no stamp of the run"


def no_debris(site):
    for path in site.folder.rglob("*-preview.html"):
        yield f"{path.name} is a page of its own"
    for page, soup in site.soups.items():
        for tag in soup.select(".cell-output-stderr, .cell-output-error"):
            yield f"{page}: stderr on the page: {tag.get_text()[:80]}"


def every_slide_has_notes(site):
    for page in site.decks:
        for slide in site.soups[page].select(".slides section"):
            if slide.find("section") or slide.get("id") == "title-slide":
                continue
            notes = slide.find("aside", class_="notes")
            if notes is None or not notes.get_text(strip=True):
                heading = slide.find(re.compile("^h[1-6]$"))
                title = heading.get_text(strip=True) if heading else slide.get("id")
                yield f"{page}: no speaker notes on the slide {title!r}"


CHECKS = [
    every_source_has_its_page,
    links_resolve,
    ids_are_unique,
    nothing_is_loaded_from_elsewhere,
    figures_are_described,
    interactive_figures_have_scripts_and_words,
    headings_are_in_order,
    references_are_resolved,
    formulas_are_mathml,
    pages_say_what_they_are,
    every_page_is_in_every_sidebar,
    notebooks_can_be_downloaded_and_show_their_run,
    no_debris,
    every_slide_has_notes,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_site(site, check):
    assert list(check(site)) == []


def test_the_build_says_what_it_did(site):
    last = site.log.strip().splitlines()[-1]
    assert site.engine in last.lower()
    assert re.search(r"\b\d+ pages in \d+\.\d s\b", last)
    assert f"{len(site.pages)} pages" in last
    assert str(site.folder / "index.html") in last


BROKEN = """<html><head><title>Same</title>
<script src="https://elsewhere.example/a.js"></script></head><body>
<a class="sidebar-link" href="nowhere.html">Nowhere</a>
<main><h1>One</h1><h1>Two</h1><h4>Deep</h4>
<p id="a">?@fig-one and \\(x\\)</p><p id="a" class="cell-output-stderr">Oh</p>
<div class="interactive-nothing"></div>
<a href="#nothing">no anchor</a><figure><img src="missing.png"></figure>
</main></body></html>"""
BROKEN_DECK = """<html><body class="reveal"><div class="slides">
<section><section id="one"><h2>One</h2></section></section>
</div></body></html>"""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_check_finds_a_broken_page(check, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "other.html").write_text(BROKEN)
    (tmp_path / "deck.html").write_text(BROKEN_DECK)
    assert list(check(Site("none", tmp_path))) != []


def test_style_sheets_are_searched(tmp_path):
    (tmp_path / "a.css").write_text(
        "/* url(https://fine.example) */ a {b: url(data:x)} @import 'https://x.example';"
        "a {b: url( '//y.example/z')} a {b: url(gone.woff2)}"
    )
    faults = list(nothing_is_loaded_from_elsewhere(Site("none", tmp_path)))
    assert len(faults) == 3
