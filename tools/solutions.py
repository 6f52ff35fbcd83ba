"""Write the notebooks with their exercises solved, for the tests to execute.

A solution is folded Markdown, so that running a notebook neither shows nor executes it.
Here its code becomes a cell, after which each check of the answer runs again and must
say that it is right. Before, the check meets answers of a wrong form, on a copy of the
variables: it must say what is wrong and must not judge them. Afterwards it meets
answers that are plausible and wrong, which the files of the next paragraph list.

Checks of claims are tested here too. A file in ``tests/notebooks/broken_claims`` lists
changes that make a claim of its notebook false: of the data, the model or a number.
After the check of that claim stands a cell that makes the change, on a copy of the
variables, and then runs the check, which must fail.
"""

import ast
import copy
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

import execute

SOLUTION = re.compile(
    r"^<details>\n<summary>Solution</summary>\n(.*?)^</details>$", re.S | re.M
)
CODE = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)
CHECK = '#| code-summary: "Check your answer"'
# Functions, so that their names do not replace those of the notebook.
AGAIN = """\
def _check_again():
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        get_ipython().run_cell({source!r}).raise_error()
    verdicts = [line for line in shown.stdout.splitlines() if line[:1] != " "]
    assert verdicts, "a check that says nothing"
    assert all(line.startswith("Right.") for line in verdicts), shown.stdout


_check_again()
"""
MALFORMED = """\
def _try_malformed():
    import numpy
    from IPython.utils.capture import capture_output

    malformed = {{
        "text": "abc",
        "not a number": float("nan"),
        "a wrong shape": numpy.ones((7, 5, 3)),
        "a function without return": lambda *args, **kwargs: None,
        "a number": 3.0,
    }}
    for name in {names!r}:
        for form, value in malformed.items():
            with capture_output() as shown:
                exec({check!r}, globals() | {{name: value}})
            said = f"{{name}} as {{form}}: {{shown.stdout}}"
            assert shown.stdout, said
            judged = "is not the expected value" in said
            assert form == "a number" or not judged, said


_try_malformed()
"""
BROKEN = """\
def _break_claim():
    from IPython.utils.capture import capture_output

    scope = dict(globals())
    with capture_output():
        for code in {prepared!r}:
            exec(code, scope)
        try:
            exec({check!r}, scope)
        except AssertionError:
            return True
    return False


assert _break_claim(), "the check did not notice: " + {claim!r}
"""
CLAIMS = execute.ROOT / "tests/notebooks/broken_claims"


WRONG = """\
def _try_wrong():
    from IPython.utils.capture import capture_output

    names = dict(globals())
    exec({answer!r}, names)
    with capture_output() as shown:
        exec({check!r}, names)
    refused = "is not the expected value" in shown.stdout  # and no error of its code
    assert refused, {mistake!r} + ": " + shown.stdout


_try_wrong()
"""


def wrong_answers(name: str) -> list[dict]:
    """Return answers to exercises of a notebook that learners might give.

    Each has ``mistake``, what went wrong; ``check``, the id of the cell that must
    notice it; and ``answer``, code to run after the solution.
    """
    return tomllib.loads((CLAIMS / f"{name}.toml").read_text("utf-8")).get("wrong", [])


def broken_claims(name: str) -> list[dict]:
    """Return the changes that the checks of a notebook must notice.

    Each has ``claim``, the statement that becomes false; ``check``, the id of the cell
    that checks it; ``change``, code to run before; and ``again``, a list of cells to
    execute after the change, as ``[id]`` or ``[id, old text, new text]``.
    """
    return tomllib.loads((CLAIMS / f"{name}.toml").read_text("utf-8")).get("broken", [])


