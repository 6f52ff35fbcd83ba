"""The tools that execute and lint the notebooks do what they promise."""

import ast
import base64
import io

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import execute
import lint_jax


def notebook(*sources):
    return new_notebook(cells=[new_code_cell(source) for source in sources])


@pytest.fixture
def project(tmp_path):
    """A project with two packages, whose modules import each other, and with data."""
    texts = {
        "src/helpers/__init__.py": "",
        "src/helpers/a.py": "from helpers.b import x",
        "src/helpers/b.py": "x = 1",
        "src/helpers/c.py": "",
        "src/helpers/d.py": "from . import c\nfrom fitting.e import f",
        "src/helpers/unused.py": "",
        "src/fitting/__init__.py": "",
        "src/fitting/e.py": "def f(): ...",
        "benchmarks/rows.py": "from helpers import b",
        "benchmarks/results/rows.json": "[1]",
        "benchmarks/results/bars-cpu.json": "[2]",
        "benchmarks/results/other.json": "[3]",
        "benchmarks/draws.npz": "4",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import numpy", ""),
        ("from helpers import b", "helpers/b"),
        ("import helpers.c as t", "helpers/c"),
        ("from helpers.c import fit", "helpers/c"),
        ("def f():\n    import helpers.a", "helpers/a helpers/b"),
        ("from helpers import d", "fitting/e helpers/c helpers/d"),
        ("from helpers import c, unused", "helpers/c helpers/unused"),
        ("from benchmarks.rows import x", "benchmarks/rows helpers/b"),
        ("import fitting", ""),
        ("import helpers_of_others, other.helpers", ""),
    ],
)
def test_imported_modules_are_found(project, source, modules):
    found = execute.used_modules(source, project)
    names = sorted(f"{x.parent.name}/{x.stem}" for x in found if x.stem != "__init__")
    assert names == modules.split()


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("open('rows.json')", ""),
        ("load('../benchmarks/draws.npz')", "draws.npz"),
        ("Path('../benchmarks/results').glob('bars-*.json')", "bars-cpu.json"),
        ("open(f'../benchmarks/{x}.json')\nload('rows')", "rows.json"),
        ("run('../benchmarks/rows.py')", "rows.py"),
    ],
)
def test_files_that_code_names_are_found(project, source, files):
    found = execute.used_data(source, project / "benchmarks")
    assert sorted(path.name for path in found) == files.split()


SAME = [
    ("x = 1", "x = (1)  # one"),
    ("def f(x):\n    return x", "def f(x: int) -> int:\n    'Doc.'\n    return x"),
    ("class A:\n    x: int = 1", "'Doc.'\nclass A:\n    'Doc.'\n\n    x: int = 1"),
]
DIFFERENT = [
    ("x = 1", "x = 2"),
    ("def f(x): ...", "def f(x=1): ..."),
    ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
    ("x = 'a'", "x = 'b'"),
]


@pytest.mark.parametrize(("one", "two"), SAME + DIFFERENT)
def test_only_what_code_does_counts(one, two):
    first, second = (execute.meaning(ast.parse(text)) for text in (one, two))
    assert (first == second) == ((one, two) in SAME)


def test_a_change_makes_a_notebook_stale(project):
    nb = notebook(
        "from helpers import a", "#| fig-cap: one\nload('../benchmarks/rows.json')"
    )
    assert execute.stale(nb, project) == ["it was never executed with `make notebooks`"]
    nb["cells"][1]["outputs"] = [new_output("stream", text="1\n2\n")]
    nb["metadata"]["course"] = {"sha256": execute.hashes(nb, project)}

    nb["cells"].append(new_markdown_cell("Prose does not count."))
    edit = nb["cells"][1]
    edit["source"] = edit["source"].replace("one", "another")
    edit["outputs"][0]["text"] = ["1\n", "2\n"]  # as files hold it
    (project / "src/helpers/unused.py").write_text("changed = True")
    (project / "src/helpers/b.py").write_text("x = 1\n\n# A comment.\n")
    (project / "benchmarks/results/other.json").write_text("[5]")
    assert execute.stale(nb, project) == []

    (project / "src/helpers/b.py").write_text("x = 2")
    assert execute.stale(nb, project) == [execute.CHANGED["modules"]]
    (project / "benchmarks/results/rows.json").write_text("[6]")
    edit["outputs"][0]["text"] = "1\n3\n"
    edit["source"] += "\n2 + 2"
    assert set(execute.stale(nb, project)) == set(execute.CHANGED.values())


