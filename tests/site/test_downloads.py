"""What readers of the site can take with them: the course as a file, the reference."""

import io
import json
import re
import subprocess
import sys
import zipfile
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

import build
import downloads
import execute
import learners
import reference
import working_copy


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
    assert {"course.zip", "learners.zip"} <= set(links)


def test_the_site_has_the_learners_edition(site):
    with zipfile.ZipFile(site.folder / "learners.zip") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"learners"}
        readme = archive.read("learners/README.md").decode()
    assert 'install -c requirements.lock -e ".[workshop]"' in readme
    links = [tag.get("href") for tag in site.soups["index.html"].select("main a")]
    assert "learners.zip" in links


def test_a_notebook_alone_reads_well_and_says_what_it_needs(site):
    paths = [Path("notebooks", path.name) for path in execute.course_order()]
    for path in [*paths, Path(working_copy.BESIDE)]:
        first, start, *rest = execute.read(site.folder / path)["cells"]
        assert first["source"].startswith("# ")
        assert "`learners.zip`" in start["source"]
        assert not any("\n:::" in cell["source"] for cell in rest)


def test_a_copy_of_the_site_has_no_solutions(site, tmp_path):
    exercise = [new_markdown_cell("The learners' one.")]
    name = execute.course_order()[0].name
    (tmp_path / name).write_text(json.dumps(new_notebook(cells=exercise)))
    files = learners.without_solutions(site.folder, tmp_path)
    assert set(files) >= {*site.pages, "learners.zip"}
    assert "course.zip" not in files
    assert b"The learners' one." in files[f"notebooks/{name}"]
    there = 0
    for page in site.pages:
        found = site.soups[page].find_all("summary", string="Solution")
        there += len(found)
        text = files[page].decode()
        assert not re.search(r"<summary[^>]*>\s*Solution", text), page
        assert not re.search(r'href="[^"]*course\.zip"', text), page
        before = (site.folder / page).read_text("utf-8")
        assert before.count("<details") - len(found) == text.count("<details"), page
    assert there > 40
    (index,) = learners.INDEXES & set(files)
    secret = site.soups["notebooks/01_bayes_rule.html"].find(
        "summary", string="Solution"
    )
    words = secret.find_next("p").find(string=True).strip().encode()
    assert len(words) > 10
    for name in (index, "notebooks/01_bayes_rule.html"):
        assert words in (site.folder / name).read_bytes()
    assert [name for name, data in files.items() if words in data] == []
    start = (site.folder / index).read_bytes()[:30]
    assert files[index].startswith(start)
    assert len(files[index]) > 0.8 * (site.folder / index).stat().st_size


WITH_ADDRESS = "website: {repo-url: 'https://github.com/owner/name'}"


def test_links_to_colab_come_with_the_public_address(site, tmp_path):
    page = "notebooks/01_bayes_rule.html"
    colab = "https://colab.research.google.com/"
    assert not site.soups[page].select(f'a[href^="{colab}"]')
    (tmp_path / "notebooks").mkdir()
    for name in (page, "troubleshooting.html"):
        (tmp_path / name).write_bytes((site.folder / name).read_bytes())
    (tmp_path / "_quarto.yml").write_text(WITH_ADDRESS)
    downloads.put_links(tmp_path, tmp_path)
    there = f'href="{colab}github/owner/name/blob/gh-pages/'
    for name in (page, "troubleshooting.html"):
        text = (tmp_path / name).read_text("utf-8")
        assert text.count(there + name.replace(".html", ".ipynb") + '"') == 1


def copy_for_colab(tmp_path, words="Text."):
    (tmp_path / "_quarto.yml").write_text(WITH_ADDRESS)
    cells = [new_markdown_cell("# Title"), new_markdown_cell(words)]
    public = downloads.repository(tmp_path)
    return downloads.with_start(new_notebook(cells=cells), public)["cells"]


def test_the_first_cell_changes_nothing_that_is_imported(tmp_path, monkeypatch):
    title, _, fetch, _ = copy_for_colab(tmp_path, "Say `pip install blackjax pymc`.")
    assert title["source"] == "# Title"
    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda at, **_: commands.append(at))
    exec(fetch["source"], {})
    assert commands == []  # the helpers are here
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    (tmp_path / "course" / "notebooks").mkdir(parents=True)
    exec(fetch["source"], {})
    clone, install = commands
    assert clone[-2:] == ["https://github.com/owner/name", "course"]
    assert install[0] == sys.executable
    assert install[-5:] == [
        *("--constraint", "imported.txt"),
        *("./course", "blackjax", "pymc"),
    ]
    kept = (tmp_path / "imported.txt").read_text().splitlines()
    assert f"numpy=={np.__version__}" in kept
    assert Path.cwd() == tmp_path / "course" / "notebooks"


@pytest.mark.parametrize("text", ["website: {}", "website: {repo-url: 'https://a.b'}"])
def test_without_a_public_address_there_is_no_cell_to_fetch(tmp_path, text):
    (tmp_path / "_quarto.yml").write_text(text)
    assert downloads.repository(tmp_path) is None
    start = downloads.with_start(new_notebook(cells=[new_markdown_cell("#")]), None)
    assert [cell["cell_type"] for cell in start["cells"]] == ["markdown"] * 2


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
    kept = [".gitignore", ".ci/run", ".binder/x", "README.md", "src/a/b.py"]
    made = [".venv/x", "work/n.ipynb", "src/a/__pycache__/b.pyc", "_site/i.html"]
    made += [
        "src/s.egg-info/x",
        "slides/deck_files/p.png",
        ".solved/n.ipynb",
        "course.zip",
        "learners.zip",
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
