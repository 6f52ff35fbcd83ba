"""The learners' edition: no solution in it, and all that it takes to run it."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import execute
import learners
import solutions
import working_copy

SHORT = ("01", "12")  # notebooks that run soonest
EXTRAS = {"blackjax", "flowjax", "pymc", "statsforecast"}  # of notebooks 09b and 10
PAGE = """<main><h1>Page</h1><details><summary>Solution</summary>
<p>It is 42.</p></details><a href="course.zip">All</a></main>"""
USES = """
import importlib
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
import helpers
from helpers import __main__ as report
from helpers import cohorts, datasets, figures
from matplotlib import font_manager

assert ".venv" in helpers.__file__, helpers.__file__
figures.use_style()
font = font_manager.findfont("Source Sans 3", fallback_to_default=False)
assert "SourceSans3" in font
assert len(datasets.flights()) > 300_000
assert len(cohorts.cdnow()) > 0
assert report.check()
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """Return a folder with the course, its copies and learners.zip; the site is small.

    Binder's script makes the copies.
    """
    root = tmp_path_factory.mktemp("course") / "course"
    made = shutil.ignore_patterns(
        *(".git", ".venv", ".*_cache", ".solved", "_site", "work", "build"),
        *("__pycache__", "*.egg-info"),
    )
    shutil.copytree(execute.ROOT, root, ignore=made)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTHONPATH": str(root / "src")}
    subprocess.run([".binder/postBuild"], cwd=root, env=env, check=True)
    (root / "_site").mkdir()
    (root / "_site" / "index.html").write_text(PAGE)
    (root / "_site" / "course.zip").touch()
    (root / "_site" / "search.json").write_text('[{"text": "It is 42."}]')
    learners.pack(root, root / "work")
    return root


@pytest.fixture(scope="module")
def small(course, tmp_path_factory) -> Path:
    """Return the folder that learners.zip unpacks into."""
    folder = tmp_path_factory.mktemp("small")
    zipfile.ZipFile(course / "learners.zip").extractall(folder)
    return folder / "learners"


def lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if line.strip()}


def test_binder_makes_copies_of_the_notebooks(course):
    names = {path.name for path in execute.course_order()} | {working_copy.BESIDE}
    assert {path.name for path in course.glob("work/*")} == names


def test_no_line_of_a_solution_is_in_a_notebook(course, small):
    solved, others, count = set(), set(), 0
    for path in course.glob("work/*.ipynb"):
        for cell in execute.read(path)["cells"]:
            found = solutions.SOLUTION.findall(cell["source"])
            count += cell["source"].count("<summary>Solution")
            solved |= lines("\n".join(found))
            others |= lines(solutions.SOLUTION.sub("", cell["source"]))
    assert count > 40
    secret = solved - others
    assert len(secret) > 5 * count
    paths = list(small.rglob("*.ipynb"))
    assert len(paths) == len(execute.course_order()) + 1
    for path in paths:
        cells = execute.read(path)["cells"]
        assert secret.isdisjoint(lines("\n".join(c["source"] for c in cells)))
        assert not any("<summary>Solution" in cell["source"] for cell in cells)
        assert not any(cell.get("outputs") for cell in cells)


def test_the_code_is_that_of_the_course(small):
    """So it runs as the course does, which other tests execute."""
    beside = execute.ROOT / working_copy.BESIDE
    for original in [*execute.course_order(), beside]:
        copied = execute.read(small / "notebooks" / original.name)
        codes = [
            [
                ast.dump(ast.parse(execute.python_source(cell)))
                for cell in nb["cells"]
                if cell["cell_type"] == "code"
            ]
            for nb in (execute.read(original), copied)
        ]
        assert codes[0] == codes[1], original.name


@pytest.mark.parametrize("path", execute.course_order(), ids=lambda path: path.stem)
def test_an_exercise_without_an_answer_says_what_is_missing(path):
    said: list[str] = []  # of each exercise, as the course was executed: unanswered
    for cell in execute.read(path)["cells"]:
        if re.search(r"Exercise \d", cell["source"]) and "outputs" not in cell:
            said.append("")
        elif solutions.CHECK in cell["source"]:
            said[-1] += "".join(output.get("text", "") for output in cell["outputs"])
    assert len(said) >= 3
    for text in said:
        assert re.search(r"no answer yet|^Not yet\. .", text, re.M), said
        assert "Right." not in text