def test_a_figure_is_bound_to_its_run(project):
    nb = notebook("plot()")
    nb["cells"][0]["outputs"] = [new_output("display_data", {"image/png": "abc"})]
    nb["metadata"]["course"] = {"sha256": execute.hashes(nb, project)}
    nb["cells"][0]["outputs"][0]["data"]["image/png"] = "abd"
    assert execute.stale(nb, project) == [execute.CHANGED["outputs"]]


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook("1 + 1"), path)
    monkeypatch.setattr(execute.os, "access", lambda *_: False)
    monkeypatch.setattr(execute, "run", None)
    (fault,) = execute.execute(path, "CPU")
    assert f"nothing can be stored in {tmp_path}" in fault


def test_a_failed_write_is_a_fault_of_its_notebook(tmp_path):
    path = tmp_path / "a.ipynb"
    (tmp_path / "a.ipynb.part").mkdir()
    (fault,) = execute.store(notebook("1 + 1"), path)
    assert fault.startswith("it could not be written: ")
    assert not path.exists()


def test_the_sidebar_gives_the_order(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("01_a", "02_b", "03_c"):
        (tmp_path / f"notebooks/{name}.ipynb").touch()
    (tmp_path / "_quarto.yml").write_text(
        "website:\n  sidebar:\n    contents:\n      - index.qmd\n      - section: S\n"
        "        contents: [notebooks/02_b.ipynb, {href: notebooks/01_a.ipynb}]\n"
    )
    order = [path.stem for path in execute.course_order(tmp_path)]
    assert order == ["02_b", "01_a", "03_c"]


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (new_output("error", ename="ValueError", evalue="no"), "an error: ValueError"),
        (new_output("stream", name="stderr", text="warning"), "stderr: warning"),
        (new_output("stream", name="stdout", text="100%|███| 3/3"), "progress bar"),
        (new_output("stream", name="stdout", text="1/3\r2/3"), "progress bar"),
        (new_output("stream", name="stdout", text="in /home/me/x"), "path of this"),
        (new_output("stream", name="stdout", text=r"C:\Users\me"), "path of this"),
        (
            new_output("display_data", data={"text/plain": "<A at 0x7fcb532bb440>"}),
            "memory address",
        ),
    ],
)
def test_outputs_that_must_not_be_stored_are_named(output, fault):
    nb = notebook("1 + 1")
    nb["cells"][0]["outputs"] = [output]
    assert fault in execute.output_faults(nb)[0]
    assert "cell 1 (1 + 1)" in execute.output_faults(nb)[0]
    nb["cells"][0]["outputs"] = [new_output("stream", name="stdout", text="a/home/b")]
    assert execute.output_faults(nb) == []


def test_execution_stores_good_notebooks_and_leaves_bad_ones(tmp_path, capsys):
    good = notebook("#| label: fig-a\nprint(1)", "from tqdm.auto import tqdm as t")
    good["cells"][1]["source"] += "\nfor _ in t(range(3)):\n    pass\n2"
    good["cells"][0]["metadata"] = {"collapsed": True, "tags": ["x"]}
    good["metadata"]["kernelspec"] = {"name": "python3", "display_name": "my own"}
    bad = notebook("print(1)", "1 / 0")
    paths = {}
    for name, nb in {"good": good, "bad": bad}.items():
        paths[name] = tmp_path / f"{name}.ipynb"
        nbformat.write(nb, paths[name])
    before = paths["bad"].read_bytes()

    (fault,) = execute.execute(paths["bad"], "CPU")
    assert "ZeroDivisionError" in fault
    assert paths["bad"].read_bytes() == before
    assert execute.execute(paths["good"], "CPU") == []
    nb = nbformat.read(paths["good"], as_version=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.ipynb",
        "good.ipynb",
    ]
    assert nb["metadata"]["kernelspec"]["display_name"] == "Python 3"
    assert nb["cells"][0]["metadata"] == {"tags": ["x"]}
    assert [o["output_type"] for o in nb["cells"][1]["outputs"]] == ["execute_result"]
    assert nb["metadata"]["course"]["peak_mib"] > 10
    assert nb["metadata"]["course"]["executed"] in nb["cells"][-1]["source"]
    assert execute.stale(nb) == []
    execute.stamp(nb, nb["metadata"]["course"])  # replaces the one that is there
    assert [c["id"] for c in nb["cells"]].count("stamp") == 1


