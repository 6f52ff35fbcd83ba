"""Which files of `benchmarks/` a notebook reads, and a hash of what is in them.

The stamp of a run holds this hash, so a test notices when a stored result changed
after the notebook that shows it was executed.
"""

import ast
import fnmatch
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "benchmarks"


def _words(sources: Iterable[str]) -> Iterator[str]:
    """Yield each string in the code, and each module that it imports, as a path."""
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.replace(".", "/") + ".py"
            elif isinstance(node, ast.Import):
                yield from (x.name.replace(".", "/") + ".py" for x in node.names)


def files_read(sources: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Return the files below `benchmarks/` that code names, in order.

    Code names a file by its path, by a pattern such as ``*.json``, or by the name of a
    stored result without its suffix. Code without a word of `benchmarks` reads none.
    """
    words = set(_words(sources))
    if not any(FOLDER in word for word in words):
        return []
    found = set()
    for word in words:
        path = PurePosixPath(word)
        if FOLDER in path.parts:
            inside = root.joinpath(*path.parts[path.parts.index(FOLDER) :])
            found |= {inside} if inside.is_file() else set()
        for stored in (root / FOLDER / "results").glob("*"):
            pattern = path.name if "." in path.name else ""
            if stored.stem == word or fnmatch.fnmatchcase(stored.name, pattern):
                found.add(stored)
    return sorted(found)


def sha256(sources: Iterable[str], root: Path = ROOT) -> str:
    """Hash the names and contents of the files that code reads; "" for none."""
    files = files_read(sources, root)
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\0".encode())
    return digest.hexdigest() if files else ""
