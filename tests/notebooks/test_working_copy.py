"""Working copies: what JupyterLab shows reads well, what a learner wrote stays."""

import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

import execute
import working_copy

PAGES = "[notebooks/01_one.ipynb, notebooks/02_two.ipynb]"
CONFIG = f"website: {{sidebar: {{contents: {PAGES}}}}}"
BIB = """@article{gelman2014nuts, author={Hoffman, Matthew and Gelman, Andrew},
  title={The Sampler}, journal={J}, year={2014}}
@book{knuth1968, author={Knuth, Donald}, title={Art}, publisher={AW}, year={1968}}"""
FRONT = """---
title: "Bayes' rule: {}"
description: "What it is."
categories: [prior]
---"""
TEXT = """## What `fit` does {#sec-fit}

@eq-one and @fig-one; see @tbl-two. @sec-fit says so, and so does @sec-math (@sec-fit).
We cite [@gelman2014nuts; @knuth1968, p. 3] and @knuth1968. Not in `a @knuth1968 b`.
Mail to me@example.org. [Then](02_two.ipynb), [a place](02_two.ipynb#sec-there),
[a page](../running.qmd), [the web](https://example.org).
[An old [place](02_two.ipynb#old)]{#old}

$$
p(x) = 1
$$ {#eq-one}

| a | b |
|:--|--:|
| 1 | 2 |

: A table of `fit`. {#tbl-two}

## With $x$ in it {#sec-math}

::: {.callout-tip title="Exercise 1 · easy"}
Do it.

$$
y
$$
:::

::: {.callout-note collapse="true" title="More"}
Folded.
:::

```python
@jax.jit
def f(x):  # [@knuth1968] and {#sec-fit}
    ::: {.callout-note title="no"}
```"""
FIGURE = """#| label: fig-one
#| fig-cap: "Left: what @eq-one says,
#|   in two lines."
#| fig-alt: "A line."
#| code-summary: "Figure code"
#| code-fold: true
plot()"""


def cell(source):
    return new_code_cell(source, execution_count=1)


@pytest.fixture
def course(tmp_path):
    """A small course of two notebooks."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_quarto.yml").write_text(CONFIG)
    (tmp_path / "references.bib").write_text(BIB)
    one = [new_raw_cell(FRONT.format("one")), new_markdown_cell(TEXT), cell(FIGURE)]
    one += [new_markdown_cell("::: {.interactive-one}\nFor pages alone.\n:::")]
    two = [new_markdown_cell("## There: it is {#sec-there}\n\nText."), cell("2")]
    stamp = new_markdown_cell("*Made*", metadata={"tags": ["stamp"]})
    for name, cells in (("01_one", one), ("02_two", two)):
        nb = new_notebook(cells=[*cells, stamp])
        nbformat.write(nb, tmp_path / f"notebooks/{name}.ipynb")
    return tmp_path


def change(path, index, source):
    nb = nbformat.read(path, 4)
    nb.cells[index].source = source
    nbformat.write(nb, path)


def update(course):
    return working_copy.update(course, course / "work")


def test_a_copy_reads_well(course):
    assert update(course) == {"01_one.ipynb": "new", "02_two.ipynb": "new"}
    nb = execute.read(course / "work/01_one.ipynb")
    nbformat.validate(nb)
    title, text, figure, caption, references = nb.cells
    assert title.cell_type == "markdown"
    assert title.source == "# Bayes' rule: one\n\nWhat it is."
    assert figure.source == "# Figure code\nplot()"
    said = "**Figure 1.** Left: what Equation 1 says, in two lines."
    assert caption.source == said
    assert references.source.startswith("## References\n\nHoffman, Matthew, and Andrew")
    assert "Knuth, Donald. 1968. *Art*. AW." in references.source
    expected = """## What `fit` does

