"""Read notebooks and Quarto markdown, and remember where each line came from."""

import base64
import json
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from .supported import CELL_OPTIONS, OUTPUTS, REFERENCES, SHORTCODES

# The solution of an exercise and the answer to a question, which are folded.
FOLDED = {
    "<details>": "::: {.engine-fold}",
    "<summary>Solution</summary>": "Solution",
    "<summary>Which one is right?</summary>": "Which one is right?",
    "</details>": ":::",
}
FENCE = re.compile(r"^\s*(```+|~~~+)(.*)$")
EMBED = re.compile(r"^\s*\{\{<\s*embed\s+(\S+)#(\S+)\s*>\}\}\s*$")


@dataclass(frozen=True)
class Problem:
    """Something that keeps a page from being built, and where it is."""

    where: str
    message: str

    def __str__(self) -> str:
        """Return file, cell and line, then what is wrong there."""
        return f"{self.where}: {self.message}"


@dataclass
class Image:
    """A picture that a notebook cell has made."""

    name: str
    data: bytes
    width: int | None
    height: int | None


@dataclass
class Cell:
    """A code cell with its options and its stored outputs."""

    notebook: str
    number: int
    id: str
    code: str
    options: dict
    option_lines: dict[str, int]
    outputs: list[tuple[str, object]]
    count: int | None

    @property
    def label(self) -> str:
        """The label, or nothing."""
        return self.options.get("label") or ""

    @property
    def images(self) -> list[Image]:
        """The pictures among the outputs."""
        return [value for kind, value in self.outputs if kind == "image/png"]


@dataclass
class Source:
    """One page's source, as the markdown that Pandoc reads."""

    path: str  # from the root of the project, with forward slashes
    meta: dict = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    origin: list[tuple[int, int]] = field(default_factory=list)  # cell, line
    notebook: list[dict] = field(default_factory=list)  # cells as they are stored
    cells: list[Cell] = field(default_factory=list)  # code cells of a notebook
    shown: list[tuple[Cell, bool]] = field(default_factory=list)  # cell, embedded?
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_notebook(self) -> bool:
        """Whether it is a notebook."""
        return self.path.endswith(".ipynb")

    @property
    def is_deck(self) -> bool:
        """Whether it becomes slides."""
        wanted = self.meta.get("format")
        return wanted == "revealjs" or (
            isinstance(wanted, dict) and list(wanted) == ["revealjs"]
        )

    @property
    def output(self) -> str:
        """Where the page lies in the site."""
        return str(PurePosixPath(self.path).with_suffix(".html"))

    @property
    def files(self) -> str:
        """The folder of the page's pictures in the site."""
        return str(PurePosixPath(self.path).with_suffix("")) + "_files"

    def at(self, cell: int, line: int) -> str:
        """Say where a line is, the way a reader looks for it."""
        inside = f", cell {cell}" if cell else ""
        return f"{self.path}{inside}" + (f", line {line}" if line else "")

    def report(self, message: str, cell: int = 0, line: int = 0) -> None:
        """Note a problem at a place."""
        problem = Problem(self.at(cell, line), message)
        if problem not in self.problems:
            self.problems.append(problem)

    def report_at(self, message: str, text_line: int) -> None:
        """Note a problem at a line of the text that Pandoc read."""
        self.report(message, *self.origin[min(text_line, len(self.origin)) - 1])

    def report_near(self, message: str, *needles: str) -> None:
        """Note a problem at the first line that has one of the needles."""
        for needle in filter(None, needles):
            for place, line in zip(self.origin, self.lines, strict=True):
                if needle in line:
                    return self.report(message, *place)
        return self.report(message)

    def add(self, text: str, cell: int, line: int) -> None:
        """Append a line."""
        self.lines.append(text)
        self.origin.append((cell, line))


def read_sources(root: Path, paths: list[str]) -> dict[str, Source]:
    """Read all pages; a page may embed cells of any notebook among them."""
    sources = {path: Source(path) for path in paths}
    for source in sources.values():
        if source.is_notebook:
            read_notebook(root, source)
    for source in sources.values():
        if source.is_notebook:
            assemble_notebook(source, sources)
        else:
            read_qmd(root, source, sources)
        if source.problems and not source.meta:
            continue  # the front matter could not be read
        for key in ("title", "description"):
            if not isinstance(source.meta.get(key), str) and not (
                key == "description" and source.is_deck
            ):
                source.report(f"the front matter has no {key}")
    return sources


