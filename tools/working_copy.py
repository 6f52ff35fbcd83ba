"""Write the notebooks that `make lab` opens into ``work/``, where learners may write.

JupyterLab shows less than the pages do: no captions, no cross-references, no boxes. A
copy says in plain Markdown what its page shows. One that somebody has written in is
never touched; the others follow the course. One that was deleted comes back.
"""

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pypandoc
import yaml
from ipykernel.ipkernel import IPythonKernel
from nbformat.v4 import new_markdown_cell

import execute

NAMES = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}
BOXES = {"note": "#0072B2", "tip": "#009E73"}  # the others are warnings
WARNING = "#D55E00"
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.S | re.M)
HEADING = re.compile(r"^#+ +(.*?) *\{[^}]*#(sec-[\w-]+)[^}]*\}$", re.M)
EQUATION = re.compile(r"\s*\$\$ *\{#(eq-[\w-]+)\}")
TABLE = re.compile(r"^: (.*?) *\{#(tbl-[\w-]+)\}$", re.M)
BOX = re.compile(r'^:::+ *\{\.callout-(\w+)(.*?)(?:title="(.*?)")?[^"]*\}$')
REFERENCE = re.compile(r"(?<![\w@.])@((?:fig|tbl|eq|sec)-\w[\w-]*)")
CITATION = re.compile(
    r"\[[^][\n]*(?<!\w)@(?!fig-|tbl-|eq-|sec-)[^][\n]*\](?!\()"
    r"|(?<![\w@.[])@(?!fig-|tbl-|eq-|sec-)[a-z]\w*\d{4}\w*"
)
KEY = re.compile(r"@(\w+)")
SPAN = re.compile(r"\[((?:[^][]|\[[^][]*\])*)\]\{[#.][^}]*\}")  # may hold links
LINK = re.compile(r"\[([^][]+)\]\(([^()\s]+)\)")
BESIDE = "troubleshooting.ipynb"  # copied too; the results need the whole course
ENTRY = re.compile(r'<div id="ref-(\w+)"[^>]*>\s*(.*?)\s*</div>', re.S)


def outside_code(change: Callable[[str], str], text: str) -> str:
    """Change a text of Markdown, but not the code in it."""
    kept = CODE.findall(text)
    marks = iter(range(len(kept)))
    text = change(CODE.sub(lambda _: f"\0{next(marks)}\0", text))
    return re.sub("\0([0-9]+)\0", lambda mark: kept[int(mark[1])], text)


def labels(nb: dict) -> dict[str, str]:
    """Return what a reference to each label says: "Figure 3", or a heading."""
    found, counts = {}, {}
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(CODE.split(cell["source"])[::2])
            found |= {label: title for title, label in HEADING.findall(cell["source"])}
            here = EQUATION.findall(text) + [label for _, label in TABLE.findall(text)]
        else:
            here = [execute.options(cell).get("label", "")] if cell["source"] else []
        for label in here:
            kind = label.partition("-")[0]
            if kind in NAMES:
                counts[kind] = counts.get(kind, 0) + 1
                found[label] = f"{NAMES[kind]} {counts[kind]}"
    return found


def citations(notebooks: list[dict], bib: Path) -> tuple[dict, dict]:
    """Return how each citation reads, and the entry of each key for a bibliography."""
    cells = (c for nb in notebooks for c in nb["cells"] if c["cell_type"] == "markdown")
    texts = ["".join(CODE.split(cell["source"])[::2]) for cell in cells]
    wanted = sorted({cited for text in texts for cited in CITATION.findall(text)})
    command = [pypandoc.get_pandoc_path(), "--citeproc", f"--bibliography={bib}"]
    command += ["--from=markdown", "--to=gfm", "--wrap=none"]
    text = "\n\n".join(wanted)
    done = subprocess.run(
        command, input=text, check=True, capture_output=True, encoding="utf-8"
    )
    # Pandoc writes $`x`$ for this dialect, JupyterLab reads $x$.
    words = re.sub(r"\$`(.+?)`\$", r"$\1$", done.stdout)
    paragraphs = words.split("\n\n")[: len(wanted)]
    return dict(zip(wanted, paragraphs, strict=True)), dict(ENTRY.findall(words))


def heading_link(title: str, file: str = "") -> str:
    """Return a link to a heading, under the name that JupyterLab gives it."""
    name = re.sub(r"[`*]", "", title).replace(" ", "-")
    return f"[“{title}”](<{file}#{name}>)" if "$" not in title else f"“{title}”"


def in_words(text: str, name: str, known: dict[str, dict], cited: dict) -> str:
    """Return Markdown as JupyterLab shows it, from a piece without code."""

    def refer(found: re.Match) -> str:
        label = found[1]
        if label.startswith("sec-") and label in known[name]:
            starts = re.search(r"(^|[.?!]\s+|\n\n)$", text[: found.start()])
            word = "Section" if starts else "section"
            return f"{word} {heading_link(known[name][label])}"
        return known[name].get(label, found[0])

    def link(found: re.Match) -> str:
        words, (file, _, label) = found[1], found[2].partition("#")
        if "://" in file:
            return found[0]
        file = file.rpartition("/")[2]  # all copies are in one folder
        if file not in known:
            return words  # it is not in the folder
        if label not in known[file]:
            return f"[{words}]({file})"
        target = heading_link(known[file][label], file)
        return re.sub(r"^\[.*?\]|^“.*", lambda _: f"[{words}]", target, count=1)

    text = EQUATION.sub(lambda m: f" \\tag{{{known[name][m[1]].split()[1]}}}\n$$", text)
    text = TABLE.sub(lambda m: f"\n**{known[name][m[2]]}.** {m[1]}", text)
    text = re.sub(r"^(#+ .*?) *\{[^}]*\}$", r"\1", text, flags=re.M)
    text = SPAN.sub(r"\1", text)
    text = LINK.sub(link, text)
    return REFERENCE.sub(refer, CITATION.sub(lambda m: cited.get(m[0], m[0]), text))


