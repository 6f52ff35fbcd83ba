"""The rules that stored notebooks keep; the tests apply all of them.

``python tools/notebook_rules.py 03`` prints what is wrong with notebook 03. Each rule
is a function that takes a notebook and yields one sentence per fault.
"""

import ast
import re
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import yaml
from nbformat.warnings import MissingIDFieldWarning

import execute
import lint_jax
import solutions
from helpers import environment

MAX_LINES = 40
MEDIAN_LINES = 8
MAX_WIDTH = 88
MAX_BYTES = 3_000_000
MAX_WORDS = 5_000
SUMMARIES = {
    "Figure code",
    "Table code",
    "Timing code",
    "Exact answers",
    "Check the claim",
    "Check your answer",
    "Imports",
}

LEGACY = {
    r"\brandom\.PRNGKey\(": "random.key(...) makes keys",
    r"\bnp\.random\.(seed|rand|randn|normal|uniform)\(": "np.random.default_rng(...)",
    r"\b(date\.today|datetime\.now)\(": "it makes each run different",
    r"/(home|root|Users|work)/|\b[A-Z]:\\\\": "it is a path of one machine",
}
HTML = re.compile(
    r"</?(a|br|center|details|div|font|hr|iframe|img|p|span|su[bp]|table)\b"
)
EXERCISE = re.compile(r"^(#{2,4} |:{3,} *\{.*title=\"?)Exercise \d+.*$", re.MULTILINE)
HEADING = re.compile(r"^(#{2,4} .*)$", re.MULTILINE)
# A number with a decimal point or a unit is taken for something that was computed.
CLAIM = re.compile(
    r"(?<!version )(?<![\w@#.,-])"
    r"(\d+\.\d+|\d[\d,]* ?(%|times\b|nats\b|sds?\b|seconds\b|steps\b))"
)
LEVEL = re.compile(r"\b(easy|medium|hard)\b")
QUESTION = re.compile(
    r'^:{3,} *\{.*title="Check yourself"\}\n(.*?)^:{3,}$', re.M | re.S
)
ANSWER = re.compile(
    r"^<details>\n<summary>Which one is right\?</summary>\n(.*?)^</details>$",
    re.M | re.S,
)
RIGHT = re.compile(r"\s*\*\*([A-E]) is right\.\*\*")
OPTION = re.compile(r"\*\*([A-E])\*\*")
MINUTES = re.compile(r"\b\d+ min")

Rule = Callable[[nbformat.NotebookNode], Iterator[str]]


def code_cells(nb: dict) -> Iterator[tuple[str, dict]]:
    """Yield each code cell that holds code, with its name for a message."""
    for number, cell in enumerate(nb["cells"], 1):
        if cell["cell_type"] == "code" and cell["source"].strip():
            yield execute.name_of(cell, number), cell


def prose(cell: dict) -> str:
    """Return the text of a markdown cell without code and math."""
    text = re.sub(r"^```.*?^```", "", cell["source"], flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text, flags=re.DOTALL)