def test_stored_figures_are_smaller_and_look_the_same():
    figure, ax = plt.subplots()
    ax.contourf(np.sin(np.arange(900).reshape(30, 30) / 90), 20)
    ax.plot([0, 20], [3, 25], "o--")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=200)
    plt.close(figure)
    pixels = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    before = base64.b64encode(drawn.getvalue()).decode()

    after = execute.smaller(before)
    with Image.open(io.BytesIO(base64.b64decode(after))) as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
        assert round(image.info["dpi"][0]) == 200
    assert len(after) < 0.7 * len(before)
    assert np.quantile(abs(seen - pixels), 0.999) < 16
    assert abs(seen - pixels).mean() < 0.5
    assert execute.smaller(after) == after


KEY = "from jax import random\nkey = random.key(0)\n"


@pytest.mark.parametrize(
    "source",
    [
        "random.normal(key)\nrandom.normal(key)",
        "svi.init(key, x)\nfit(svi, rng_key=key)",
        "k1, k2 = random.split(key)\nrandom.normal(key)",
        "keys = random.split(key)\nf(keys[0])\nf(keys[0])",
        "for i in range(3):\n    random.normal(key)",
        "x = [random.normal(key) for i in range(3)]",
        "def f(key):\n    return random.normal(key) + random.gamma(key, 1)",
        "g = lambda rng_key: f(rng_key) + h(rng_key)",
        "if x:\n    f(key)\nrandom.normal(key)",
        "while True:\n    key, other = random.split(key)\n    f(other, other)",
        "for i in range(3):\n    f = jax.jit(g)",
        "for i in range(3):\n    @jax.jit\n    def f(x):\n        return x",
        "fs = [jit(g) for g in functions]",
    ],
)
def test_lint_finds(source):
    assert len(lint_jax.check_source(KEY + source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "random.normal(key)",
        "key, sub = random.split(key)\nf(sub)\nkey, sub = random.split(key)\nf(sub)",
        "for i in range(3):\n    f(random.fold_in(key, i))",
        "for i in range(3):\n    key, sub = random.split(key)\n    f(sub)",
        "for k in random.split(key, 3):\n    f(k)",
        "for k, v in zip(random.split(key), x):\n    f(k, v, v)",
        "for i, k in enumerate(random.split(key)):\n    f(i, k)\n    f(i)",
        "x = [random.normal(k) for k in random.split(key, 3)]",
        "keys = random.split(key)\nf(keys[0])\nf(keys[1])",
        "a, *b = random.split(key, 3)\nf(a)\nf(b[0])\nf(b[1])",
        "if x:\n    f(key)\nelse:\n    g(key)",
        "def f(key, x):\n    if x:\n        return g(key)\n    return h(key)",
        "for key, value in table.items():\n    f(key)\n    g(key)",
        "print(key)\nrandom.key_data(key)\nrandom.normal(key)",
        "random.normal(key)\nrandom.normal(key)  # the same draws on purpose",
        "step = jax.jit(g)\nfor i in range(3):\n    step(i)",
        "_validate.key('key', key)\nf(key)",
    ],
)
def test_lint_lets_pass(source):
    assert lint_jax.check_source(KEY + source) == []


def test_lint_follows_a_key_through_cells_and_names_the_cell():
    nb = notebook(KEY, "#| label: fig-one\n%time random.normal(key)\nf(key)", "g(key)")
    (fault,) = lint_jax.check_notebook(nb)
    assert fault.startswith("cell 3 (g(key)): the key 'key' is used again")


def test_jupyterlab_hides_what_the_pages_fold():
    def hidden(kind, source):
        return execute.folded_in_lab({"cell_type": kind, "source": source})

    fold = "#| code-fold: true\n#| code-summary: "
    assert hidden("code", fold + '"Figure code"\nx = 1') == {"source_hidden": True}
    assert hidden("code", "x = 1") == {}
    assert hidden("markdown", "Text.") == {}
