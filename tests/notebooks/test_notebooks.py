"""Every stored notebook keeps the rules, and each rule notices when one does not.

That they run, with their exercises solved, is tested too: `make test-notebooks` lets
nbmake collect them.
"""

import datetime
import re

import nbformat
import pytest
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
    new_raw_cell,
)

import execute
import notebook_rules as rules
from helpers import environment

NOTEBOOKS = execute.course_order()


def test_there_are_notebooks_numbered_in_course_order():
    numbers = [path.name.split("_")[0] for path in NOTEBOOKS]
    assert numbers[0] == "01"
    assert all(re.fullmatch(r"\d\d[a-z]?", number) for number in numbers)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", execute.stored_notebooks(), ids=lambda path: path.stem)
def test_stored_notebook(path, rule):
    if rule not in rules.rules_for(path):
        pytest.skip("a rule for the notebooks of the course alone")
    assert list(rule(rules.load(path))) == []


# The rules themselves, on a notebook that keeps them all and then breaks one.

OPENING = """::: {.callout-note title="Before you start"}
**You will** see. **You need** eyes. **Time** 1 minute.
:::"""
SOLUTION = """<details>
<summary>Solution</summary>

It is 1.

```python
answer = 1
```

</details>"""
QUESTION = """::: {.callout-note title="Check yourself"}
How much is 2 + 2?

- **A**: 3
- **B**: 4
- **C**: 5
:::"""
ANSWER = """<details>
<summary>Which one is right?</summary>

**B is right.** Count.

- **A**: no.
- **C**: no.

</details>"""
PNG = new_output("display_data", data={"image/png": "aaaa"})


