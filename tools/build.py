"""Build the pages and slides into _site: `make site`, `make preview`, `make slides`.

Quarto where there is one (on the PATH or in .venv); else Quarto from PyPI, tried once;
else the Pandoc engine beside this file, which needs nothing more than Python packages.
"""

import argparse
import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
INSTALL_SECONDS = 120
HOW_TO_GET_QUARTO = (
    "no Quarto found. Get it with `conda install -c conda-forge quarto` or from "
    "https://quarto.org/docs/get-started/, or build with the Pandoc engine: "
    "make site ENGINE=pandoc"
)


def find_quarto() -> str | None:
    """Return the path of a Quarto that is there already."""
    beside = Path(sys.executable).parent
    for folder in (None, str(beside)):
        found = shutil.which("quarto", path=folder)
        if found and version_of(found, seconds=60):
            return found
    return None


def run_bounded(command: list[str], seconds: float) -> tuple[bool, str]:
    """Run a command for so long at most; return whether it worked and its output."""
    with tempfile.TemporaryFile("w+") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return False, ""
        try:
            process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        output.seek(0)
        return process.returncode == 0, output.read()


def version_of(quarto: str, seconds: float) -> str:
    """Return the version that a Quarto says it is, nothing if it does not run."""
    works, text = run_bounded([quarto, "--version"], seconds)
    found = re.search(r"^\d+\.\d+\S*$", text, re.MULTILINE)
    return found[0] if works and found else ""


def install_quarto() -> str | None:
    """Try the PyPI package, which downloads Quarto: once, two minutes at most."""
    venv = Path(sys.prefix)
    marker = venv / ".quarto-attempted"
    if venv == Path(sys.base_prefix) or marker.exists():
        return None
    marker.write_text("tools/build.py tried to install quarto-cli here once.\n")
    print(
        "No Quarto here: trying its PyPI package, once, two minutes at most.",
        flush=True,
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quarto = str(Path(sys.executable).parent / "quarto")
    end = time.monotonic() + INSTALL_SECONDS
    works, _ = run_bounded([*pip, "install", "quarto-cli"], INSTALL_SECONDS)
    if works and version_of(quarto, end - time.monotonic()):
        return quarto
    run_bounded([*pip, "uninstall", "--yes", "quarto-cli"], 30)
    print("Quarto could not be installed here; the Pandoc engine needs none.")
    return None


def run_quarto(quarto: str, decks: bool, strict: bool) -> None:
    """Render with Quarto; with `strict` a warning is an error."""
    command = [quarto, "render", *(["slides"] if decks else [])]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    warnings = []
    for line in process.stdout:
        plain = re.sub(r"\x1b\[[\d;]*m", "", line).rstrip()
        if re.match(r"(WARN|ERROR)", plain):
            warnings.append(plain)
        if plain:
            print(f"  {plain}", flush=True)
    if process.wait():
        raise SystemExit("Quarto stopped with an error")
    if warnings and strict:
        raise SystemExit(f"Quarto warned {len(warnings)} times (--strict)")


def build(engine: str, quarto: str | None, options: argparse.Namespace) -> int:
    """Build into _site; return the number of pages."""
    decks = options.what == "slides"
    output = ROOT / "_site"
    if engine == "quarto":
        if not decks and output.exists():
            shutil.rmtree(output)
        run_quarto(quarto, decks, options.strict)
        pages = output.glob("slides/*.html" if decks else "**/*.html")
        return sum("site_libs" not in page.parts for page in pages)
    from pandoc_engine import build as build_with_pandoc

    return len(build_with_pandoc(ROOT, output, decks, options.draft))


def sources() -> dict[Path, float]:
    """Return the files that a site is made of, with the times of their last change."""
    patterns = ("*.qmd", "*.yml", "*.bib", "notebooks/*", "slides/*", "assets/**/*")
    files = [p for pattern in patterns for p in ROOT.glob(pattern) if p.is_file()]
    return {path: path.stat().st_mtime for path in files}


def preview(options: argparse.Namespace) -> None:
    """Serve _site and rebuild it with the Pandoc engine when a source changes."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(ROOT / "_site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}  (Ctrl-C ends it)", flush=True)
    known: dict[Path, float] = {}
    while True:
        now = sources()
        if now != known:
            known = now
            try:
                pages = build("pandoc", None, options)
                print(f"{time.strftime('%H:%M:%S')}  {pages} pages", flush=True)
            except SystemExit as problem:
                print(problem, flush=True)
        time.sleep(1)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "what", nargs="?", default="site", choices=["site", "slides", "preview"]
    )
    parser.add_argument("--engine", choices=["quarto", "pandoc"])
    parser.add_argument("--strict", action="store_true", help="a warning is an error")
    parser.add_argument(
        "--draft",
        action="store_true",
        help="Pandoc engine: print problems and go on, without pages not written yet",
    )
    parser.add_argument("--port", type=int, default=8000, help="of the preview")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    quarto = None
    if options.engine != "pandoc":
        quarto = find_quarto() or install_quarto()
    if options.engine == "quarto" and not quarto:
        raise SystemExit(HOW_TO_GET_QUARTO)
    engine = "quarto" if quarto else "pandoc"
    if options.what == "preview":
        if engine == "quarto":
            command = [quarto, "preview", "--port", str(options.port), "--no-browser"]
            raise SystemExit(subprocess.run(command, cwd=ROOT).returncode)
        preview(options)
    pages = build(engine, quarto, options)
    seconds = time.monotonic() - start
    first = "_site/index.html"
    if options.what == "slides":
        first = next(iter(sorted(p.name for p in ROOT.glob("_site/slides/*.html"))), "")
        first = f"_site/slides/{first}"
    name = "Quarto" if engine == "quarto" else "Pandoc"
    print(
        f"{name} engine: {pages} pages in {seconds:.1f} s. "
        f"Open {ROOT / first}, or: make preview"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)
