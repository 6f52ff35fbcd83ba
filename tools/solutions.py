"""Write the notebooks with their exercises solved, for the tests to execute.

A solution is folded Markdown, so that running a notebook neither shows nor executes it.
Here its code becomes a cell, after which each check of the answer runs again and must
say that it is right.
"""

import copy
import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

import execute

SOLUTION = re.compile(
    r"^<details>\n<summary>Solution</summary>\n(.*?)^</details>$", re.S | re.M
)
CODE = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)
CHECK = '#| code-summary: "Check your answer"'
AGAIN = """\
from IPython.utils.capture import capture_output

with capture_output() as shown:
    get_ipython().run_cell({source!r}).raise_error()
verdicts = [line for line in shown.stdout.splitlines() if not line.startswith(" ")]
assert verdicts, "a check that says nothing"
assert all(line.startswith("Right.") for line in verdicts), shown.stdout
"""


def code_of(text: str) -> str | None:
    """Return the code of the solution in a cell of Markdown, or None without one."""
    found = SOLUTION.search(text)
    return found and "\n".join(CODE.findall(found[1]))


def solved(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook in which solutions are executed and checked."""
    cells, checks = [], []
    for cell in copy.deepcopy(nb)["cells"]:
        cells.append(cell)
        if cell["cell_type"] == "code" and CHECK in cell["source"]:
            checks.append(cell["source"])
        elif cell["cell_type"] == "markdown" and (code := code_of(cell["source"])):
            again = AGAIN.format(source="\n".join(checks))
            cells += [new_code_cell(code), new_code_cell(again)]
            checks = []
    return nbformat.v4.new_notebook(metadata=nb["metadata"], cells=cells)


def main(folder: str) -> None:
    """Write all notebooks of the course, solved, into a folder."""
    target = Path(folder)
    target.mkdir(exist_ok=True)
    for path in execute.course_order():
        nbformat.write(solved(execute.read(path)), target / path.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