def boxes(text: str) -> str:
    """Turn callouts into boxes, or into what unfolds if they are folded."""
    lines, ends, fence = [], [], False
    for line in text.split("\n"):
        fence ^= line.startswith("```")
        if fence or not line.startswith(":::"):
            lines.append(line)
        elif found := BOX.match(line):
            kind, rest, title = found.groups(default="")
            if "collapse" in rest:
                lines += ["<details>", f"<summary>{title}</summary>", ""]
                ends.append("</details>")
            else:
                style = f"border-left: 5px solid {BOXES.get(kind, WARNING)}"
                lines += [f'<div style="{style}; padding-left: 15px">', ""]
                lines += [f"**{title}**", ""] if title else []
                ends.append("</div>")
        else:
            lines += ["", ends.pop() if ends else ""]
    return "\n".join(lines)


def readable(
    nb: dict, name: str, known: dict[str, dict], cited: dict, entries: dict
) -> dict:
    """Return a notebook as JupyterLab should show it."""
    cells, keys = [], set()
    for cell in copy.deepcopy(execute.unstamped(nb)):  # of outputs that will change
        text = cell["source"]
        if cell["cell_type"] == "raw":
            front = yaml.safe_load(text.strip().strip("-"))
            start = f"# {front['title']}\n\n{front.get('description', '')}"
            cell = new_markdown_cell(start.strip(), id=cell["id"])
        elif text.startswith("::: {.interactive-"):
            continue  # a figure of the page that needs its scripts
        elif cell["cell_type"] == "markdown":
            for piece in CODE.split(text)[::2]:
                keys |= {k for c in CITATION.findall(piece) for k in KEY.findall(c)}
            cell["source"] = outside_code(
                lambda piece: in_words(piece, name, known, cited), boxes(text)
            )
        cells.append(cell)
        if cell["cell_type"] == "code":
            said = execute.options(cell)
            code = re.sub(r"^#\|.*\n?", "", text, flags=re.M)
            folded = said.get("code-fold") and said.get("code-summary")
            # JupyterLab shows the first line of code that it hides.
            cell["source"] = f"# {folded}\n{code}" if folded else code
            caption = said.get("fig-cap") or said.get("tbl-cap")
            if caption and said.get("label") in known[name]:
                number = known[name][said["label"]]
                spoken = in_words(" ".join(caption.split()), name, known, cited)
                words = f"**{number}.** {spoken}"
                cells.append(new_markdown_cell(words, id=f"cap-{said['label']}"[:64]))
    if found := [entries[key] for key in sorted(keys) if key in entries]:
        words = "\n\n".join(["## References", *found])
        cells.append(new_markdown_cell(words, id="references"))
    # As JupyterLab writes it: a notebook that is opened has no changes to save.
    metadata = {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": IPythonKernel.language_info,
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def written(nb: dict) -> str:
    """Hash what a learner may have written: the cells, not their outputs."""
    return execute.sha256([[c["cell_type"], c["source"]] for c in nb["cells"]])


def update(root: Path, folder: Path) -> dict[str, str]:
    """Write the copies that are missing or out of date; say what was done to each.

    A copy notes what it was made as, so that it tells whether somebody changed it.
    """
    paths = [*execute.course_order(root), *root.glob(BESIDE)]
    notebooks = {path.name: execute.read(path) for path in paths}
    known = {name: labels(nb) for name, nb in notebooks.items()}
    cited, entries = citations(list(notebooks.values()), root / "references.bib")
    folder.mkdir(exist_ok=True)
    done = {}
    for name, nb in notebooks.items():
        new, path = readable(nb, name, known, cited, entries), folder / name
        made = {"cells": written(new), "whole": execute.sha256(new)}
        if path.exists():
            try:
                old = execute.read(path)
            except execute.UnreadableError:
                done[name] = "kept"
                continue
            then = old["metadata"].get("course", {})
            if then.get("whole") == made["whole"]:
                continue
            if written(old) not in (then.get("cells"), made["cells"]):
                done[name] = "kept"
                continue
        done[name] = "updated" if path.exists() else "new"
        new["metadata"]["course"] = made
        nbformat.write(new, path)
    return done


def main(folder: str = "work") -> None:
    """Bring the working copies up to date and print what a learner should know."""
    done = update(execute.ROOT, execute.ROOT / folder)
    for name in (name for name, what in done.items() if what == "kept"):
        print(
            f"{folder}/{name}: the course has a newer one, but yours was changed and "
            "stays. To get the new one as well, rename yours and start again."
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
