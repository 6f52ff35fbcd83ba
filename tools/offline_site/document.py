"""Turn one page's source into HTML: Pandoc reads and writes, this rewrites between."""

import html
import json
import posixpath
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pypandoc

from . import supported
from .sources import Cell, Source, resolve

READER = (
    "markdown-yaml_metadata_block-pandoc_title_block-example_lists"
    "-native_divs-native_spans-markdown_in_html_blocks"
)
MATH = Path(__file__).parent.parent / "filters" / "math.lua"
SPLIT = "<!-- split -->"
NBSP = "\N{NO-BREAK SPACE}"
# Text that is left over when markup was mistyped.
LEFTOVER = re.compile(r"^:::|^\{[#.]|\{\{<|\[\^|^\?@|\]\[")


@dataclass
class Document:
    """A page as HTML, and what is needed to link to it."""

    source: Source
    title: str = ""
    description: str = ""
    toc: str = ""
    body: str = ""
    appendix: str = ""
    ids: set[str] = field(default_factory=set)
    links: list[tuple[str, str, str]] = field(default_factory=list)  # url, page, id
    images: dict[str, bytes | Path] = field(default_factory=dict)  # path in site


def node(kind: str, content: object = None) -> dict:
    return {"t": kind} if content is None else {"t": kind, "c": content}


def raw(text: str) -> dict:
    return node("RawBlock", ["html", text])


def attr(identifier: str = "", classes: tuple = (), **options: str) -> list:
    pairs = [[key.replace("_", "-"), value] for key, value in options.items()]
    return [identifier, list(classes), pairs]


def words(text: str) -> list[dict]:
    return [node("Str", text)]


