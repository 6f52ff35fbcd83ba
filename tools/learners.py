"""Pack the learners' edition: the notebooks without solutions and outputs.

``make site`` packs ``learners.zip``, which readers of the site download. ``make
workshop`` packs ``build/workshop.zip``, for a room without a network: in place of the
helpers' source it has wheels of them and of all that they need, and the built site.
"""

import copy
import json
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import nbformat

import execute
import solutions
from search_index import search_index

EXTRAS = "[workshop,methods,forecast]"
PACKED = ("LICENSE*", "pyproject.toml", "requirements.lock", "src/**/*")
PACKED += ("benchmarks/results/*",)  # what the notebooks read
ROOM = re.compile(r"(README|LICENSE|notebooks/|benchmarks/|wheels/)")
MADE = re.compile(r"__pycache__|\.egg-info")
SOLVED = re.compile(r"<details[^>]*>\s*<summary>Solution</summary>.*?</details>", re.S)
INDEXES = {"search.json", "site/search-index.js"}  # of Quarto, of the Pandoc engine
WHOLE = re.compile(r'<a [^>]*href="(?:[./]*)course\.zip"[^>]*>(.*?)</a>', re.S)
README = """# Learners' edition

The notebooks of the course *Scaling Probabilistic Models with Variational Inference*,
with exercises and checks of your answers, without solutions and outputs.

You need Python {python}. Run these commands in this folder. On Windows, write
`.venv\\Scripts\\python` for `.venv/bin/python`, and `{launcher}` for `python3`.

```bash
python3 -m venv .venv
.venv/bin/python -m pip install {install}
.venv/bin/python -m helpers
.venv/bin/python -m jupyter lab notebooks
```

The second command {says}.
The third checks the set-up, and the last opens JupyterLab. Start with
`01_bayes_rule.ipynb`. Keep `benchmarks` beside `notebooks`: some notebooks read stored
results from it.
"""
SMALL = {
    "python": "3.12 or newer",
    "launcher": "py -3.12",
    "install": '-c requirements.lock -e ".[workshop]"',
    "says": "downloads packages for a few minutes",
}
FOR_A_ROOM = """
`wheels` holds everything that the installation takes, also for notebooks 09b and 10.
Its files are for {system} and Python {version} alone. `site/index.html` opens the pages
of the course in a browser; solutions are left out of them too.
"""


def unsolved(nb: dict) -> dict:
    """Return a notebook without solutions and outputs."""
    nb = copy.deepcopy(nb)
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = solutions.SOLUTION.sub("", cell["source"]).strip()
        elif cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    nb["cells"] = [cell for cell in nb["cells"] if cell["source"]]
    return nb


def without_solutions(site: Path, notebooks: Path) -> dict[str, bytes]:
    """Return the files of a built site without solutions in pages and notebooks.

    The file with the whole course, which has them, is neither there nor linked.
    """
    files = {}
    for path in sorted(path for path in site.rglob("*") if path.is_file()):
        name, data = path.relative_to(site).as_posix(), path.read_bytes()
        if path.suffix == ".html":
            text = WHOLE.sub(r"\1", SOLVED.sub("", data.decode()))
            data = text.encode()
        elif path.suffix == ".ipynb" and (notebooks / path.name).exists():
            data = (notebooks / path.name).read_bytes()
        files[name] = data
    del files["course.zip"]
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in files if name.endswith(".html")):
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(files[name])
        found = json.dumps(search_index(Path(folder)), ensure_ascii=False)
    for name in INDEXES & set(files):
        before, after = files[name].split(b"[", 1)[0], files[name].rsplit(b"]", 1)[1]
        files[name] = before + found.encode() + after
    return files


def write(path: Path, files: dict[str, bytes | Path]) -> None:
    """Write an archive, the same each time that its files are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"learners/{name}")  # without a date
            packed = name.endswith((".whl", ".zip", ".png", ".parquet"))
            kind = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            data = data.read_bytes() if isinstance(data, Path) else data
            archive.writestr(entry, data, kind)


def pack(root: Path, copies: Path) -> None:
    """Write learners.zip from working copies; its installation takes a network."""
    files = {"README.md": README.format(**SMALL).encode()}
    for path in copies.glob("*.ipynb"):
        text = nbformat.writes(unsolved(execute.read(path)))
        files[f"notebooks/{path.name}"] = text.encode()
    for path in (path for pattern in PACKED for path in root.glob(pattern)):
        if path.is_file() and not MADE.search(str(path)):
            files[path.relative_to(root).as_posix()] = path.read_bytes()
    write(root / "learners.zip", files)


def add_wheels(folder: Path, extras: str) -> None:
    """Put wheels of the helpers and of all that they need beside their source."""
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check"]
    command += ["--quiet", "--wheel-dir=wheels", "--constraint=requirements.lock"]
    if subprocess.run([*command, f".{extras}"], cwd=folder).returncode:
        said = (
            "pip could not get all wheels; the lines above say why. It takes a network."
        )
        raise SystemExit(said)


def pack_workshop(root: Path, extras: str = EXTRAS) -> Path:
    """Write build/workshop.zip, which is installed without a network; return its path.

    It holds what learners.zip does, except that wheels stand for the source, and wheels
    for this computer's system and version of Python alone.
    """
    version = ".".join(platform.python_version_tuple()[:2])
    readme = (README + FOR_A_ROOM).format(
        python=version,
        launcher=f"py -{version}",
        install=f'--no-index --find-links wheels "scaling-vi{extras}"',
        says="takes a few minutes and needs no network",
        system=sysconfig.get_platform(),
        version=version,
    )
    path = root / "build" / "workshop.zip"
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "learners")
        zipfile.ZipFile(root / "learners.zip").extractall(made)
        add_wheels(folder, extras)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        names = [
            p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
        ]
        files = {name: folder / name for name in names if ROOM.match(name)}
        site = without_solutions(root / "_site", folder / "notebooks")
        write(path, files | {f"site/{name}": data for name, data in site.items()})
    return path


if __name__ == "__main__":
    made = pack_workshop(execute.ROOT)
    size = made.stat().st_size / 1e6
    print(f"{made} ({size:,.0f} MB). README.md in it says how to install it.")