def read_front_matter(source: Source, text: str, cell: int) -> None:
    try:
        source.meta = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        source.report("front matter is not YAML", cell, mark.line + 2 if mark else 1)


def read_text(root: Path, source: Source) -> str:
    """Read a source file; report the line where it is not UTF-8."""
    data = (root / source.path).read_bytes()
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        source.report("not UTF-8: save the file in that encoding", 0, line)
        return ""


def read_qmd(root: Path, source: Source, sources: dict[str, Source]) -> None:
    text = read_text(root, source)
    if source.problems:
        return
    lines, start = text.split("\n"), 0
    if lines[0] == "---" and "---" in lines[1:]:
        start = lines.index("---", 1) + 1
        read_front_matter(source, "\n".join(lines[1 : start - 1]), 0)
    else:
        source.report("no front matter (--- … ---)", 0, 1)
    add_markdown(source, lines[start:], 0, start + 1, sources)


def read_notebook(root: Path, source: Source) -> None:
    try:
        source.notebook = json.loads(read_text(root, source))["cells"]
    except json.JSONDecodeError as error:
        if not source.problems:  # of its encoding
            message = "not a notebook: cut short, or with the marks of a merge conflict"
            source.report(message, 0, error.lineno)
    except (KeyError, TypeError):
        source.report("not a notebook: it has no cells")
    for number, cell in enumerate(source.notebook, 1):
        text = "".join(cell["source"])
        if cell["cell_type"] == "raw":
            if number == 1 and text.startswith("---"):
                lines = text.strip().split("\n")
                read_front_matter(source, "\n".join(lines[1:-1]), number)
            else:
                source.report("a raw cell that is not the front matter", number)
        elif cell["cell_type"] == "code":
            source.cells.append(read_cell(source, cell, number, text))


def assemble_notebook(source: Source, sources: dict[str, Source]) -> None:
    code = iter(source.cells)
    for number, cell in enumerate(source.notebook, 1):
        if cell["cell_type"] == "markdown":
            lines = "".join(cell["source"]).split("\n")
            add_markdown(source, lines, number, 1, sources)
        elif cell["cell_type"] == "code":
            add_cell(source, next(code), number, 1)


def add_markdown(
    source: Source, lines: list[str], cell: int, first: int, sources: dict[str, Source]
) -> None:
    fence = ""
    for number, line in enumerate(lines, first):
        match = FENCE.match(line)
        if fence:
            closes = match and match[1].startswith(fence) and not match[2].strip()
            fence = "" if closes else fence
        elif match:
            fence = match[1]
            if re.match(r"\s*\{\w", match[2]):
                source.report("code that runs belongs in a notebook", cell, number)
        elif "{{<" in line:
            embed = EMBED.match(line)
            if embed:
                add_embed(source, embed[1], embed[2], cell, number, sources)
                continue
            name = re.search(r"\{\{<\s*(\S*)", line)[1]
            message = f"shortcode {name!r} is not supported"
            if name in SHORTCODES:
                message = "write {{< embed notebook.ipynb#label >}}, alone on its line"
            source.report(message, cell, number)
            continue
        source.add(line if fence else FOLDED.get(line, line), cell, number)
    if fence:
        source.report("a code fence is never closed", cell)
    source.add("", cell, len(lines))


def add_embed(
    source: Source, target: str, label: str, cell: int, line: int, sources: dict
) -> None:
    folder = PurePosixPath(source.path).parent
    notebook = sources.get(resolve(folder / target))
    if notebook is None or not notebook.is_notebook:
        source.report(f"embed: the site has no notebook {target}", cell, line)
        return
    found = [c for c in notebook.cells if label in (c.label, c.id)]
    if found:
        add_cell(source, found[0], cell, line, embedded=True)
    else:
        source.report(f"embed: {target} has no cell with label {label}", cell, line)


def add_cell(
    source: Source, shown: Cell, cell: int, line: int, embedded: bool = False
) -> None:
    """Put a placeholder in the text; `document` fills it with code and outputs.

    What is markdown in a cell (its caption, a table) is read with the page's text.
    """
    key = len(source.shown)
    source.shown.append((shown, embedded))

    def add(text: str, option: str = "") -> None:
        at = shown.option_lines.get(option, line) if not embedded else line
        for part in text.split("\n"):
            source.add(part, cell, at)

    add("")
    add(f'::::::: {{.engine-cell key="{key}"}}')
    for option in ("fig-cap", "tbl-cap"):
        if option in shown.options:
            add(f"{shown.options[option]}\n", option)
    for index, (kind, value) in enumerate(shown.outputs):
        if kind == "text/markdown":
            add(f'\n:::::: {{.engine-output key="{index}"}}\n{value}\n::::::\n')
    add("\n:::::::\n")


