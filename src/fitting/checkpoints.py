"""Checkpoints of a fit: one file, whole or not there at all."""

import hashlib
import os
import re
import tempfile
import uuid
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitting.arguments import is_array, is_key

FORMAT = "fit, 2"


def path_of(value: Any) -> Path:
    """Return the path of a checkpoint; refuse one that could not be written."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"checkpoint: expected a path, got {type(value).__name__}")
    path = Path(value).expanduser().resolve()  # of a link, the file it stands for
    if path.is_dir():
        raise ValueError(
            f"checkpoint: expected the path of a file, got the folder {path}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"checkpoint: expected an existing folder, got {path.parent}"
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PermissionError(
            f"checkpoint: expected a folder that can be written to, got {path.parent} "
            f"({error.strerror})"
        ) from error
    return path


def _plain(leaf: Any) -> np.ndarray:
    """Return a leaf as an array that NumPy can store; keys as their numbers."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def fingerprint(rng_key: jax.Array, arguments: tuple, *facts: Any) -> str:
    """Return what tells runs apart: key, data, constants, and other facts."""
    parts = [_plain(rng_key).tolist(), *facts]
    for leaf in jax.tree.leaves(arguments):
        if is_array(leaf) and getattr(leaf, "is_fully_addressable", True):
            plain = np.ascontiguousarray(_plain(leaf))
            if plain.dtype.kind == "O":  # of names
                plain = np.array(repr(plain.tolist()))
            content = zlib.crc32(plain.reshape(-1).view("uint8"))
            parts.append((plain.shape, str(plain.dtype), content))
        elif is_array(leaf):
            parts.append((leaf.shape, str(leaf.dtype)))
        elif isinstance(leaf, bool | int | float | str):
            parts.append(leaf)
    return repr(parts)


def code_of(program: Any) -> str:
    """Return a short text that changes when model, guide or optimizer are edited.

    It counts the words of the traced program but for its variables. Other processes may
    add the sites of a model in another order: order does not count.
    """
    text = re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))  # places in memory
    variables = set(re.findall(r"\b([a-z]+):", text))
    words = Counter(re.findall(r"[\w.+-]+", text))
    counted = sorted(pair for pair in words.items() if pair[0] not in variables)
    arrays = sorted(fingerprint(np.zeros(0), (array,)) for array in program.consts)
    return hashlib.sha256(repr((counted, arrays)).encode()).hexdigest()


def begin_of(state: Any) -> np.ndarray:
    """Return a few numbers that change with the start of a run, not with rounding."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if not is_key(leaf)]
    return np.array([np.abs(_plain(leaf).astype(float)).sum() for leaf in leaves])


def write(path: Path, tree: Any, **facts: Any) -> None:
    """Store a tree of arrays in the place of the file before it.

    They are written beside it, under a name of their own, and take its place when they
    are on the disk in full: a crash at any moment leaves one or the other.
    """
    leaves = {f"leaf_{i}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            np.savez(file, format=FORMAT, **facts, **leaves)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


class Keeper:
    """The file that a run is kept in."""

    def __init__(self, options: Any, rng_key: jax.Array, source: Any, program: Any):
        self.num_steps, self.saved = options.num_steps, 0
        self.path = path_of(options.checkpoint)
        data = getattr(source, "tables", None), source.first
        self.run = fingerprint(rng_key, data, *options.facts)
        self.code = code_of(program)

    def save(self, done: int, tree: Any) -> None:
        """Store a run, unless the file has it."""
        if done != self.saved:
            facts = {"run": self.run, "code": self.code, "begin": self.begin}
            write(self.path, tree, **facts, done=done)
            self.saved = done

    def load(self, tree: Any) -> tuple[int, Any]:
        """Return the steps done and the run in the file; without one, the run given.

        Raises
        ------
        ValueError
            If the file is damaged, or of another run. A `UserWarning` says where model,
            guide or optimizer seem to have been edited since.
        """
        self.begin = begin_of(tree)
        if not self.path.exists():
            return 0, tree
        stored = read(self.path)
        done = int(stored["done"])
        leaves, structure = jax.tree.flatten(tree)
        kept = [stored.get(f"leaf_{i}") for i in range(len(leaves))]
        shapes = [_plain(leaf).shape for leaf in leaves]
        shapes[-1] = (*shapes[-1][:-1], done)  # of losses and evaluations
        alike = shapes == [np.shape(array) for array in kept]
        alike &= sum(name.startswith("leaf_") for name in stored) == len(leaves)
        alike &= stored["begin"].shape == self.begin.shape
        alike &= all(a is not None and a.dtype.kind not in "USO" for a in kept)
        if str(stored["run"]) != self.run or not alike:
            raise ValueError(
                f"checkpoint: {self.path} belongs to another run (key, data, batches, "
                "evaluations, model, guide or optimizer differ); use another path, or "
                "delete it to start anew"
            )
        if done > self.num_steps:
            raise ValueError(
                f"checkpoint: {self.path} has {done} steps, more than the "
                f"{self.num_steps} asked for"
            )
        same_begin = np.allclose(stored["begin"], self.begin, rtol=1e-3, equal_nan=True)
        if str(stored["code"]) != self.code or not same_begin:
            warnings.warn(
                f"checkpoint: {self.path} goes on with a model, guide, start, "
                "optimizer or evaluation that computes something else than the one "
                "that wrote it; delete the file to start anew",
                stacklevel=3,
            )
        self.saved = done
        restored = [_restored(*pair) for pair in zip(leaves, kept, strict=True)]
        return done, jax.tree.unflatten(structure, restored)


def read(path: Path) -> dict[str, np.ndarray]:
    """Return what a checkpoint holds; refuse a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = dict(file)
        names = ("format", "run", "code", "begin", "done")
        facts = {name: stored[name][()] for name in names}
        done = facts["done"]
        if facts["format"] == FORMAT and isinstance(done, np.integer) and done > 0:
            return stored
    except PermissionError:
        raise
    except Exception:  # a damaged archive may fail in any way
        pass
    raise ValueError(
        f"checkpoint: expected a complete checkpoint of fit in {path}, got another or "
        "a damaged file; use another path, or delete it to start anew"
    )


def _restored(leaf: Any, stored: np.ndarray) -> Any:
    """Return what was stored, on the devices of the leaf that it takes the place of."""
    if not isinstance(leaf, jax.Array):
        return stored
    if is_key(leaf):
        stored = jax.random.wrap_key_data(stored, impl=jax.random.key_impl(leaf))
    elif stored.dtype.kind == "V":  # npz does not know bfloat16 and the like
        stored = stored.view(leaf.dtype)
    # Where the leaf is bound to no device, to be put there would bind this one to it.
    place = leaf.sharding if getattr(leaf, "committed", False) else None
    return jax.device_put(jnp.asarray(stored), place)
