"""Put the pages together: navigation, search, decks, links between pages."""

import html
import importlib.resources
import json
import os
import posixpath
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from search_index import search_index

from .document import Document, convert
from .sources import Problem, Source, read_sources

THEME = Path(__file__).parent / "theme"
REVEAL = (
    "dist/reset.css",
    "dist/reveal.css",
    "dist/reveal.js",
    "plugin/notes",
    "LICENSE",
)
# The reveal.js options that slides/_metadata.yml or a deck may set.
REVEAL_OPTIONS = ("width", "height", "margin", "center", "controls", "slide-number")
REVEAL_OPTIONS += ("incremental", "transition", "hash", "progress")


@dataclass
class Entry:
    """An entry of the sidebar: a page, or a section with pages in it."""

    text: str
    source: str = ""
    below: tuple["Entry", ...] = ()


class Site:
    """What _quarto.yml says about the site."""

    def __init__(self, root: Path) -> None:
        self.root = root
        config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
        self.config, self.website = config, config["website"]
        self.entries = [self.entry(item) for item in self.sidebar]
        self.order = [e.source for top in self.entries for e in (top, *top.below)]
        self.order = [source for source in self.order if source]

    @property
    def sidebar(self) -> list:
        """The sidebar's entries."""
        return self.website["sidebar"]["contents"]

    def entry(self, item: str | dict) -> Entry:
        if isinstance(item, str):
            return Entry("", item)
        if "section" in item:
            below = tuple(self.entry(part) for part in item["contents"])
            return Entry(item["section"], item.get("href", ""), below)
        return Entry(item.get("text", "").replace("'", "’"), item["href"])

    def problems(self) -> list[Problem]:
        """Compare the sidebar with the files that are to be rendered."""
        found = {
            path.relative_to(self.root).as_posix()
            for pattern in self.config["project"]["render"]
            for path in self.root.glob(pattern)
        }
        listed = set(self.order)
        return [
            *(Problem("_quarto.yml", f"no file {p}") for p in sorted(listed - found)),
            *(
                Problem(p, "not in _quarto.yml's sidebar")
                for p in sorted(found - listed)
            ),
        ]

    def options(self, source: Source) -> dict:
        """Return the settings of one page: the nearest to the page wins."""
        folder = (self.root / source.path).parent / "_metadata.yml"
        layers = [self.config, source.meta]
        if folder.is_file():
            layers.insert(1, yaml.safe_load(folder.read_text(encoding="utf-8")) or {})
        name = "revealjs" if source.is_deck else "html"
        result = {"number-sections": False, "toc-depth": 3, "slide-level": 2}
        for layer in layers:
            formats = layer.get("format")
            own = formats.get(name) if isinstance(formats, dict) else {}
            plain = {k: v for k, v in layer.items() if k != "format"}
            result |= plain | (own if isinstance(own, dict) else {})
        return result


def build(
    root: Path, output: Path, decks_only: bool = False, draft: bool = False
) -> list:
    """Build the site; return its pages' paths, or raise `SystemExit` with problems.

    Parameters
    ----------
    root : Path
        Root of the project, where _quarto.yml is.
    output : Path
        Where the site goes. What was there is removed.
    decks_only : bool
        Build the slides alone.
    draft : bool
        Print problems and go on, without the pages that do not exist yet.
    """
    site = Site(root)
    problems = site.problems()
    order = [path for path in site.order if (root / path).is_file()]
    sources = read_sources(root, order)
    pages = {source.path: source.output for source in sources.values()}
    wanted = [s for s in sources.values() if s.is_deck or not decks_only]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        documents = list(
            pool.map(lambda s: convert(s, root, pages, site.options(s)), wanted)
        )
    check_links(documents)
    problems += [problem for source in sources.values() for problem in source.problems]
    if problems:
        text = "\n".join(map(str, problems))
        if not draft:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise SystemExit(f"{text}\n{count}: nothing was built")
        print(text)
    write(site, documents, output, decks_only)
    return [document.source.output for document in documents]


def check_links(documents: list[Document]) -> None:
    ids = {document.source.path: document.ids for document in documents}
    for document in documents:
        for url, target, fragment in document.links:
            if fragment and target in ids and fragment not in ids[target]:
                message = f"broken link: {target} has no #{fragment}"
                document.source.report_near(message, url)


def write(site: Site, documents: list[Document], output: Path, keep: bool) -> None:
    """Write pages, pictures, styles and scripts; `keep` what else is there."""
    if output.exists() and not keep:
        shutil.rmtree(output)
    shutil.copytree(site.root / "assets", output / "assets", dirs_exist_ok=True)
    shutil.copytree(THEME, output / "site", dirs_exist_ok=True)
    for pattern in site.config["project"].get("resources", []):
        for path in site.root.glob(pattern):
            copy(path, output / path.relative_to(site.root))
    reveal = importlib.resources.files("sphinx_revealjs") / "_static" / "revealjs"
    with importlib.resources.as_file(reveal) as folder:
        for name in REVEAL:
            copy(folder / name, output / "site" / "reveal" / name)
    for template in output.glob("site/*.html"):
        template.unlink()
    titles = {d.source.path: strip(d.title) for d in documents}
    for document in documents:
        source = document.source
        page = (
            deck(site, document) if source.is_deck else article(site, document, titles)
        )
        target = output / source.output
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
        for name, data in document.images.items():
            if isinstance(data, bytes):
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                (output / name).write_bytes(data)
            else:
                copy(data, output / name)
    if keep:
        return
    # A script, not JSON: a page opened as a file may not fetch anything.
    text = json.dumps(search_index(output), ensure_ascii=False)
    script = f"window.courseIndex = {text};\n"
    (output / "site" / "search-index.js").write_text(script, encoding="utf-8")