Equation 1 and Figure 1; see Table 1. \
Section [“What `fit` does”](<#What-fit-does>) says so, \
and so does section “With $x$ in it” (section [“What `fit` does”](<#What-fit-does>)).
We cite (Hoffman and Gelman 2014; Knuth 1968, 3) and Knuth (1968). \
Not in `a @knuth1968 b`.
Mail to me@example.org. [Then](02_two.ipynb), \
[a place](<02_two.ipynb#There:-it-is>),
a page, [the web](https://example.org).
An old [place](02_two.ipynb)

$$
p(x) = 1 \\tag{1}
$$

| a | b |
|:--|--:|
| 1 | 2 |


**Table 1.** A table of `fit`.

## With $x$ in it

<div style="border-left: 5px solid #009E73; padding-left: 15px">

**Exercise 1 · easy**

Do it.

$$
y
$$

</div>

<details>
<summary>More</summary>

Folded.

</details>

"""
    code = TEXT[TEXT.index("```python") :]
    assert text.source == expected + code


def test_a_second_call_changes_nothing(course):
    update(course)
    path = course / "work/01_one.ipynb"
    before = path.stat().st_mtime_ns
    assert update(course) == {}
    assert path.stat().st_mtime_ns == before


def test_what_a_learner_wrote_stays_and_the_rest_follows_the_course(course):
    update(course)
    mine, other = course / "work/01_one.ipynb", course / "work/02_two.ipynb"
    change(mine, 2, "my_answer = 3")
    before = mine.read_text()
    assert update(course) == {}
    change(course / "notebooks/01_one.ipynb", 2, "plot_better()")
    change(course / "notebooks/02_two.ipynb", 1, "3")
    assert update(course) == {"01_one.ipynb": "kept", "02_two.ipynb": "updated"}
    assert mine.read_text() == before
    assert execute.read(other).cells[1].source == "3"
    mine.rename(course / "work/mine.ipynb")
    assert update(course) == {"01_one.ipynb": "new"}
    assert (course / "work/mine.ipynb").read_text() == before


def test_outputs_are_not_what_a_learner_wrote(course):
    update(course)
    path = course / "work/02_two.ipynb"
    nb = execute.read(path)
    nb.cells[1].execution_count = 7
    nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(nb, path)
    assert update(course) == {}  # nothing new, so the outputs stay
    assert execute.read(path).cells[1].execution_count == 7
    change(course / "notebooks/02_two.ipynb", 1, "3")
    assert update(course) == {"02_two.ipynb": "updated"}


def test_a_copy_stays_if_nobody_knows_who_wrote_it(course):
    update(course)
    path = course / "work/01_one.ipynb"
    nb = execute.read(path)
    del nb["metadata"]["course"]
    nbformat.write(nb, path)
    assert update(course) == {"01_one.ipynb": "updated"}  # it is as the course's
    nb.cells[2].source = "my_answer = 3"
    nbformat.write(nb, path)
    assert update(course) == {"01_one.ipynb": "kept"}
    assert "my_answer" in path.read_text()


def test_a_broken_copy_stays(course):
    update(course)
    (course / "work/01_one.ipynb").write_text('{"cells": [')
    assert update(course) == {"01_one.ipynb": "kept"}


def test_a_new_notebook_is_added(course):
    update(course)
    nb = new_notebook(cells=[new_raw_cell(FRONT.format("three"))])
    nbformat.write(nb, course / "notebooks/03_three.ipynb")
    assert update(course) == {"03_three.ipynb": "new"}


def test_the_page_of_faults_is_copied_and_linked(course):
    link = "[Why](../troubleshooting.ipynb#sec-nan), [all](../troubleshooting.ipynb)."
    change(course / "notebooks/02_two.ipynb", 0, link)
    text = "## NaN loss {#sec-nan}\n\nSee [it](notebooks/02_two.ipynb)."
    nb = new_notebook(cells=[new_markdown_cell(text)])
    nbformat.write(nb, course / "troubleshooting.ipynb")
    update(course)
    two = execute.read(course / "work/02_two.ipynb").cells[0].source
    assert two == (
        "[Why](<troubleshooting.ipynb#NaN-loss>), [all](troubleshooting.ipynb)."
    )
    page = execute.read(course / "work/troubleshooting.ipynb").cells[0].source
    assert page == "## NaN loss\n\nSee [it](02_two.ipynb)."


def test_a_learner_is_told_what_was_kept(course, monkeypatch, capsys):
    monkeypatch.setattr(execute, "ROOT", course)
    working_copy.main("work")
    change(course / "work/01_one.ipynb", 2, "my_answer = 3")
    capsys.readouterr()
    working_copy.main("work")
    assert capsys.readouterr().out == ""  # the course has no newer one
    change(course / "notebooks/01_one.ipynb", 2, "plot_better()")
    working_copy.main("work")
    assert capsys.readouterr().out.startswith("work/01_one.ipynb: the course has a ")


def test_the_course_leaves_no_markup_of_the_pages(tmp_path):
    working_copy.update(execute.ROOT, tmp_path / "work")
    left = re.compile(r".{0,30}(?:(?<!\w)@\w|^:::|\{[#.]|\]\([^)]*\.qmd).{0,30}", re.M)
    for original in [*execute.course_order(), execute.ROOT / working_copy.BESIDE]:
        nb = json.loads((tmp_path / "work" / original.name).read_text("utf-8"))
        assert "".join(nb["cells"][0]["source"]).startswith("# ")
        for cell in nb["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code":
                assert "#| " not in source
                continue
            text = "".join(working_copy.CODE.split(source)[::2])
            assert left.findall(text) == [], original.name