def load(path: Path) -> nbformat.NotebookNode:
    """Read a notebook as it is stored: a missing cell id is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", MissingIDFieldWarning)
        return execute.read(path, nbformat.NO_CONVERT)


def is_valid(nb: dict) -> Iterator[str]:
    """Nbformat 4.5, valid, and each cell with an id of its own."""
    if (nb["nbformat"], nb["nbformat_minor"]) != (4, 5):
        yield f"nbformat {nb['nbformat']}.{nb['nbformat_minor']} instead of 4.5"
    ids = [cell.get("id") for cell in nb["cells"]]
    if len(set(ids)) < len(ids):
        yield "each cell needs an id of its own"
        return  # validation would repair them
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"


def begins_with_front_matter(nb: dict) -> Iterator[str]:
    """Title, description and categories stand in a raw first cell."""
    first = nb["cells"][0]
    parts = first["source"].split("---")
    meta = (
        yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    )
    if first["cell_type"] != "raw" or not isinstance(meta, dict):
        yield "the first cell is a raw cell with YAML between --- lines"
        return
    for name, kind in {"title": str, "description": str, "categories": list}.items():
        if not isinstance(meta.get(name), kind) or not meta[name]:
            yield f"the front matter lacks {name}, a {kind.__name__}"


def opens_with_callout(nb: dict) -> Iterator[str]:
    """The second cell says what the reader will do, needs, and how long it takes."""
    text = nb["cells"][1]["source"] if len(nb["cells"]) > 1 else ""
    if "{.callout" not in text:
        yield "the second cell is the opening callout"
    for word in ("**You will**", "**You need**", "**Time**"):
        if word not in text:
            yield f"the opening callout lacks {word}"


def has_exercises(nb: dict) -> Iterator[str]:
    """Three to five exercises, each with level, minutes, check and solution."""
    found: list[tuple[str, list[str]]] = []
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            if found and solutions.code_of(cell["source"]):
                found[-1][1].append("Solution")
            found += [(m[0], []) for m in EXERCISE.finditer(cell["source"])]
        elif cell["cell_type"] == "code" and found:
            found[-1][1].append(execute.options(cell).get("code-summary", ""))
    if not 3 <= len(found) <= 5:
        yield f"{len(found)} exercises instead of 3 to 5"
    for title, summaries in found:
        if not LEVEL.search(title) or not MINUTES.search(title):
            yield f"say how hard and how many minutes in: {title}"
        if "Check your answer" not in summaries:
            yield f"no cell with code-summary 'Check your answer' after: {title}"
        if "Solution" not in summaries:
            yield f"no folded solution with code after: {title}"


def has_questions(nb: dict) -> Iterator[str]:
    """Three to five questions, each with an answer to all its options, and a check."""
    parts: list[tuple[str, str]] = []
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            parts.append(("code", execute.options(cell).get("code-summary", "")))
        elif cell["cell_type"] == "markdown":
            for kind, pattern in (("question", QUESTION), ("answer", ANSWER)):
                parts += [(kind, m[1]) for m in pattern.finditer(cell["source"])]
    asked = [i for i, (kind, _) in enumerate(parts) if kind == "question"]
    if not 3 <= len(asked) <= 5:
        yield f"{len(asked)} questions titled 'Check yourself' instead of 3 to 5"
    for at in asked:
        question = parts[at][1]
        shown = f"the question: {question.strip()[:60]}"
        after = [part for part in parts[at + 1 :] if part[1] != "Figure code"]
        kinds = [kind for kind, _ in after[:2]]
        if kinds != ["answer", "code"] or after[1][1] != "Check the claim":
            yield f"no answer in a fold, followed by a check, after {shown}"
            continue
        right = RIGHT.match(after[0][1])
        others = set(OPTION.findall(question)) - set(right[1] if right else "")
        if not right or not others or others != set(OPTION.findall(after[0][1])):
            yield f"not a sentence for each option, the right one first, after {shown}"


def figures_are_described(nb: dict) -> Iterator[str]:
    """A figure has an alternative text and, where shown, a label and a caption."""
    for name, cell in code_cells(nb):
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        if not kinds & {"image/png", "image/svg+xml", "image/jpeg"}:
            continue
        given = execute.options(cell)
        wanted = ["fig-alt"]
        if given.get("output") is not False:
            wanted += ["fig-cap", "label"]
        for option in wanted:
            if not str(given.get(option) or "").strip():
                yield f"{name}: a figure without {option}"
        if not str(given.get("label", "fig-")).startswith("fig-"):
            yield f"{name}: the label of a figure begins with fig-"


def cells_are_short(nb: dict) -> Iterator[str]:
    """Short cells, short lines."""
    lengths = []
    for name, cell in code_cells(nb):
        lines = cell["source"].splitlines()
        lengths.append(len(execute.python_source(cell).strip().splitlines()))
        if len(lines) > MAX_LINES:
            yield f"{name}: {len(lines)} lines instead of at most {MAX_LINES}"
        for line in lines:
            if len(line) > MAX_WIDTH:
                yield f"{name}: a line of {len(line)} characters: {line.strip()[:40]}…"
    if lengths and statistics.median(lengths) > MEDIAN_LINES:
        middle = statistics.median(lengths)
        yield f"the median cell has {middle} lines instead of at most {MEDIAN_LINES}"


def nothing_legacy(nb: dict) -> Iterator[str]:
    """No global seeds, no dates, no paths of one machine."""
    for name, cell in code_cells(nb):
        for pattern, reason in LEGACY.items():
            if found := re.search(pattern, cell["source"]):
                yield f"{name}: {found[0]}: {reason}"


def markdown_is_plain(nb: dict) -> Iterator[str]:
    """No HTML where Markdown does; the title is the only heading of level 1.

    Markdown has nothing that JupyterLab folds: answers may have HTML around them.
    """
    for number, cell in enumerate(nb["cells"], 1):
        if cell["cell_type"] == "markdown":
            text = ANSWER.sub(r"\1", solutions.SOLUTION.sub(r"\1", cell["source"]))
            if found := HTML.search(prose(cell | {"source": text})):
                yield f"cell {number}: HTML in Markdown: {found[0]}"
            if found := re.search(r"^# .*", prose(cell), re.MULTILINE):
                yield f"cell {number}: sections begin with ##, not with: {found[0]}"


def folds_are_of_a_kind(nb: dict) -> Iterator[str]:
    """A folded cell says what it holds, and holds that."""
    for name, cell in code_cells(nb):
        given = execute.options(cell)
        summary = given.get("code-summary")
        if given.get("code-fold") and summary not in SUMMARIES:
            yield f"{name}: code-summary {summary!r} is none of {sorted(SUMMARIES)}"
        if summary and not given.get("code-fold"):
            yield f"{name}: a code-summary needs code-fold: true"


def cannot_fail(test: ast.expr) -> bool:
    """Say whether an assert holds whatever the variables are."""
    sides = [test.left, *test.comparators] if isinstance(test, ast.Compare) else []
    same = len(sides) == 2 and ast.dump(sides[0]) == ast.dump(sides[1])
    names = any(isinstance(node, ast.Name) for node in ast.walk(test))
    return same or isinstance(test, ast.Tuple) or not names


def checks_can_fail(nb: dict) -> Iterator[str]:
    """A check of a claim asserts something about variables."""
    for name, cell in code_cells(nb):
        if execute.options(cell).get("code-summary") == "Check the claim":
            nodes = ast.walk(ast.parse(execute.python_source(cell)))
            asserts = [node.test for node in nodes if isinstance(node, ast.Assert)]
            if all(map(cannot_fail, asserts)):
                yield f"{name}: a check of a claim contains an assert that can fail"


def claims_are_checked(nb: dict) -> Iterator[str]:
    """A section has a check of the numbers that it states after code."""
    title, claims, sources = "the beginning", [], []
    for cell in [*nb["cells"], {"cell_type": "markdown", "source": "## The end"}]:
        if cell["cell_type"] == "code":
            sources.append(cell["source"])
        elif cell["cell_type"] == "markdown":
            text = ANSWER.sub("", solutions.SOLUTION.sub("", cell["source"]))
            for part in HEADING.split(text):
                if HEADING.fullmatch(part):
                    checked = any("Check the claim" in source for source in sources)
                    if claims and not checked and not EXERCISE.match(title):
                        yield f"no check of {claims[0][0]!r} in the section {title}"
                    title, claims, sources = part, [], []
                elif sources:
                    claims += CLAIM.findall(prose({"source": part}))


def fits_a_sitting(nb: dict) -> Iterator[str]:
    """The text is short enough to be read at one go."""
    words = sum(
        len(prose(cell).split())
        for cell in nb["cells"]
        if cell["cell_type"] == "markdown"
    )
    if words > MAX_WORDS:
        yield f"{words:,} words are more than {MAX_WORDS:,}"


def was_executed(nb: dict) -> Iterator[str]:
    """Every cell was executed, in order, and left only what may be stored."""
    counts = [cell["execution_count"] for _, cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield "not all cells were executed in order; use `make notebooks`"
    yield from execute.output_faults(nb)


def is_fresh(nb: dict) -> Iterator[str]:
    """The stored outputs come from the code, data and packages as they are now."""
    yield from execute.stale(nb)
    stamp = nb["metadata"].get("course")
    if not stamp:
        return
    if "stamp" not in nb["cells"][-1]["metadata"].get("tags", ()):
        yield "the last cell is not the stamp of the run"
    elif nb["cells"][-1]["source"] != execute.stamp_text(stamp):
        yield "the stamp on the page differs from the stored facts"
    lock = (execute.ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name in environment.SHOWN:
        if f"\n{name}=={stamp['versions'].get(name)}\n" not in lock:
            version = stamp["versions"].get(name)
            yield f"executed with {name} {version}, which is not the locked version"


def is_within_budget(nb: dict) -> Iterator[str]:
    """The run that made the outputs was small, and quick if it can tell."""
    stamp = nb["metadata"].get("course", {})
    busy = stamp.get("slower", 1) >= execute.BUSY  # such a run cannot tell
    if stamp.get("seconds", 0) > execute.SECONDS_LIMIT and not busy:
        yield f"{stamp['seconds']} s are more than {execute.SECONDS_LIMIT}"
    if stamp.get("peak_mib", 0) > execute.MIB_LIMIT:
        yield f"{stamp['peak_mib']} MiB are more than {execute.MIB_LIMIT}"


def keys_are_used_once(nb: dict) -> Iterator[str]:
    """No random key is used twice and no loop compiles anew."""
    yield from lint_jax.check_notebook(nb)


def is_small(nb: dict) -> Iterator[str]:
    """The stored file is small enough to clone and to open."""
    size = len(nbformat.writes(nb).encode())
    if size > MAX_BYTES:
        yield f"{size / 1e6:.1f} MB are more than {MAX_BYTES / 1e6:.0f}"


RULES: list[Rule] = [
    is_valid,
    begins_with_front_matter,
    opens_with_callout,
    has_exercises,
    has_questions,
    figures_are_described,
    cells_are_short,
    nothing_legacy,
    markdown_is_plain,
    folds_are_of_a_kind,
    checks_can_fail,
    claims_are_checked,
    fits_a_sitting,
    was_executed,
    is_fresh,
    is_within_budget,
    keys_are_used_once,
    is_small,
]


# Only the notebooks of the course keep these; other pages need not.
LESSON_RULES: list[Rule] = [
    opens_with_callout,
    has_exercises,
    has_questions,
    claims_are_checked,
]


def rules_for(path: Path) -> list[Rule]:
    """Return the rules that a stored notebook keeps."""
    is_lesson = path.parent.name == "notebooks"
    return [rule for rule in RULES if is_lesson or rule not in LESSON_RULES]


def faults_of(path: Path) -> Iterator[str]:
    """Yield what is wrong with a stored notebook."""
    try:
        nb = load(path)
    except execute.UnreadableError as error:
        yield str(error)
    else:
        for rule in rules_for(path):
            yield from (f"{path.stem}: {fault}" for fault in rule(nb))


def main(names: list[str]) -> int:
    """Print the faults of the notebooks whose names begin with these, or of all."""
    paths = execute.stored_notebooks()
    wanted = [path for path in paths if path.name.startswith(tuple(names) or "")]
    faults = [fault for path in wanted for fault in faults_of(path)]
    print("\n".join(faults) or "The notebooks keep all rules.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
