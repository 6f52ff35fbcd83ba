"""Checkpoints of `helpers.training.fit`: one file, whole or not there at all."""

import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers import _validate
from helpers._arguments import take_apart
from helpers._run import Look

FORMAT = "helpers.training.fit, 1"
# A resumed run takes so many steps again, to see whether it is the run in the file. In
# other processes, which add the sites of a model in other orders, their losses differed
# by 3e-7 of the largest; with twice a learning rate of 1e-5, by 5e-5 and more.
AGAIN = 10
CLOSE = 1e-5
DAMAGED = (
    *(AttributeError, EOFError, KeyError, OSError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """Return a leaf as an array that NumPy can store; keys as their numbers."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _fingerprint(rng_key: jax.Array, arrays: list, *facts: Any) -> str:
    """Return what tells runs apart: key, data, and whatever else is given."""
    parts = [_plain(rng_key).tolist(), *facts]
    for array in arrays:
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            parts.append((array.shape, str(array.dtype)))
            continue
        plain = np.ascontiguousarray(_plain(array))
        content = zlib.crc32(plain.reshape(-1).view("uint8"))
        parts.append((plain.shape, str(plain.dtype), content))
    return repr(parts)


def _write(path: Path, **arrays: Any) -> None:
    """Store arrays in the place of the file before it.

    They are written beside it, and take its place when they are on the disk in full: a
    crash at any moment leaves one or the other.
    """
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            np.savez(file, format=FORMAT, **arrays)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        done, losses = arrays["done"].item(), arrays["losses"]
        if (
            str(arrays["format"]) == FORMAT
            and arrays["run"].shape == ()
            and losses.dtype.kind == "f"
            and losses.shape == (done,) != (0,)
            and arrays["values"].shape[1:] == (2,)
        ):
            return arrays
    except PermissionError:
        raise
    except DAMAGED:
        pass
    raise ValueError(
        f"checkpoint: expected a complete checkpoint of fit in {path}, got another or "
        "a damaged file; use another path, or delete it to start anew"
    )


def _restored(leaf: Any, stored: np.ndarray) -> jax.Array:
    """Return what was stored, on the devices of the leaf that it takes the place of."""
    # Where the leaf is bound to no device, to be put there would bind this one to it.
    place = leaf.sharding if getattr(leaf, "committed", False) else None
    if _is_key(leaf):
        stored = jax.random.wrap_key_data(stored, impl=jax.random.key_impl(leaf))
    return jax.device_put(stored, place)


def _as_typed(stored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Give numbers their type back that npz does not know, such as bfloat16."""
    alike = stored.dtype.kind == "V" and stored.dtype.itemsize == dtype.itemsize
    return stored.view(dtype) if alike else stored


class Keeper:
    """Where and when a run keeps its checkpoints; without a path, nowhere and never.

    Parameters
    ----------
    path : str, pathlib.Path or None
        The file.
    every : int or None
        Steps between two checkpoints.
    num_steps : int
        Steps of the whole run.
    """

    def __init__(self, path: Any, every: Any, num_steps: int):
        if path is None and every is not None:
            raise ValueError(
                f"checkpoint_every: expected None without checkpoint, got {every!r}"
            )
        self.path, self.saved, self.done = None, 0, 0
        if path is None:
            return
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint: expected a path, got {type(path).__name__}")
        self.path = Path(os.path.expanduser(path))
        if self.path.is_dir():
            raise ValueError(
                f"checkpoint: expected the path of a file, got the folder {self.path}"
            )
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint: expected an existing folder, got {self.path.parent}"
            )
        twentieth = -(-num_steps // 20)
        self.every = _validate.positive_int(
            "checkpoint_every", twentieth if every is None else every
        )
        if self.path.exists():
            self.stored = _read(self.path)
            self.done = int(self.stored["done"])
        if self.done > num_steps:
            raise ValueError(
                f"checkpoint: {self.path} has {self.done} steps, more than the "
                f"{num_steps} asked for"
            )

    def steps_from(self, done: int) -> int:
        """Return how many steps there are to the next checkpoint."""
        return self.every - done % self.every if self.path else sys.maxsize

    def due(self, done: int) -> bool:
        """Tell whether there should be a checkpoint after so many steps."""
        return self.path is not None and done % self.every == 0

    def resumed(
        self, look: Look, rng_key: jax.Array, arguments: tuple, *facts: Any
    ) -> Look:
        """Return what the file holds, or the look given if there is no file."""
        if self.path is None:
            return look
        arrays, (_, constants) = take_apart(arguments)
        known = [value for _, value in filter(None, constants)]
        known = [v for v in known if isinstance(v, bool | int | float | str)]
        self.run = _fingerprint(
            rng_key, arrays, *facts, known, sorted(look.best.params)
        )
        if not self.done:
            return look
        leaves, treedef = jax.tree.flatten((look.state, look.best))
        plain = [_plain(leaf) for leaf in leaves]
        stored = [
            _as_typed(self.stored.get(f"leaf_{i}", np.zeros(0)), leaf.dtype)
            for i, leaf in enumerate(plain)
        ]
        alike = all(
            (kept.shape, kept.dtype) == (leaf.shape, leaf.dtype)
            for kept, leaf in zip(stored, plain, strict=True)
        )
        if str(self.stored["run"]) != self.run or not alike:
            raise ValueError(
                f"checkpoint: {self.path} belongs to another run (key, data, batches, "
                "evaluations, model, guide or optimizer differ); use another path, or "
                "delete it to start anew"
            )
        state, best = jax.tree.unflatten(treedef, map(_restored, leaves, stored))
        self.saved = self.done
        return Look(
            self.done, state, best, self.stored["losses"], self.stored["values"]
        )

    def compare(self, losses: np.ndarray) -> None:
        """Refuse the file if the first steps, taken again, gave other losses.

        What a model, a guide or an optimizer computes cannot be read from its code.
        """
        stored = self.stored["losses"][: losses.size]
        close = np.abs(losses - stored) <= CLOSE * np.abs(stored).max()
        if not close.all():  # NaN is close to nothing
            at = int(close.argmin())
            raise ValueError(
                f"checkpoint: {self.path} belongs to another run: its first steps, "
                f"taken again, gave other losses (at step {at + 1} {losses[at]:.7g}, "
                f"stored {stored[at]:.7g}), as when model, guide, optimizer, batches "
                "or starting values are edited; use another path, or delete it to "
                "start anew"
            )

    def save(self, look: Look) -> None:
        """Store a look, unless it is the one in the file."""
        if self.path is None or look.done == self.saved:
            return
        leaves = jax.tree.leaves((look.state, look.best))
        _write(
            self.path,
            run=self.run,
            done=look.done,
            losses=look.losses,
            values=look.values,
            **{f"leaf_{i}": _plain(leaf) for i, leaf in enumerate(leaves)},
        )
        self.saved = look.done
