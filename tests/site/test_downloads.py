"""What readers of the site can take with them: the course as a file, the reference."""

import io
import re
import subprocess
import sys
import zipfile

import numpy as np

import build
import execute
import reference


def test_the_site_has_the_whole_course(site):
    data = (site.folder / "course.zip").read_bytes()
    names = set(zipfile.ZipFile(io.BytesIO(data)).namelist())
    needed = ["Makefile", "pyproject.toml", "requirements.lock", "README.md"]
    needed += ["src/helpers/training.py", "tools/working_copy.py"]
    needed += ["src/helpers/fonts/OFL.txt", "benchmarks/results/rows.json"]
    needed += [f"notebooks/{path.name}" for path in execute.course_order()]
    assert {f"course/{name}" for name in needed} <= names
    made = re.compile(r"course/(\.venv|_site|work|build|\.solved)/|__pycache__|\.zip$")
    assert [name for name in names if made.search(name)] == []
    assert len(data) < 20_000_000
    links = [tag.get("href") for tag in site.soups["running.html"].select("main a")]
    assert "course.zip" in links


def test_a_notebook_alone_reads_well(site):
    for path in execute.course_order():
        first, *rest = execute.read(site.folder / "notebooks" / path.name)["cells"]
        assert first["source"].startswith("# ")
        assert not any("\n:::" in cell["source"] for cell in rest)


def test_the_helpers_work_from_the_file(site, tmp_path):
    zipfile.ZipFile(site.folder / "course.zip").extractall(tmp_path)
    code = "import helpers.training as t; print(t.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "course/src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))


def test_the_reference_says_what_the_docstrings_say():
    said = (execute.ROOT / "reference.qmd").read_text(encoding="utf-8")
    assert said == reference.page(execute.ROOT), "run: python tools/reference.py"


def test_the_example_of_the_reference_fits_and_predicts():
    code = reference.HEAD.split("```python\n")[1].split("```")[0]
    found = {}
    exec(code, found)
    summary = found["importance_summary"](found["weights"])
    assert summary.relative_ess > 0.8
    assert summary.khat < 0.5
    weights = found["result"].params["w_auto_loc"]
    np.testing.assert_allclose(weights, [1, -2, 0.5], atol=0.04)
    assert found["new_y"].shape == (1_000, 5)


def test_a_docstring_becomes_lists_of_markdown():
    text = "a, b : int\n    Two\n    lines.\nc\n    One."
    assert reference.listed(text, "Parameters") == (
        "- `a`, `b` (int): Two lines.\n- `c`: One."
    )
    text = "numpy.ndarray, shape (n,)\n    Weights."
    assert reference.listed(text, "Returns") == (
        "- numpy.ndarray, shape (n,): Weights."
    )


def test_only_files_of_the_course_are_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    kept = [".gitignore", ".ci/run", "README.md", "src/a/b.py"]
    made = [".venv/x", "work/n.ipynb", "src/a/__pycache__/b.pyc", "_site/i.html"]
    made += [
        "src/s.egg-info/x",
        "slides/deck_files/p.png",
        ".solved/n.ipynb",
        "course.zip",
    ]
    for name in kept + made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def files():
        return {x.relative_to(tmp_path).as_posix() for x in build.course_files()}

    assert files() == set(kept)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("\n".join(made))
    assert files() == set(kept)
    first = build.pack() or (tmp_path / "course.zip").read_bytes()
    assert first == (build.pack() or (tmp_path / "course.zip").read_bytes())