def broken(cells: dict[str, dict], claim: dict) -> nbformat.NotebookNode:
    """Return a cell that makes a claim false and asserts that its check fails."""
    prepared = [claim.get("change", "")]
    for name, *texts in claim.get("again", ()):
        source = execute.python_source(cells[name])
        if texts:
            assert source.count(texts[0]) == 1, (
                f"{name}: {texts[0]!r} is not there once"
            )
            source = source.replace(*texts)
        prepared.append(source)
    check = execute.python_source(cells[claim["check"]])
    return new_code_cell(
        BROKEN.format(prepared=prepared, check=check, claim=claim["claim"])
    )


def assigned(source: str) -> list[str]:
    """Return the names that a cell assigns or defines."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [at.id for at in node.targets if isinstance(at, ast.Name)]
    return names


def names_in(node: ast.AST) -> set[str]:
    """Return the names that a piece of code reads."""
    return {at.id for at in ast.walk(node) if isinstance(at, ast.Name)}


def malformed(starters: list[dict], check: dict) -> nbformat.NotebookNode:
    """Return a cell that gives the check of an exercise answers of a wrong form.

    The answer is what ``check`` gets second, or what the cell makes that from.
    """
    source = execute.python_source(check)
    calls = [at for at in ast.walk(ast.parse(source)) if isinstance(at, ast.Call)]
    checks = [at for at in calls if ast.unparse(at.func) == "check"]
    asked = set().union(*(names_in(at.args[1]) for at in checks))
    given = [n for cell in starters for n in assigned(execute.python_source(cell))]
    names = [name for name in given if name in asked]
    names = names or [name for name in given if name in names_in(ast.parse(source))]
    assert names, f"what answers this check? {source}"
    return new_code_cell(MALFORMED.format(names=names, check=source))


def code_of(text: str) -> str | None:
    """Return the code of the solution in a cell of Markdown, or None without one."""
    found = SOLUTION.search(text)
    return found and "\n".join(CODE.findall(found[1]))


def solved(
    nb: nbformat.NotebookNode, claims: Sequence[dict] = (), wrong: Sequence[dict] = ()
) -> nbformat.NotebookNode:
    """Return a notebook in which solutions are executed and checked, claims broken."""
    by_id = {cell["id"]: cell for cell in nb["cells"]}
    named = {each["check"] for each in [*claims, *wrong]}
    assert named <= set(by_id), "a check is gone"
    cells, starters, checks = [], [], []
    for cell in copy.deepcopy(nb)["cells"]:
        cells.append(cell)
        cells += [broken(by_id, c) for c in claims if c["check"] == cell["id"]]
        if cell["cell_type"] == "code" and CHECK in cell["source"]:
            if "check(" in cell["source"]:
                cells.append(malformed(starters, cell))
            checks.append(cell)
        elif cell["cell_type"] == "code":
            starters.append(cell)
        elif cell["cell_type"] == "markdown" and "Exercise" in cell["source"]:
            starters = []
        elif cell["cell_type"] == "markdown" and (code := code_of(cell["source"])):
            again = AGAIN.format(source="\n".join(c["source"] for c in checks))
            cells += [new_code_cell(code), new_code_cell(again)]
            sources = {c["id"]: execute.python_source(c) for c in checks}
            cells += [
                new_code_cell(WRONG.format(**each | {"check": sources[each["check"]]}))
                for each in wrong
                if each["check"] in sources
            ]
            checks = []
    return nbformat.v4.new_notebook(metadata=nb["metadata"], cells=cells)


def tested() -> list[Path]:
    """Return the notebooks with broken claims: the course, and pages beside it."""
    known = {path.stem for path in CLAIMS.glob("*.toml")}
    return [path for path in execute.stored_notebooks() if path.stem in known]


def main(folder: str) -> None:
    """Write all notebooks that have broken claims, solved, into a folder."""
    target = Path(folder)
    target.mkdir(exist_ok=True)
    results = target / "benchmarks"  # pages beside the course read them from here
    if not results.is_symlink():
        results.symlink_to(execute.ROOT / "benchmarks")
    for path in tested():
        listed = broken_claims(path.stem), wrong_answers(path.stem)
        nb = solved(execute.read(path), *listed)
        nbformat.write(nb, target / path.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
