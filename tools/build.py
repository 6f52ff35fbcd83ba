"""Build the pages and slides into _site: `make site`, `make preview`, `make slides`.

Quarto builds them if it is on the PATH. Otherwise the Pandoc engine in `offline_site`
does, which needs nothing more than Python packages.
"""

import argparse
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
HOW_TO_GET_QUARTO = (
    "No Quarto on the PATH. To get it: conda install -c conda-forge quarto, "
    "or https://quarto.org/docs/get-started/"
)


def find_quarto() -> str | None:
    """Return the path of Quarto, if there is one."""
    return shutil.which("quarto")


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


def course_files() -> list[Path]:
    """Return what belongs to the course: what git knows, or what nothing here made."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    else:
        made = {"_site", "work", "build", "__pycache__", "course.zip", "learners.zip"}
        hidden = {".binder", ".ci", ".devcontainer", ".gitignore", ".python-version"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if not made.intersection(parts := path.relative_to(ROOT).parts)
            and (parts[0][0] != "." or parts[0] in hidden)
            and not any(part.endswith((".egg-info", "_files")) for part in parts)
        ]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def pack() -> None:
    """Write course.zip, which readers of the site download."""
    with zipfile.ZipFile(ROOT / "course.zip", "w") as archive:
        for path in course_files():
            name = f"course/{path.relative_to(ROOT).as_posix()}"
            entry = zipfile.ZipInfo(name)  # without a date: the same each time
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


def build(quarto: str | None, options: argparse.Namespace) -> int:
    """Build into _site; return the number of pages."""
    decks = options.what == "slides"
    output = ROOT / "_site"
    if quarto:
        if not decks and output.exists():
            shutil.rmtree(output)
        run_quarto(quarto, decks, options.strict)
        from search_index import search_index

        text = json.dumps(search_index(output), ensure_ascii=False)
        (output / "search.json").write_text(text, encoding="utf-8")
        pages = output.glob("slides/*.html" if decks else "**/*.html")
        return sum("site_libs" not in page.parts for page in pages)
    from offline_site import build as build_with_pandoc

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
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    except OSError as error:
        other = f'make preview ARGS="--port {options.port + 1}"'
        taken = f"port {options.port}: {error.strerror}"
        raise SystemExit(f"{taken}; try {other}") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}  (Ctrl-C ends it)", flush=True)
    known: dict[Path, float] = {}
    while True:
        now = sources()
        if now != known:
            known = now
            try:
                pages = build(None, options)
                print(f"{time.strftime('%H:%M:%S')}  {pages} pages", flush=True)
            except SystemExit as problem:
                print(problem, flush=True)
        time.sleep(1)


def choose(engine: str | None) -> str | None:
    """Return the path of Quarto, or None for the Pandoc engine, and say why."""
    if engine == "pandoc":
        return None
    quarto = find_quarto()
    if not quarto and engine == "quarto":
        raise SystemExit(HOW_TO_GET_QUARTO)
    if not quarto:
        print(f"{HOW_TO_GET_QUARTO}\nThe Pandoc engine builds the site instead.")
    return quarto


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
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
    quarto = choose(options.engine)
    copies = tempfile.TemporaryDirectory()
    if options.what != "slides":
        import downloads
        import learners
        import working_copy

        pack()
        working_copy.update(ROOT, Path(copies.name))
        learners.pack(ROOT, Path(copies.name))
    if options.what == "preview":
        if quarto:
            command = [quarto, "preview", "--port", str(options.port), "--no-browser"]
            raise SystemExit(subprocess.run(command, cwd=ROOT).returncode)
        preview(options)
    pages = build(quarto, options)
    if options.what == "site":
        downloads.put_notebooks(ROOT, Path(copies.name), ROOT / "_site")
        downloads.put_links(ROOT, ROOT / "_site")
    seconds = time.monotonic() - start
    first = "_site/index.html"
    if options.what == "slides":
        first = next(iter(sorted(p.name for p in ROOT.glob("_site/slides/*.html"))), "")
        first = f"_site/slides/{first}"
        from print_slides import print_slides

        printed = print_slides(ROOT / "_site" / "slides")
        print(f"{len(printed)} decks as PDF: {ROOT / '_site' / 'slides'}/*.pdf")
    name = "Quarto" if quarto else "Pandoc"
    print(
        f"{name} engine: {pages} pages in {seconds:.1f} s. "
        f"Open {ROOT / first}, or: make preview"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)
