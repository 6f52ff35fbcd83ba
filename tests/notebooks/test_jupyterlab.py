"""A real JupyterLab, without a network: open a working copy, run all, look."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

import execute
import working_copy

OPENING = """## A heading {#sec-heading}

Of @eq-one and $\\sqrt{2}$ in @sec-heading:

$$
\\log p(x) = \\frac{1}{2}
$$ {#eq-one}

::: {.callout-tip title="Exercise 1"}
What is $\\alpha$?
:::"""
FIGURE = """#| label: fig-one
#| fig-cap: "A picture."
#| code-summary: "Figure code"
#| code-fold: true
from IPython.display import HTML

HTML("<b>picture</b>")"""
CHECK = """#| code-summary: "Check your answer"
#| code-fold: true
from helpers.exercises import check

check("answer", answer, expected=2.0);"""
SOLUTION = """<details>
<summary>Solution</summary>

The secret is two.

```python
answer = 2.0
print("Right by the solution")
```

</details>"""
CONFIG = "website: {sidebar: {contents: [notebooks/01_small.ipynb]}}"

# What a reader sees in a part of the page: the innerText, without what is folded.
SEEN = "document.querySelector('.jp-Notebook').innerText"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working copy of a small course."""
    root = tmp_path_factory.mktemp("course")
    (root / "notebooks").mkdir()
    (root / "references.bib").write_text("")
    (root / "_quarto.yml").write_text(CONFIG)
    folded = {"jupyter": {"source_hidden": True}}
    cells = [
        new_raw_cell('---\ntitle: "A small title"\ndescription: "Its words."\n---'),
        new_markdown_cell(OPENING),
        new_code_cell("answer = None"),
        new_code_cell(CHECK, metadata=folded),
        new_markdown_cell(SOLUTION),
        new_code_cell(FIGURE, metadata=folded),
        new_code_cell("print('all', 'done')"),
    ]
    nb = new_notebook(cells=cells)
    (root / "notebooks/01_small.ipynb").write_text(json.dumps(nb))
    working_copy.update(root, root / "work")
    return root / "work"


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    """The address of a JupyterLab on that folder, with no settings of anybody."""
    own = tmp_path_factory.mktemp("jupyter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    env = os.environ | {name: str(own / name) for name in names}
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}"]
    command += ["--allow-root", "--no-browser", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--IdentityProvider.token="]
    with (own / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=env, cwd=execute.ROOT, stdout=log, stderr=log
        )
    try:
        for _ in range(300):
            if server.poll() is not None:
                pytest.fail((own / "log").read_text())
            if list((own / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json")):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def test_open_run_all_and_look(browser, lab, folder):
    elsewhere = []

    def only_here(route):
        if route.request.url.startswith((lab, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(60_000)
    page.route("**/*", only_here)
    page.goto(lab + "lab/tree/01_small.ipynb")
    first = page.locator(".jp-Notebook .jp-Cell").first.locator(".jp-MarkdownOutput")
    assert first.locator("h1").inner_text().startswith("A small title")
    assert first.locator("p").inner_text() == "Its words."

    page.locator(".jp-Notebook mjx-container").nth(2).wait_for()  # three formulas
    assert page.locator("mjx-merror").count() == 0
    for late in ("Figure 1. A picture.", "# Figure code", "# Check your answer"):
        page.locator(".jp-Notebook", has_text=late).wait_for()
    text = page.evaluate(SEEN)
    assert "$" not in text
    assert "Of Equation 1 and " in text
    assert "Figure 1. A picture." in text
    assert text.count("# Figure code") == text.count("# Check your answer") == 1
    assert page.locator(".jp-mod-dirty").count() == 0, "opened, and already changed"

    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    done = page.locator(".jp-OutputArea-output", has_text="all done")
    for _ in range(4):  # a kernel that still starts forgets what it was asked
        idle.wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        with contextlib.suppress(PlaywrightTimeoutError):
            done.wait_for(timeout=45_000)
            break
    done.wait_for()
    text = page.evaluate(SEEN)
    assert "answer: no answer yet" in text
    assert "Solution" in text
    for hidden in ("secret", "Right", "from helpers.exercises"):
        assert hidden not in text
    page.locator("summary").click()
    assert "The secret is two." in page.evaluate(SEEN)
    assert elsewhere == []
    page.close()
