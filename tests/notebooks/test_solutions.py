"""Solutions are folded text in a notebook, and executed and checked by the tests."""

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import execute
import solutions

IMPORTS = "from helpers.exercises import check"
CHECK = '#| code-fold: true\n#| code-summary: "Check your answer"\n'
CHECK += 'check("answer", answer, expected=2.0);'
SOLUTION = """<details>
<summary>Solution</summary>

One and one are

```python
{}
```

</details>"""


def notebook(solution):
    cells = [
        new_code_cell(IMPORTS),
        new_code_cell("answer = None"),
        new_code_cell(CHECK),
        new_markdown_cell(SOLUTION.format(solution)),
        new_code_cell("after = answer"),
    ]
    return new_notebook(cells=cells)


def test_a_notebook_alone_neither_shows_nor_executes_solutions(tmp_path):
    nb = notebook("answer = 1 + 1")
    execute.run(nb, tmp_path)
    (output,) = (o for cell in nb.cells for o in cell.get("outputs", ()))
    assert output["text"].startswith("answer: no answer yet")


def test_a_right_solution_is_executed_in_the_place_of_the_answer(tmp_path):
    nb = solutions.solved(notebook("answer = 1 + 1"), [])
    assert "answer = 1 + 1\n" in [cell.source for cell in nb.cells]
    execute.run(nb, tmp_path)


@pytest.mark.parametrize("solution", ["answer = 3", "answer = 'two'", "assert False"])
def test_a_wrong_solution_fails(tmp_path, solution):
    with pytest.raises(CellExecutionError):
        execute.run(solutions.solved(notebook(solution), []), tmp_path)


def test_a_check_that_says_nothing_fails(tmp_path):
    nb = notebook("answer = 2")
    nb.cells[2]["source"] = CHECK.split("check(")[0] + "check"
    with pytest.raises(CellExecutionError, match="says nothing"):
        execute.run(solutions.solved(nb, []), tmp_path)


def test_every_exercise_of_the_course_is_solved():
    for path in execute.course_order():
        nb = execute.read(path)
        checks = sum('"Check your answer"' in c["source"] for c in nb["cells"])
        again = sum(".run_cell(" in c["source"] for c in solutions.solved(nb, []).cells)
        assert 3 <= again <= checks


def test_every_exercise_meets_a_wrong_answer():
    for path in execute.course_order():
        cells = execute.read(path)["cells"]
        checks = {c["id"] for c in cells if '"Check your answer"' in c["source"]}
        wrong = [each["check"] for each in solutions.wrong_answers(path.stem)]
        judging = [c for c in cells if c["id"] in checks and "check(" in c["source"]]
        assert {c["id"] for c in judging} == set(wrong), path.stem


@pytest.mark.parametrize("answer", ["answer = 3", "answer = -answer"])
def test_a_check_refuses_a_wrong_answer_and_nothing_changes(tmp_path, answer):
    nb = notebook("answer = 2")
    nb.cells[2]["id"] = "check"
    wrong = [{"check": "check", "mistake": "not 2", "answer": answer}]
    solved = solutions.solved(nb, wrong=wrong)
    solved.cells.append(new_code_cell("assert answer == 2"))
    execute.run(solved, tmp_path)


def test_a_wrong_answer_that_the_check_accepts_is_found(tmp_path):
    nb = notebook("answer = 2")
    nb.cells[2]["id"] = "check"
    wrong = [{"check": "check", "mistake": "one and one", "answer": "answer = 1 + 1"}]
    with pytest.raises(CellExecutionError, match="one and one"):
        execute.run(solutions.solved(nb, wrong=wrong), tmp_path)


def with_a_claim(check):
    cells = [
        new_code_cell("data = [1, 2, 3]", id="data"),
        new_code_cell("total = sum(data)", id="total"),
        new_code_cell(check, id="check"),
        new_code_cell("assert total == 6"),
    ]
    return new_notebook(cells=cells)


CHANGES = [
    {"claim": "the sum is 6", "check": "check", "change": "total = 7"},
    {"claim": "3 ends", "check": "check", "again": [["data", "3", "4"], ["total"]]},
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_broken_claim_is_noticed_and_leaves_the_variables_alone(tmp_path, change):
    nb = solutions.solved(with_a_claim("assert total == 6"), [change])
    execute.run(nb, tmp_path)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("check", ["assert total > 5", "assert True", "# no assert"])
def test_a_check_that_notices_nothing_fails(tmp_path, change, check):
    with pytest.raises(CellExecutionError, match="did not notice"):
        execute.run(solutions.solved(with_a_claim(check), [change]), tmp_path)


def test_a_check_that_is_gone_is_noticed():
    nb = with_a_claim("assert total == 6")
    del nb.cells[2]
    with pytest.raises(AssertionError, match="a check is gone"):
        solutions.solved(nb, CHANGES)


def test_all_notebooks_of_the_course_are_tested():
    assert set(execute.course_order()) <= set(solutions.tested())


@pytest.mark.parametrize("path", solutions.tested(), ids=lambda path: path.stem)
def test_each_notebook_has_at_least_five_claims_broken(path):
    assert len(solutions.broken_claims(path.stem)) >= 5