def every(tree: object) -> Iterator[dict]:
    """Yield all nodes in the order in which one reads them."""
    if isinstance(tree, dict):
        if "t" in tree:
            yield tree
        for value in tree.values():
            yield from every(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from every(item)


def rewrite(tree: object, change: Callable[[dict], list | None]) -> object:
    """Replace nodes from the leaves up; `change` returns None to keep one."""
    if isinstance(tree, list):
        result = []
        for item in tree:
            item = rewrite(item, change)
            new = change(item) if isinstance(item, dict) and "t" in item else None
            result.extend([item] if new is None else new)
        return result
    if isinstance(tree, dict):
        return {key: rewrite(value, change) for key, value in tree.items()}
    return tree


def text_of(tree: object) -> str:
    """Return the plain text of a tree."""
    parts = []
    for item in every(tree):
        if item["t"] == "Str":
            parts.append(item["c"])
        elif item["t"] in ("Code", "CodeBlock", "Math"):
            parts.append(
                f" {item['c'][1]} " if item["t"] == "CodeBlock" else item["c"][1]
            )
        elif item["t"] in ("Space", "SoftBreak", "LineBreak", "Para", "Plain"):
            parts.append(" ")
    return re.sub(r"\s+", " ", "".join(parts)).strip()


def pandoc(arguments: list[str], text: str) -> tuple[str, list[str]]:
    """Run Pandoc; return its output and its warnings."""
    done = subprocess.run(
        [pypandoc.get_pandoc_path(), *arguments],
        input=text,
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"pandoc {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout, re.split(r"^\[WARNING\] ", done.stderr, flags=re.M)[1:]


def convert(
    source: Source, root: Path, pages: dict[str, str], config: dict
) -> Document:
    """Convert one page.

    Parameters
    ----------
    source : Source
        What `read_sources` has read.
    root : Path
        Root of the project.
    pages : dict
        Output path of each source.
    config : dict
        `number-sections`, `toc-depth`, `bibliography`, `slide-level` of this page.
    """
    head = [str(source.meta.get(key, "")) for key in ("title", "description")]
    lines = [f"::: {{.engine-head}}\n{text}\n:::\n" for text in head]
    text = "\n".join(source.lines) + "\n\n" + "\n".join(lines)
    tree, warnings = pandoc(["-f", READER, "-t", "json"], text)
    for warning in warnings:
        line = re.search(r"line (\d+)", warning)
        source.report_at(" ".join(warning.split()), int(line[1]) if line else 1)
    return Converter(source, root, pages, config).run(json.loads(tree))


class Converter:
    """The rewriting of one page's tree."""

    def __init__(self, source: Source, root: Path, pages: dict, config: dict) -> None:
        self.source, self.root, self.pages = source, root, pages
        self.config = config
        self.document = Document(source)
        self.labels: dict[str, str] = {}  # label: number
        self.counts: dict[str, int] = {}
        self.callouts = 0
        self.cites = False

    def run(self, tree: dict) -> Document:
        blocks = tree["blocks"]
        if [b["t"] for b in blocks[-2:]] != ["Div", "Div"]:
            return self.document  # a block is never closed: reported already
        self.check(blocks)
        # What is raw is a comment: `check` stops at anything else.
        blocks = rewrite(blocks, lambda i: [] if i["t"].startswith("Raw") else None)
        blocks = rewrite(blocks, self.cell)
        title, description = (block["c"][1] for block in blocks[-2:])
        blocks = blocks[:-2]
        self.number(blocks)
        blocks = rewrite(blocks, self.equations)
        blocks = rewrite(blocks, self.inline)
        blocks = rewrite(blocks, self.block)
        tree["meta"] = {
            "bibliography": node(
                "MetaString", str(self.root / self.config["bibliography"])
            ),
            "link-citations": node("MetaBool", True),
            "lang": node("MetaString", self.config["lang"]),
        }
        if self.source.is_deck:
            # Pandoc would make slides of the title and the description.
            self.document.title = html.escape(text_of(title), quote=False)
            parts = [blocks]
        else:
            parts = [title, description, self.contents(blocks), self.nest(blocks)]
        if self.cites and not self.source.is_deck:
            parts.append(
                [
                    raw(
                        '<section class="quarto-appendix-contents" '
                        'role="doc-bibliography" id="quarto-bibliography">'
                        '<h2 class="anchored quarto-appendix-heading">References</h2>'
                    ),
                    node("Div", [attr("refs"), []]),
                    raw("</section>"),
                ]
            )
        elif self.cites and not any(
            item["t"] == "Div" and item["c"][0][0] == "refs" for item in every(blocks)
        ):
            self.source.report("a deck that cites needs a slide with ::: {#refs}")
        tree["blocks"] = [block for part in parts for block in [*part, raw(SPLIT)]]
        self.write(tree)
        return self.document

    def write(self, tree: dict) -> None:
        deck = self.source.is_deck
        arguments = ["-f", "json", "-t", "revealjs" if deck else "html5", "--mathml"]
        arguments += ["--wrap=none", "--eol=lf"]
        arguments += ["--citeproc"] if self.cites else []
        arguments += [f"--lua-filter={MATH}"]
        if deck:
            arguments.append(f"--slide-level={self.config['slide-level']}")
        text, warnings = pandoc(arguments, json.dumps(tree))
        for warning in warnings:
            known = re.search(r"citation (\S+) not found", warning)
            tex = re.search(r"TeX math (.*?), rendering", warning, re.S)
            if known:
                message, needle = f"unknown citation @{known[1]}", f"@{known[1]}"
            else:
                message = " ".join(warning.split())
                needle = tex[1].strip().split("\n")[0] if tex else ""
            self.source.report_near(message, needle)
        document = self.document
        if deck:
            document.body = text.replace(SPLIT, "").strip()
        else:
            title, description, toc, body, *rest = text.split(SPLIT)
            heading = '<h2 class="anchored quarto-appendix-heading">Footnotes</h2>'
            document.title, document.description = (
                paragraph(title),
                paragraph(description),
            )
            document.toc, document.body = toc.strip(), body.strip()
            document.appendix = "".join(rest).replace("<hr />", heading).strip()
        document.ids = set(re.findall(r'\sid="([^"]+)"', text))
        seen = re.findall(r'\sid="([^"]+)"', text)
        for double in sorted({i for i in seen if seen.count(i) > 1}):
            self.source.report_near(f"two places have the name {double!r}", double)

    # What is allowed -------------------------------------------------------------

    def check(self, blocks: list) -> None:
        report, deck = self.source.report_near, self.source.is_deck
        known = supported.BLOCKS | supported.INLINES
        parts = {"AuthorInText", "NormalCitation", "SuppressAuthor", "InlineMath"}
        parts |= {"DisplayMath", "SingleQuote", "DoubleQuote", "RowHeadColumns"}
        figures = [item for item in every(blocks) if item["t"] == "Figure"]
        pictures = [id(item) for figure in figures for item in every(figure)]
        for item in every(blocks):
            kind, content = item["t"], item.get("c")
            if kind == "Image" and id(item) not in pictures:
                report("an image in a line of text", content[2][0])
            if kind in ("RawBlock", "RawInline"):
                if not re.fullmatch(r"\s*(<!--.*-->|</.*>)\s*", content[1], re.S):
                    first = content[1].strip().split("\n")[0]
                    report(f"raw {content[0]} is not supported: {first}", first)
            elif kind in ("Header", "Div", "Span", "CodeBlock", "Image"):
                getattr(self, f"check_{kind.lower()}")(content, report, deck)
            elif kind == "Str" and LEFTOVER.search(content):
                if not content.startswith("{#eq-"):
                    report(f"markup that means nothing here: {content}", content)
            elif (
                kind[0].isupper()
                and kind not in known | parts
                and not re.match(
                    r"Align|ColWidth|Default|Decimal|Lower|Upper|Period|OneParen|TwoParens|Example",
                    kind,
                )
            ):
                near = text_of(item).split(" ")[0]
                report(f"{kind} is not supported", near)

    def check_header(self, content: list, report: Callable, deck: bool) -> None:
        level, (_, classes, pairs), inlines = content
        allowed = supported.DECK_HEADINGS if deck else supported.PAGE_HEADINGS
        text = text_of(inlines)
        for name in [c for c in classes if c not in allowed] + [k for k, _ in pairs]:
            report(f"heading option {name!r} is not supported", name)
        if level == 1 and not deck:
            report(f"a second h1 (the title is the first): {text}", f"# {text}", text)

    def check_div(self, content: list, report: Callable, deck: bool) -> None:
        (identifier, classes, pairs), blocks = content
        if classes and classes[0].startswith("engine-"):
            return
        if deck and identifier == "refs" and not classes:
            return
        allowed = supported.DECK_DIVS if deck else supported.PAGE_DIVS
        for name in classes or ["without a class"]:
            if name not in allowed:
                report(f"block {name!r} is not supported", f".{name}", f":: {name}")
        options = {"width"} if "column" in classes else set()
        if set(classes) & set(supported.CALLOUTS):
            options = supported.CALLOUT_OPTIONS
            if any(item["t"] == "Header" for item in every(blocks)):
                report("a heading in a callout: use title=", f".{classes[0]}")
        for key, value in pairs:
            if key not in options or (key == "icon" and value != "false"):
                report(f"block option {key}={value} is not supported", f"{key}=")

    def check_span(self, content: list, report: Callable, deck: bool) -> None:
        (_, classes, pairs), _ = content
        for name in [*classes, *(key for key, _ in pairs)]:
            if not deck or name not in supported.DECK_SPANS:
                report(f"span {name!r} is not supported", name)

    def check_codeblock(self, content: list, report: Callable, deck: bool) -> None:
        (_, classes, pairs), code = content
        first = code.split("\n")[0]
        for name in classes[1:] if classes[:1] else []:
            report(f"code option {name!r} is not supported", name)
        if not classes or classes[0] not in supported.LANGUAGES:
            report(
                f"code needs a language, one of {sorted(supported.LANGUAGES)}", first
            )
        for key, _ in pairs:
            if not deck or key not in supported.DECK_CODE_OPTIONS:
                report(f"code option {key!r} is not supported", key)

    def check_image(self, content: list, report: Callable, deck: bool) -> None:
        (_, classes, pairs), _, (url, _) = content
        for name in [*classes, *(k for k, _ in pairs)]:
            if name not in supported.IMAGE_OPTIONS:
                report(f"image option {name!r} is not supported", name)
        if PurePosixPath(url).suffix.lower() not in supported.IMAGE_FILES:
            report(f"an image of this kind is not supported: {url}", url)

    # Numbers ---------------------------------------------------------------------

    def label(self, name: str, number: str | None = None) -> str:
        kind = name.partition("-")[0]
        if number is None:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            number = str(self.counts[kind])
        if name in self.labels:
            self.source.report_near(f"two places have the name {name!r}", name)
        self.labels[name] = number
        return number

    def number(self, blocks: list) -> None:
        levels: list[int] = []
        for item in every(blocks):
            kind, content = item["t"], item.get("c")
            if kind == "Header" and "unnumbered" not in content[1][1]:
                depth = content[0] - 1
                levels = [*levels, *[0] * depth][:depth]
                if levels:
                    levels[-1] += 1
                    number = ".".join(map(str, levels))
                    if self.config["number-sections"]:
                        content[1][2].append(["data-number", number])
                    if content[1][0].startswith("sec-"):
                        self.label(content[1][0], number)
            elif kind == "Figure":
                name = content[0][0]
                if not name.startswith("fig-") or not text_of(content[1]):
                    self.source.report_near(
                        "a figure needs a caption and a label: ![…](…){#fig-…}",
                        image_url(item),
                    )
                else:
                    self.label(name)
            elif kind == "Table" and content[0][0]:
                name = content[0][0]
                if name.startswith("tbl-") and text_of(content[1]):
                    self.label(name)
                else:
                    message = "a table's label starts with tbl-, beside a caption"
                    self.source.report_near(message, name)
            elif kind == "Div" and content[0][1][:1] == ["engine-float"]:
                self.label(content[0][0])
            elif kind == "Str" and content.startswith("{#eq-"):
                self.label(content[2:].rstrip("}"))

    def equations(self, item: dict) -> list | None:
        """Put the number and the label on displayed equations."""
        if item["t"] not in ("Para", "Plain"):
            return None
        result: list[dict] = []
        for part in item["c"]:
            if part["t"] == "Str" and part["c"].startswith("{#eq-"):
                name = part["c"][2:].rstrip("}")
                while result and result[-1]["t"] in ("Space", "SoftBreak"):
                    result.pop()
                maths = result.pop() if result else {"t": ""}
                if maths["t"] != "Math" or maths["c"][0]["t"] != "DisplayMath":
                    self.source.report_near("a label after no equation", part["c"])
                    continue
                text = words(f"({self.labels[name]})")
                number = node("Span", [attr("", ("equation-number",)), text])
                result.append(node("Span", [attr(name), [maths, number]]))
            else:
                result.append(part)
        return [node(item["t"], result)]

    # Inlines ---------------------------------------------------------------------

    def inline(self, item: dict) -> list | None:
        if item["t"] == "Cite":
            return self.reference(item["c"][0])
        if item["t"] == "Link":
            _, inlines, (url, title) = item["c"]
            return [node("Link", [attr(), inlines, [self.link(url), title]])]
        return None

    def reference(self, citations: list) -> list | None:
        kinds = {c["citationId"].partition("-")[0] for c in citations}
        if not kinds & set(supported.REFERENCES):
            self.cites = True
            return None
        result: list[dict] = []
        for citation in citations:
            name = citation["citationId"]
            kind = supported.REFERENCES.get(name.partition("-")[0])
            number = self.labels.get(name)
            if number is None or kind is None:
                self.source.report_near(f"unknown reference @{name}", f"@{name}")
                continue
            if kind == "Section" and not self.config["number-sections"]:
                message = f"@{name}: sections have no numbers here, write a link"
                self.source.report_near(message, f"@{name}")
            short = citation["citationMode"]["t"] == "SuppressAuthor"
            text = number if short else f"{kind}{NBSP}{number}"
            if citation["citationPrefix"] or citation["citationSuffix"]:
                self.source.report_near(f"words beside @{name} in brackets", f"@{name}")
            link = [attr("", ("quarto-xref",)), words(text), [f"#{name}", ""]]
            result += [*words(", "), node("Link", link)]
        return result[1:]

    def link(self, url: str) -> str:
        """Check a link and turn a source's name into its page's."""
        if re.match(r"https://|mailto:", url):
            return url
        if url in ("", "#"):
            self.source.report_near("a link to nowhere", f"]({url})")
            return url
        if re.match(r"\w+:|/", url):
            self.source.report_near(f"a link that is not https: {url}", url)
            return url
        path, _, fragment = url.partition("#")
        here = PurePosixPath(self.source.path).parent
        target = resolve(here / path) if path else self.source.path
        if target not in self.pages:
            if target in self.config.get("project", {}).get("resources", ()):
                return url  # a file to download
            self.source.report_near(f"broken link: no page {target}", url)
            return url
        self.document.links.append((url, target, fragment))
        if path:
            path = str(PurePosixPath(path).with_suffix(".html"))
        return path + (f"#{fragment}" if fragment else "")

    # Blocks ----------------------------------------------------------------------

    def block(self, item: dict) -> list | None:
        kind, content = item["t"], item.get("c")
        if kind == "CodeBlock":
            return self.code(content)
        if kind == "Header":
            return self.heading(content)
        if kind == "Table":
            return self.table(content)
        if kind == "Figure":
            return self.figure(item)
        if kind == "Div":
            (identifier, classes, pairs), blocks = content
            if "engine-float" in classes:
                caption = blocks[0]["c"]
                return self.float(identifier, caption, blocks[1:])
            if "engine-fold" in classes:
                summary, *blocks = blocks
                opening = f"<details><summary>{text_of(summary)}</summary>"
                return [raw(opening), *blocks, raw("</details>")]
            for name in set(classes) & set(supported.CALLOUTS):
                return self.callout(name, dict(pairs), blocks)
        return None

    def heading(self, content: list) -> list:
        level, (name, classes, pairs), inlines = content
        number = dict(pairs).get("data-number")
        if number:
            span = node("Span", [attr("", ("header-section-number",)), words(number)])
            inlines = [span, node("Space"), *inlines]
        return [node("Header", [level, [name, classes, pairs], inlines])]

    def code(self, content: list) -> list:
        (name, classes, pairs), text = content
        block = node("CodeBlock", [[name, classes, pairs], text])
        if self.source.is_deck or not classes:
            return [block]
        return [
            raw('<div class="code-copy-outer-scaffold">'),
            block,
            raw(
                '<button title="Copy to Clipboard" class="code-copy-button">'
                '<i class="bi"></i></button></div>'
            ),
        ]

    def table(self, content: list) -> list:
        (name, _, pairs), (short, caption), *rest = content
        classes = ("caption-top", "table")
        if not name:
            return [node("Table", [["", classes, pairs], [short, caption], *rest])]
        table = node("Table", [["", classes, pairs], [None, []], *rest])
        inlines = caption[0]["c"]
        return self.float(name, inlines, [table])

    def figure(self, item: dict) -> list:
        (name, _, _), (_, caption), _ = item["c"]
        image = next(part for part in every(item["c"][2]) if part["t"] == "Image")
        (_, _, pairs), _, (url, _) = image["c"]
        options = dict(pairs)
        alt = options.pop("fig-alt", "").strip()
        if not alt:
            self.source.report_near(f"{name or 'a figure'} has no fig-alt", url)
        target = resolve(PurePosixPath(self.source.path).parent / url)
        if (self.root / target).is_file():
            self.document.images[target] = self.root / target
        else:
            self.source.report_near(f"no file {target}", url)
        picture = self.picture(url, alt, options)
        inlines = caption[0]["c"] if caption else []
        return self.float(name, inlines, [picture])

    def picture(self, url: str, alt: str, options: dict) -> dict:
        source = "data-src" if self.source.is_deck else "src"
        size = ""
        for key, value in options.items():
            value = str(value)
            shape = f'style="{key}: {value}"' if value.endswith("%") else ""
            size += " " + (shape or f'{key}="{value}"')
        return raw(
            f'<img {source}="{html.escape(url)}" class="figure-img" '
            f'alt="{html.escape(alt)}"{size} />'
        )

    def float(self, name: str, caption: list, blocks: list) -> list:
        """Wrap a figure or a table with its numbered caption, as Quarto does."""
        kind = name.partition("-")[0]
        if kind not in ("fig", "tbl"):
            return blocks
        side = "top" if kind == "tbl" else "bottom"
        number = f"{supported.REFERENCES[kind]}{NBSP}{self.labels.get(name)}: "
        text = [
            raw(
                f'<figcaption class="quarto-float-caption-{side} '
                f'quarto-float-caption quarto-float-{kind}" id="{name}-caption">'
            ),
            node("Plain", [*words(number), *caption]),
            raw("</figcaption>"),
        ]
        body = [raw(f'<div aria-describedby="{name}-caption">'), *blocks, raw("</div>")]
        return [
            raw(
                f'<div id="{name}" class="quarto-float quarto-figure '
                'quarto-figure-center anchored">'
                f'<figure class="quarto-float quarto-float-{kind} figure">'
            ),
            *(text + body if kind == "tbl" else body + text),
            raw("</figure></div>"),
        ]

    def callout(self, name: str, options: dict, blocks: list) -> list:
        kind = supported.CALLOUTS[name]
        title = options.get("title", "")
        if re.search(r"[*_`$\[\]<@]", title):
            self.source.report_near("a callout's title is plain text", title)
        shown = html.escape(title.replace("'", "’") or kind, quote=False)
        if title and not self.source.is_deck:
            shown = f'<span class="screen-reader-only">{kind}</span>{shown}'
        icon = "" if "icon" not in options else " no-icon"
        classes = f"callout callout-style-default {name}{icon} callout-titled"
        box = "span" if options.get("collapse") == "true" else "div"
        mark = (
            f'<{box} class="callout-icon-container">'
            f'<i class="callout-icon{icon}"></i></{box}>'
        )
        if self.source.is_deck:
            return [
                raw(
                    f'<div class="{classes}"><div class="callout-body">'
                    f'<div class="callout-title">{mark}<p><strong>{shown}</strong></p>'
                    '</div><div class="callout-content">'
                ),
                *blocks,
                raw("</div></div></div>"),
            ]
        folded = options.get("collapse") == "true"
        outer, header = ("details", "summary") if folded else ("div", "div")
        title_box = f'<{box} class="callout-title-container flex-fill">{shown}</{box}>'
        return [
            raw(
                f'<{outer} class="{classes}"><{header} class="callout-header d-flex '
                f'align-content-center">{mark}{title_box}</{header}>'
                '<div class="callout-body-container callout-body">'
            ),
            *blocks,
            raw(f"</div></{outer}>"),
        ]

    # Cells of notebooks ----------------------------------------------------------

    def cell(self, item: dict) -> list | None:
        """Replace a placeholder by the code and the outputs of its cell."""
        if item["t"] != "Div" or item["c"][0][1] != ["engine-cell"]:
            return None
        (_, _, pairs), children = item["c"]
        cell, embedded = self.source.shown[int(dict(pairs)["key"])]
        caption = []
        if cell.label.startswith(("fig-", "tbl-")) and children:
            caption = children[0].get("c", [])
        tables = {
            int(dict(child["c"][0][2])["key"]): child["c"][1]
            for child in children
            if child["t"] == "Div"
        }
        blocks = []
        if not embedded and cell.options.get("echo") is not False:
            blocks = self.cell_code(cell)
        for index, (kind, value) in enumerate(cell.outputs):
            blocks += self.cell_output(cell, kind, value, tables.get(index), caption)
        if not blocks:
            return []
        name = f"cell-{cell.label}" if cell.label else cell.id
        return [node("Div", [attr(name, ("cell",)), blocks])]

    def cell_code(self, cell: Cell) -> list:
        if not cell.code:
            return []
        code = [node("CodeBlock", [attr("", ("python", "cell-code")), cell.code])]
        if cell.options.get("code-fold"):
            summary = html.escape(str(cell.options.get("code-summary", "Code")))
            opening = f'<details class="code-fold"><summary>{summary}</summary>'
            return [raw(opening), *code, raw("</details>")]
        return code

    def cell_output(
        self, cell: Cell, kind: str, value: object, table: list | None, caption: list
    ) -> list:
        shape = "cell-output-stdout" if kind == "stdout" else "cell-output-display"
        if kind in ("stdout", "text/plain"):
            blocks = [node("CodeBlock", [attr(), value.strip("\n")])]
        elif kind == "text/html":
            clean = re.sub(r"<style.*?</style>", "", value, flags=re.S)
            clean = re.sub(r'\sborder="\d+"', "", clean)
            blocks = [raw(clean.replace('class="dataframe', 'class="table dataframe'))]
        elif kind == "text/markdown":
            blocks = table or []
        else:
            here = PurePosixPath(self.source.path).parent
            folder = PurePosixPath(cell.notebook).with_suffix("")
            path = f"{folder}_files/figure-html/{value.name}"
            self.document.images[path] = value.data
            size = {"width": value.width, "height": value.height}
            size = {key: number for key, number in size.items() if number}
            alt = str(cell.options.get("fig-alt") or "").strip()
            blocks = [self.picture(posixpath.relpath(path, here), alt, size)]
        is_float = kind == "image/png" if cell.label[:4] == "fig-" else bool(caption)
        if is_float and kind in ("image/png", "text/html", "text/markdown"):
            inside = [node("Plain", caption), *blocks]
            blocks = [node("Div", [attr(cell.label, ("engine-float",)), inside])]
        return [node("Div", [attr("", ("cell-output", shape)), blocks])]

    # The page --------------------------------------------------------------------

    def nest(self, blocks: list, depth: int = 2) -> list:
        """Put each heading and what follows into a section, as Quarto does."""
        result: list[dict] = []
        rest = list(blocks)
        while rest:
            first = rest.pop(0)
            if first["t"] != "Header":
                result.append(first)
                continue
            level, (name, _, pairs), inlines = first["c"]
            text = text_of(inlines[2:] if dict(pairs).get("data-number") else inlines)
            if level > depth:
                self.source.report_near(f"heading jumps to level {level}: {text}", text)
            inside = []
            while rest and not (rest[0]["t"] == "Header" and rest[0]["c"][0] <= level):
                inside.append(rest.pop(0))
            title = node(
                "Header", [level, attr("", ("anchored",), data_anchor_id=name), inlines]
            )
            section = [title, *self.nest(inside, level + 1)]
            classes = ["section", f"level{level}"]
            result.append(node("Div", [[name, classes, pairs], section]))
        return result

    def contents(self, blocks: list, level: int = 2) -> list:
        """Build the table of contents."""
        items = []
        headers = [b["c"] for b in blocks if b["t"] == "Header"]
        headers = [h for h in headers if h[0] <= self.config["toc-depth"]]
        for index, (depth, (name, _, _), inlines) in enumerate(headers):
            if depth != level:
                continue
            below = []
            for header in headers[index + 1 :]:
                if header[0] <= level:
                    break
                below.append(node("Header", header))
            clean = rewrite(
                inlines, lambda i: [] if i["t"] in ("Note", "Link") else None
            )
            link = node("Link", [attr("", ("nav-link",)), clean, [f"#{name}", ""]])
            items.append([node("Plain", [link]), *self.contents(below, level + 1)])
        return [node("BulletList", items)] if items else []


def image_url(item: dict) -> str:
    return next((i["c"][2][0] for i in every(item) if i["t"] == "Image"), "")


def paragraph(text: str) -> str:
    return re.sub(r"</?p>", "", text).strip()