def test_a_solution_and_outputs_go_and_the_rest_stays():
    text = (
        "Before.\n\n<details>\n<summary>Solution</summary>\n\nIt is 42.\n\n</details>"
    )
    folded = "<details>\n<summary>More</summary>\n\nIt is.\n\n</details>"
    code = new_code_cell("1", outputs=[new_output("stream", text="1")])
    alone = text.removeprefix("Before.\n\n")
    cells = [new_markdown_cell(each) for each in (text, alone, folded)]
    made = learners.unsolved(new_notebook(cells=[*cells, code]))
    assert [cell["source"] for cell in made["cells"]] == ["Before.", folded, "1"]
    assert made["cells"][-1]["outputs"] == []


def test_the_archive_is_the_same_each_time(course):
    before = (course / "learners.zip").read_bytes()
    learners.pack(course, course / "work")
    assert (course / "learners.zip").read_bytes() == before
    assert len(before) < 5_000_000


def test_the_readme_of_the_small_one_installs_what_is_there(small):
    readme = (small / "README.md").read_text("utf-8")
    command = shlex.split(re.search(r"-m pip (install .*)", readme)[1])
    assert command == ["install", "-c", "requirements.lock", "-e", ".[workshop]"]
    for name in ("requirements.lock", "pyproject.toml", "src/helpers/data/cdnow.csv"):
        assert (small / name).read_bytes() == (execute.ROOT / name).read_bytes()
    for path in small.glob("notebooks/*.ipynb"):
        for name in re.findall(r"\.\./(benchmarks/results/[\w.]+)", path.read_text()):
            assert (small / name).exists()


@pytest.fixture(scope="module")
def room(course, tmp_path_factory) -> Path:
    """Return the folder that workshop.zip unpacks into, without optional packages."""
    try:
        path = learners.pack_workshop(course, extras="")
    except SystemExit as problem:
        if os.environ.get("CI") == "true":
            pytest.fail(str(problem))
        pytest.skip(f"no package index here: {problem}")
    folder = tmp_path_factory.mktemp("room")
    zipfile.ZipFile(path).extractall(folder)
    return folder / "learners"


@pytest.fixture(scope="module")
def installed(room) -> dict[str, str]:
    """Install from the archive alone, as its README says; return the environment."""
    venv.create(room / ".venv", symlinks=True)
    python = room / ".venv" / "bin" / "python"
    ours = ("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    said = re.search(r"-m pip install (.*)", (room / "README.md").read_text("utf-8"))
    arguments = shlex.split(said[1])
    assert arguments[:3] == ["--no-index", "--find-links", "wheels"]
    command = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--quiet"]
    command += ["--python", str(python), *arguments]
    subprocess.run(command, cwd=room, env=env, check=True)
    return env | {"PATH": f"{python.parent}{os.pathsep}{env['PATH']}"}


def test_the_room_gets_no_solution_and_no_source(room):
    assert {path.name for path in room.iterdir() if path.name[0] != "."} == {
        *("README.md", "LICENSE", "LICENSE-text.md"),
        *("notebooks", "benchmarks", "wheels", "site"),
    }
    assert "42" not in (room / "site" / "index.html").read_text()
    assert "42" not in (room / "site" / "search.json").read_text()


def test_the_wheel_alone_brings_all_that_the_notebooks_use(installed, room):
    """The metadata of the wheel says what it needs; its data are in it."""
    cells = [
        execute.python_source(cell)
        for path in execute.course_order()
        for cell in execute.read(path)["cells"]
        if cell["cell_type"] == "code"
    ]
    tops = {
        ".".join(name.split(".")[:2]) if name.startswith("helpers") else name
        for name in execute.imported("\n".join(cells))
    }
    names = {name for name in tops if name.startswith("helpers.")}
    names |= {name.split(".")[0] for name in tops}
    assert len(names) > 20
    command = ["python", "-c", USES, *sorted(names - EXTRAS)]
    subprocess.run(command, cwd=room, env=installed, check=True)


@pytest.mark.parametrize("number", SHORT)
def test_a_notebook_runs_in_the_room(installed, room, number):
    (path,) = (room / "notebooks").glob(f"{number}_*.ipynb")
    nb = nbformat.read(path, as_version=4)
    kernel = KernelManager(kernel_name="python3")
    kernel.kernel_spec.argv[0] = str(room / ".venv" / "bin" / "python")
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(nb, km=kernel, timeout=300, resources=resources)
    try:
        client.execute(env=installed)
    finally:
        kernel.shutdown_kernel(now=True)
    texts = [o.get("text", "") for c in nb.cells for o in c.get("outputs", ())]
    assert any("no answer yet" in text for text in texts)
