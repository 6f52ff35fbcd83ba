"""The page of results is what the stored JSON files say."""

import json
import shutil

import nbformat
import pytest

import execute
from benchmarks import run
from benchmarks.shared import record
from benchmarks.shared.targets import goals

PAGE = nbformat.read(record.ROOT / "results.ipynb", as_version=4)


@pytest.fixture(scope="module")
def results():
    return record.read()


def sources(nb):
    return [execute.python_source(c) for c in nb["cells"] if c["cell_type"] == "code"]


def shown(label):
    """The text of the outputs of the cell with this label."""
    (cell,) = (c for c in PAGE["cells"] if f"#| label: {label}\n" in c["source"])
    return "".join(o["data"]["text/markdown"] for o in cell["outputs"])


def test_every_goal_was_measured_and_stands_in_the_table(results):
    course = goals(results)
    assert len(course) == 14
    for goal in course:
        assert goal.cases, goal.what
        assert goal.row() in shown("tbl-results-targets").splitlines()


def test_each_file_says_where_its_figures_come_from(results):
    known = {each["command"].split()[2] for each in results.values()}
    assert known == {f"benchmarks.{name}" for name in run.SCRIPTS}
    table = shown("tbl-results-origin")
    for name, facts in results.items():
        line = next(x for x in table.splitlines() if f"`{name}.json`" in x)
        assert facts["date"] in line
        assert facts["hardware"] in line
        assert facts["versions"]


def copy_of(folder):
    shutil.copytree(record.ROOT / "benchmarks", folder / "benchmarks")
    return folder / "benchmarks" / "results"


def notebook(name):
    return nbformat.read(record.ROOT / "notebooks" / name, as_version=4)


@pytest.mark.parametrize(
    ("nb", "reads"),
    [
        (PAGE, {path.stem for path in record.RESULTS.glob("*.json")}),
        (notebook("04_bayesian_neural_network.ipynb"), {"bnn_reference"}),
        (notebook("06_scaling.ipynb"), {"rows", "streaming", "many_fits"}),
        (
            notebook("12_devices_and_production.ipynb"),
            {"accelerators-cpu", "devices", "processes", "production"},
        ),
        (notebook("01_bayes_rule.ipynb"), set()),
    ],
    ids=["results", "04", "06", "12", "01"],
)
def test_a_result_that_changed_is_noticed(nb, reads, tmp_path):
    stored = copy_of(tmp_path)
    code = "\n".join(sources(nb))
    found = execute.used_data(code, record.ROOT / "benchmarks")
    assert {path.stem for path in found} >= reads
    before = execute.hashes(nb, tmp_path)["data"]
    assert before == execute.hashes(nb)["data"]
    for name in reads:
        path = stored / f"{name}.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(facts | {"date": "2000-01-01"}), encoding="utf-8")
        after = execute.hashes(nb, tmp_path)["data"]
        assert after != before
        before = after


def test_a_result_that_is_added_is_noticed(tmp_path):
    stored = copy_of(tmp_path)
    shutil.copy(stored / "accelerators-cpu.json", stored / "accelerators-gpu.json")
    then, now = execute.hashes(PAGE)["data"], execute.hashes(PAGE, tmp_path)["data"]
    assert then != now