def read_cell(source: Source, cell: dict, number: int, text: str) -> Cell:
    lines = text.split("\n")
    head = 0
    while head < len(lines) and lines[head].startswith("#|"):
        head += 1
    option_lines = {}
    for at, line in enumerate(lines, 1):
        key = re.match(r"#\|\s?([\w-]+)\s*:(.*)$", line)
        if at > head and line.startswith("#|"):
            source.report("a cell option below the first line of code", number, at)
        elif key:
            option_lines[key[1]] = at
            if key[1] not in CELL_OPTIONS:
                source.report(f"cell option {key[1]!r} not supported", number, at)
            if key[1] in ("fig-alt", "tbl-cap") and key[2].strip()[:1] in {">", "|"}:
                message = f"{key[1]}: put the text in quotes (over several lines if "
                message += "you like); Quarto loses it after > or |"
                source.report(message, number, at)
    try:
        head_text = "\n".join(re.sub(r"^#\| ?", "", line) for line in lines[:head])
        options = yaml.safe_load(head_text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        source.report("options are not YAML", number, mark.line + 1 if mark else 1)
        options = {}
    label = str(options.get("label") or "")
    name = label or cell.get("id") or f"cell-{number}"
    outputs = []
    if options.get("output") is not False:
        outputs = read_outputs(source, cell["outputs"], number, name)
    result = Cell(
        notebook=source.path,
        number=number,
        id=cell.get("id", ""),
        code="\n".join(lines[head:]).strip("\n"),
        options=options,
        option_lines=option_lines,
        outputs=outputs,
        count=cell.get("execution_count"),
    )
    check_cell(source, result)
    return result


def check_cell(source: Source, cell: Cell) -> None:
    def report(message: str, option: str = "label") -> None:
        source.report(message, cell.number, cell.option_lines.get(option, 1))

    options, kind = cell.options, cell.label.partition("-")[0]
    for option, allowed in (
        ("code-fold", (True,)),
        ("echo", (False,)),
        ("output", (False,)),
    ):
        if option in options and options[option] not in allowed:
            report(f"{option}: {options[option]!r} is not supported", option)
    if kind == "fig" and len(cell.images) != 1:
        report(f"{cell.label} has {len(cell.images)} pictures in its output, not one")
    if kind != "fig" and cell.images:
        report("a picture needs a label that starts with fig-")
    for option, belongs in (("fig-cap", "fig"), ("fig-alt", "fig"), ("tbl-cap", "tbl")):
        if kind == belongs and not str(options.get(option) or "").strip():
            report(f"{cell.label} has no {option}")
        if kind != belongs and option in options:
            report(f"{option} needs a label that starts with {belongs}-", option)
    if kind == "tbl" and not any(
        mime in ("text/html", "text/markdown") for mime, _ in cell.outputs
    ):
        report(f"{cell.label} has no table in its output")
    if kind in REFERENCES and kind not in ("fig", "tbl"):
        report(f"a code cell cannot be labelled {cell.label}")


def read_outputs(
    source: Source, outputs: list[dict], number: int, name: str
) -> list[tuple[str, object]]:
    result = []
    for index, output in enumerate(outputs, 1):
        if output["output_type"] == "stream":
            if output["name"] != "stdout":
                source.report(f"an output on {output['name']}", number)
            result.append(("stdout", "".join(output["text"])))
            continue
        if output["output_type"] == "error":
            source.report(f"the cell failed with {output['ename']}", number)
            continue
        data = output["data"]
        mime = next((mime for mime in OUTPUTS if mime in data), None)
        if mime is None:
            source.report(f"an output of type {', '.join(data)}", number)
            continue
        value = "".join(data[mime])
        if mime == "image/png":
            size = output.get("metadata", {}).get("image/png", {})
            value = Image(
                f"{name}-output-{index}.png",
                base64.b64decode(value),
                size.get("width"),
                size.get("height"),
            )
        if mime == "text/html" and re.search(r"<script|<link|https?://", value):
            source.report("an HTML output with a script or an address", number)
        result.append((mime, value))
    return result


def resolve(path: PurePosixPath) -> str:
    """Take "." and ".." out of a path."""
    return posixpath.normpath(path)