def code(source, *outputs, **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


@pytest.fixture
def nb():
    cells = [
        new_raw_cell('---\ntitle: "T"\ndescription: "D"\ncategories: [c]\n---'),
        new_markdown_cell(OPENING),
        code(
            "from jax import random\n\nkey = random.key(0)\nprint(key)",
            new_output("stream", text="key\n"),
        ),
        new_markdown_cell("## Section {#sec-a}\n\n`<div>`, $a <b$ and 1 < 2."),
        code(
            '#| label: fig-a\n#| fig-cap: "C"\n#| fig-alt: >-\n#|   long\n#|   alt\n'
            '#| code-fold: true\n#| code-summary: "Figure code"\ndraw(key)',
            PNG,
        ),
        code(
            '#| code-fold: true\n#| code-summary: "Check the claim"\n'
            "assert key == key.T",
        ),
    ]
    for number in (1, 2, 3):
        cells += [
            new_markdown_cell(
                f"It is 0.5.\n\n### Exercise {number}: count (easy, 5 minutes)"
            ),
            code("answer = None"),
            code(
                '#| code-fold: true\n#| code-summary: "Check your answer"\nanswer',
            ),
            new_markdown_cell(SOLUTION),
        ]
    for _ in range(3):
        cells += [
            new_markdown_cell(QUESTION),
            new_markdown_cell(ANSWER),
            code(
                '#| code-fold: true\n#| code-summary: "Check the claim"\nassert key',
            ),
        ]
    nb = new_notebook(cells=cells)
    nb["nbformat_minor"] = 5
    counted = [cell for cell in cells if cell["cell_type"] == "code"]
    for count, cell in enumerate(counted, 1):
        cell["execution_count"] = count
    stamp(nb)
    return nb


def stamp(nb, **facts):
    facts = {
        "executed": datetime.date.today().isoformat(),
        "seconds": 10.0,
        "peak_mib": 500,
        "device": "CPU",
        "versions": environment.versions(),
        "sha256": execute.hashes(nb),
    } | facts
    execute.stamp(nb, facts)


def test_a_good_notebook_breaks_no_rule(nb):
    assert [fault for rule in rules.RULES for fault in rule(nb)] == []


def edit(number, old, new):
    """Return a change that replaces text in one cell."""

    def change(nb):
        assert old in nb["cells"][number]["source"]
        nb["cells"][number]["source"] = nb["cells"][number]["source"].replace(old, new)

    return change


def drop(number):
    return lambda nb: nb["cells"].pop(number)


def put(number, key, value):
    return lambda nb: nb["cells"][number].update({key: value})


BREAKS = [
    (rules.is_valid, lambda nb: nb.update(nbformat_minor=4)),
    (rules.is_valid, put(3, "id", "stamp")),
    (rules.is_valid, put(3, "surprise", 1)),
    (rules.begins_with_front_matter, edit(0, "description", "about")),
    (rules.begins_with_front_matter, edit(0, "[c]", "c")),
    (rules.begins_with_front_matter, drop(0)),
    (rules.opens_with_callout, edit(1, "**Time**", "Time")),
    (rules.opens_with_callout, edit(1, ".callout-note", ".note")),
    (rules.has_exercises, edit(6, "easy", "simple")),
    (rules.has_exercises, edit(6, "5 minutes", "soon")),
    (rules.has_exercises, drop(6)),
    (rules.has_exercises, drop(8)),
    (rules.has_exercises, drop(9)),
    (rules.has_exercises, edit(9, "```python", "```")),
    (rules.has_questions, edit(18, "Check yourself", "A question")),
    (rules.has_questions, edit(18, "- **C**: 5\n", "")),
    (rules.has_questions, edit(19, "- **C**: no.\n", "")),
    (rules.has_questions, edit(19, "**B is right.**", "It is B.")),
    (rules.has_questions, edit(19, "**B is right.**", "**A is right.**")),
    (rules.has_questions, drop(19)),
    (rules.has_questions, drop(20)),
    (rules.has_questions, edit(20, "Check the claim", "Table code")),
    (rules.markdown_is_plain, edit(19, "Which one is right?", "Answer")),
    (rules.figures_are_described, edit(4, "#| fig-cap", "#| tbl-cap")),
    (rules.figures_are_described, edit(4, "fig-alt", "fig-other")),
    (rules.figures_are_described, edit(4, "#| label: fig-a\n", "")),
    (rules.figures_are_described, edit(4, "fig-a\n", "a\n")),
    (rules.figures_are_described, put(8, "outputs", [PNG])),
    (rules.cells_are_short, edit(2, "print", "\n" * 40 + "print")),
    (rules.cells_are_short, edit(2, "print", "# " + "x" * 90 + "\nprint")),
    (rules.nothing_legacy, edit(2, "random.key(", "random.PRNGKey(")),
    (rules.nothing_legacy, edit(2, "print", "np.random.seed(1)\nprint")),
    (rules.nothing_legacy, edit(2, "print", "date.today()\nprint")),
    (rules.nothing_legacy, edit(2, "print", "open('/home/me')\nprint")),
    (rules.markdown_is_plain, edit(3, "1 < 2", "<br>")),
    (rules.markdown_is_plain, edit(3, "## Section", "# Section")),
    (rules.folds_are_of_a_kind, edit(4, "Figure code", "Code")),
    (rules.folds_are_of_a_kind, edit(4, "#| code-fold: true\n", "")),
    (rules.checks_can_fail, edit(5, "assert key", "key")),
    (rules.checks_can_fail, edit(5, "assert", "# assert")),
    (rules.checks_can_fail, edit(5, "key == key.T", "True")),
    (rules.checks_can_fail, edit(5, "key == key.T", "2 > 1")),
    (rules.checks_can_fail, edit(5, "key == key.T", "(key < 1, 'too large')")),
    (rules.checks_can_fail, edit(5, "key == key.T", "key == key")),
    (rules.claims_are_checked, drop(5)),
    (rules.claims_are_checked, edit(5, "Check the claim", "Figure code")),
    (rules.fits_a_sitting, edit(3, "Section", "word " * rules.MAX_WORDS)),
    (rules.markdown_is_plain, edit(9, "It is 1", "It is <br> 1")),
    (rules.markdown_is_plain, edit(9, "Solution", "Answer")),
    (rules.was_executed, put(5, "execution_count", None)),
    (rules.was_executed, put(5, "execution_count", 9)),
    (rules.was_executed, put(5, "outputs", [new_output("stream", name="stderr")])),
    (rules.is_fresh, edit(5, "key.T", "key.S")),
    (rules.is_fresh, edit(2, "import random", "import random\nimport helpers")),
    (rules.is_fresh, lambda nb: nb["cells"][2]["outputs"][0].update(text="other\n")),
    (rules.is_fresh, drop(-1)),
    (rules.is_fresh, edit(-1, "made on", "made before")),
    (rules.is_fresh, lambda nb: nb["metadata"].pop("course")),
    (rules.is_fresh, lambda nb: stamp(nb, versions={"jax": "0.1"})),
    (rules.is_within_budget, lambda nb: stamp(nb, seconds=91.0)),
    (rules.is_within_budget, lambda nb: stamp(nb, peak_mib=2049)),
    (rules.keys_are_used_once, edit(4, "draw(key)", "draw(key)\nf(key)")),
    (rules.is_small, edit(3, "Section", "x" * rules.MAX_BYTES)),
]


@pytest.mark.parametrize(
    ("rule", "change"), BREAKS, ids=[rule.__name__ for rule, _ in BREAKS]
)
def test_each_rule_finds_what_breaks_it(nb, rule, change):
    change(nb)
    assert list(rule(nb)) != []


def test_a_busy_machine_tells_nothing_of_the_seconds(nb):
    stamp(nb, seconds=91.0, slower=execute.BUSY)
    assert list(rules.is_within_budget(nb)) == []
    stamp(nb, seconds=91.0, slower=1.2)
    assert len(list(rules.is_within_budget(nb))) == 1


def test_each_rule_is_tested():
    assert {rule for rule, _ in BREAKS} == set(rules.RULES)


def test_a_missing_cell_id_is_not_repaired(nb, tmp_path):
    for cell in nb["cells"]:
        del cell["id"]
    path = tmp_path / "a.ipynb"
    path.write_text(nbformat.v4.writes(nb))
    with pytest.raises(nbformat.warnings.MissingIDFieldWarning):
        rules.load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"cells": [', "it is cut short"),
        (b"<<<<<<< HEAD\n{}\n", "the marks of a merge conflict"),
        (b"[]", "it is cut short"),
        (b'{"cells": "\xff"}', "it is not UTF-8"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, reason):
    path = tmp_path / "a.ipynb"
    path.write_bytes(text)
    with pytest.raises(execute.UnreadableError, match=rf"^a\.ipynb .*{reason}"):
        rules.load(path)
    assert reason in next(rules.faults_of(path))
    assert reason in execute.check(path)[0]
    assert reason in execute.execute(path, "CPU")[0]