def article(site: Site, document: Document, titles: dict[str, str]) -> str:
    source, up = document.source, root_of(document.source.output)
    where = site.order.index(source.path)
    around = [
        site.order[i] if 0 <= i < len(site.order) else ""
        for i in (where - 1, where + 1)
    ]
    names = {e.source: e.text for top in site.entries for e in (top, *top.below)}
    steps = []
    for path, side, mark in zip(around, ("previous", "next"), "←→", strict=True):
        if path not in titles:
            continue
        name = html.escape(names[path] or titles[path], quote=False)
        arrow = f'<span class="arrow" aria-hidden="true">{mark}</span>'
        label = f'<span class="nav-page-text">{name}</span>'
        parts = f"{arrow} {label}" if side == "previous" else f"{label} {arrow}"
        href = up + posixpath.splitext(path)[0] + ".html"
        steps.append(
            f'<div class="nav-page nav-page-{side}"><a class="pagination-link" '
            f'rel="{side[:4]}" href="{href}">{parts}</a></div>'
        )
    title = strip(document.title)
    name = site.website["title"]
    contents = ""
    if document.toc:
        contents = (
            '<nav id="TOC" aria-label="On this page">'
            f'<h2 id="toc-title">On this page</h2>{document.toc}</nav>'
        )
    download = ""
    if source.is_notebook:
        file = posixpath.basename(source.path)
        link = f'<a href="{file}">Download this notebook</a>'
        download = f'<p class="course-links">{link}</p>'
    appendix = document.appendix
    return fill(
        "page.html",
        lang=site.config["lang"],
        page_title=html.escape(title if title == name else f"{title} – {name}"),
        description_text=html.escape(strip(document.description)),
        up=up,
        site_title=html.escape(name, quote=False),
        sidebar=sidebar(site, source, titles, up),
        title=document.title,
        description=document.description,
        categories="".join(
            f'<div class="quarto-category">{html.escape(c)}</div>'
            for c in source.meta.get("categories", [])
        ),
        contents=contents,
        body=download + document.body,
        appendix=f'<div id="quarto-appendix">{appendix}</div>' if appendix else "",
        steps="".join(steps),
        footer=footer(site),
        keywords=keywords(source),
        head="".join(
            (site.root / "assets" / name).read_text(encoding="utf-8")
            for name in ("head.html", "search.html")
        ),
    )


def sidebar(site: Site, source: Source, titles: dict[str, str], up: str) -> str:
    def link(entry: Entry) -> str:
        if entry.source not in titles:
            return ""
        text = html.escape(entry.text or titles[entry.source], quote=False)
        here = ' active" aria-current="page' if entry.source == source.path else ""
        href = up + posixpath.splitext(entry.source)[0] + ".html"
        return (
            f'<li class="sidebar-item"><a class="sidebar-link{here}" '
            f'href="{href}"><span class="menu-text">{text}</span></a></li>'
        )

    parts = []
    for entry in site.entries:
        if entry.below:
            below = "".join(map(link, entry.below))
            parts.append(
                '<li class="sidebar-item sidebar-item-section">'
                f'<span class="menu-text">{html.escape(entry.text)}</span>'
                f'<ul class="list-unstyled">{below}</ul></li>'
            )
        else:
            parts.append(link(entry))
    return "".join(parts)


def footer(site: Site) -> str:
    text = html.escape(site.website["page-footer"]["left"], quote=False)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', text)


def deck(site: Site, document: Document) -> str:
    source, up = document.source, root_of(document.source.output)
    options = site.options(source)
    reveal = {
        re.sub(r"-(\w)", lambda m: m[1].upper(), key): options[key]
        for key in REVEAL_OPTIONS
        if key in options
    }
    meta = source.meta
    lines = [f'<h1 class="title">{document.title}</h1>']
    for key in ("subtitle", "author", "date"):
        if key in meta:
            text = html.escape(str(meta[key]).replace("'", "’"), quote=False)
            tag = "p" if key == "subtitle" else "div"
            lines.append(f'<{tag} class="{key}">{text}</{tag}>')
    name = strip(document.title)
    if "subtitle" in meta:
        name += f": {meta['subtitle']}".replace("'", "’")
    else:
        name += f" – {site.website['title']}"
    return fill(
        "deck.html",
        lang=site.config["lang"],
        page_title=html.escape(name),
        keywords=keywords(source),
        up=up,
        title="\n".join(lines),
        body=document.body,
        options=json.dumps(reveal),
        head=(site.root / "assets" / "deck.html").read_text(encoding="utf-8"),
    )


def keywords(source: Source) -> str:
    return html.escape(", ".join(source.meta.get("keywords", [])))


def fill(template: str, **values: str) -> str:
    text = (THEME / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def root_of(output: str) -> str:
    return "../" * output.count("/")


def strip(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
