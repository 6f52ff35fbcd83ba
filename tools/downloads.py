"""Let readers of the built site take its notebooks with them, or open them in Colab.

A notebook says at its top what it takes to run it alone. Where ``_quarto.yml`` names
the repository's public address, each copy also begins with a cell that fetches what is
missing, and its page has a link "Open in Colab". Colab opens the copies that
``quarto publish gh-pages --no-render`` puts on the branch ``gh-pages``.
"""

import re
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell

import execute
import working_copy

BRANCH = "gh-pages"
ALONE = """**To run this notebook** you need Python 3.12 or newer, the helpers of the
course, and for some cells stored results. `learners.zip` has all of it; the page
"Running the course" of the site that this notebook comes from has a link to it. Unpack
it, follow its `README.md`, and put this notebook into its folder `notebooks`."""
FETCH = """# Where the helpers are missing, as in Colab, this cell fetches the course
# and installs what it needs. A package that is imported already keeps its version.
import importlib
import os
import subprocess
import sys
from importlib import metadata, util

if util.find_spec("helpers") is None:
    owners = metadata.packages_distributions()
    modules = {{name.partition(".")[0] for name in sys.modules}}
    packages = {{each for name in modules for each in owners.get(name, ())}}
    with open("imported.txt", "w") as file:
        file.writelines(f"{{p}}=={{metadata.version(p)}}\\n" for p in sorted(packages))
    fetch = "git clone --quiet --depth=1 {address} course"
    install = "-m pip install --quiet --constraint imported.txt ./course{more}"
    subprocess.run(fetch.split(), check=True)
    subprocess.run([sys.executable, *install.split()], check=True)
    importlib.invalidate_caches()
if os.path.isdir("course/notebooks"):
    os.chdir("course/notebooks")"""
MORE = re.compile(r"`pip install ([\w ]+)`")  # what one notebook needs besides
LINK = re.compile(r'(<p class="course-links"><a href="([\w.]+)"[^>]*>[^<]*</a>)')


def repository(root: Path) -> str | None:
    """Return owner and name of the public repository, if _quarto.yml has an address."""
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    address = config["website"].get("repo-url", "")
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", address)
    return found and found[1]


def with_start(nb: dict, public: str | None) -> dict:
    """Return a copy of the course with what it takes to run it, below its title."""
    start = [new_markdown_cell(ALONE, id="alone-start")]
    if public:
        text = "\n".join(c["source"] for c in nb["cells"][:4])
        found = MORE.search(text)
        more = f" {found[1]}" if found else ""
        address = f"https://github.com/{public}"
        code = FETCH.format(address=address, more=more)
        start.append(new_code_cell(code, id="alone-fetch"))
    cells = [*nb["cells"][:1], *start, *nb["cells"][1:]]
    return nbformat.v4.new_notebook(cells=cells, metadata=nb["metadata"])


def put_notebooks(root: Path, copies: Path, site: Path) -> None:
    """Put working copies of the notebooks beside their pages."""
    public = repository(root)
    for path in copies.glob("*.ipynb"):
        folder = site if path.name == working_copy.BESIDE else site / "notebooks"
        nbformat.write(with_start(execute.read(path), public), folder / path.name)


def put_links(root: Path, site: Path) -> None:
    """Add "Open in Colab" to the pages of notebooks, if there is a public address."""
    if public := repository(root):
        start = f"https://colab.research.google.com/github/{public}/blob/{BRANCH}"
        for path in [*site.glob("notebooks/*.html"), site / "troubleshooting.html"]:
            folder = "notebooks/" if path.parent != site else ""
            link = rf'\1\n<a href="{start}/{folder}\2">Open in Colab</a>'
            text = path.read_text(encoding="utf-8")
            path.write_text(LINK.sub(link, text, count=1), encoding="utf-8")
