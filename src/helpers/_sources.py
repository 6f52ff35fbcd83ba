"""Where the data of a step come from: all rows, rows of a table, or a stream."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers import _validate
from helpers._arguments import put_together, take_apart
from helpers._loop import Chunk

BLOCK = 2**17  # rows that are shuffled together
RUN = 128  # neighbors in a longer table that stay together, unless they are alike,
PIECE = 4_096  # as seen in some pieces of so many rows,
PIECES = 256  # at most so many,
COLUMNS = 32  # with so many columns, or as many mixtures of more
STEPS = 4_096  # of all rows: at most so many between two looks of the host
BATCHES = 512  # at most so many in one piece,
ROWS = 2**20  # with so many row numbers,
BYTES = 2**22  # or so many bytes; it was slower with four times as many


def _bounds(num_rows: int) -> np.ndarray:
    """Return where blocks of rows begin, and where the last one ends."""
    count = -(-num_rows // BLOCK)
    return np.linspace(0, num_rows, count + 1).astype(int)


class RowOrder:
    """The order in which an endless run of epochs visits the rows of a table.

    Each epoch visits each row once, in an order of its own: blocks of `BLOCK`
    consecutive rows, one after the other in random order, each shuffled, by `together`
    neighbors at a time, who are not the same in the next epoch. It follows from the
    key, the epoch and the block alone, so that it can start anywhere.
    """

    def __init__(self, rng_key: jax.Array, num_rows: int, together: int = 1):
        self.words = np.asarray(jax.random.key_data(rng_key)).ravel().tolist()
        self.num_rows, self.together = num_rows, together
        self.bounds = _bounds(num_rows)
        self.epoch = self.block = None

    def _from(self, position: int) -> np.ndarray:
        """Return the rows from `position` to the end of its block."""
        epoch, at = divmod(position, self.num_rows)
        if self.epoch != epoch:
            generator = np.random.default_rng([*self.words, epoch])
            self.blocks = generator.permutation(len(self.bounds) - 1)
            self.ends = np.cumsum(np.diff(self.bounds)[self.blocks])
            self.epoch, self.block = epoch, None
        place = int(np.searchsorted(self.ends, at, side="right"))
        if self.block != place:
            block = int(self.blocks[place])
            start, stop = self.bounds[block : block + 2]
            # One more than the block: a seed that ends in zero is the one without it.
            generator = np.random.default_rng([*self.words, epoch, block + 1])
            before = generator.integers(self.together) if self.together > 1 else 0
            firsts = np.arange(start - before, stop, self.together, dtype="int32")
            generator.shuffle(firsts)
            rows = np.add.outer(firsts, np.arange(self.together, dtype="int32"))
            self.rows, self.block = rows[(rows >= start) & (rows < stop)], place
        return self.rows[at - int(self.ends[place]) :]  # counted from the end

    def take(self, position: int, count: int) -> np.ndarray:
        """Return `count` row numbers, the first of them at `position`."""
        rows = np.empty(count, "int32")
        filled = 0
        while filled < count:
            some = self._from(position + filled)[: count - filled]
            rows[filled : filled + some.size] = some
            filled += some.size
        return rows


def _stored_at_random(name: str, table: Any) -> None:
    """Refuse a long table whose rows change from block to block more than by chance.

    Batches come from one block at a time. A mean that moves by a thirtieth of the
    standard deviation counts; in rows of random order it moves by a tenth of that.
    """
    means, squares = [], 0.0
    for start, stop in pairwise(_bounds(len(table))):
        sums = 0.0
        for first in range(start, stop, PIECE):  # in 64 bits, so a little at a time
            rows = np.asarray(table[first : min(first + PIECE, stop)], float)
            rows = rows.reshape(len(rows), -1)
            sums, squares = sums + rows.sum(axis=0), squares + (rows**2).sum(axis=0)
        means.append(sums / (stop - start))
    means = np.array(means)
    spread = squares / len(table) - means.mean(axis=0) ** 2
    share = means.var(axis=0) / np.where(spread > 0, spread, np.inf)
    if (share > 1e-3 + 10 / BLOCK).any():
        column = int(share.argmax())
        raise ValueError(
            f"{name}: expected rows in random order, got a table whose column {column} "
            f"drifts (means of blocks of {BLOCK:,} rows go from "
            f"{means[:, column].min():.4g} to {means[:, column].max():.4g}); shuffle "
            "all tables alike once, before the fit"
        )


def _neighbors_are_alike(tables: Sequence[Any]) -> bool:
    """Tell whether neighbors in tables have more in common than any two rows.

    Means of `RUN` rows in random order vary by a `RUN`-th of the variance of rows. Here
    they count as alike if it is a quarter more, for any column, any square or any
    product of two columns, also of two tables: gradients are made of these.
    """
    length = len(tables[0])
    piece = min(PIECE, length)
    starts = np.arange(0, length - piece + 1, piece)
    some = np.linspace(0, len(starts) - 1, min(PIECES, len(starts))).astype(int)
    sums = squares = run_squares = 0.0
    center = scale = mix = None
    for start in starts[some]:
        parts = [np.asarray(table[start : start + piece], float) for table in tables]
        rows = np.concatenate([part.reshape(piece, -1) for part in parts], axis=1)
        if center is None:
            center, scale = rows.mean(axis=0), rows.std(axis=0)
            scale = np.where(scale > 0, scale, 1)
            mix = np.eye(rows.shape[1])
            if len(mix) > COLUMNS:
                shape = len(mix), COLUMNS
                mix = np.random.default_rng(0).normal(size=shape) / len(mix) ** 0.5
        rows = np.pad(
            (rows - center) / scale @ mix, ((0, 0), (1, 0)), constant_values=1
        )
        runs = rows[: piece // RUN * RUN].reshape(-1, RUN, rows.shape[1])
        products = runs.transpose(0, 2, 1) @ runs / RUN  # their means in each run
        with np.errstate(over="ignore", invalid="ignore"):
            sums = sums + products.sum(axis=0)
            run_squares = run_squares + (products**2).sum(axis=0)
            squares = squares + (rows**2).T @ (rows**2)
    mean = sums / (len(some) * (piece // RUN))
    with np.errstate(over="ignore", invalid="ignore"):
        among_runs = run_squares / (len(some) * (piece // RUN)) - mean**2
        among_rows = squares / (len(some) * piece) - mean**2
        return not (RUN * among_runs <= 1.25 * among_rows + 1e-6).all()


class AllRows:
    """Every step gets all of the data."""

    num_rows = batch_rows = problem = None
    most = least = STEPS
    together = 1

    def __init__(self, arguments: tuple):
        arrays, rest = take_apart(arguments)
        arrays = list(map(jnp.asarray, arrays))  # to the device once, not every time
        self.first = put_together(arrays, rest)
        self.chunk = Chunk(arrays, None, rest, (False,) * len(arrays))

    def take(self, done: int, steps: int, size: int) -> tuple[int, Chunk]:
        """Return how many steps there are data for, and the data."""
        return steps, self.chunk


class Tables:
    """Every step gets some rows of each array; the arrays stay on the device."""

    problem = None
    least = 1

    def __init__(self, arguments: tuple, batch_rows: int, rng_key: jax.Array):
        arrays, rest = take_apart(arguments)
        varies = tuple(bool(array.ndim) for array in arrays)
        lengths = sorted({len(array) for array in arrays if array.ndim})
        if len(lengths) != 1:
            raise ValueError(
                "batch_size: expected arrays with the same number of rows as arguments "
                f"of the model, got {lengths or 'no array'} (what is not a table "
                "belongs into the model, by a closure or functools.partial)"
            )
        self.num_rows, self.batch_rows = lengths[0], batch_rows
        if batch_rows > self.num_rows:
            raise ValueError(
                f"batch_size: expected at most the {self.num_rows} rows, "
                f"got {batch_rows}"
            )
        self.together = 1
        if self.num_rows > BLOCK:
            for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
                if _validate.is_array(leaf) and leaf.ndim:
                    at = jax.tree_util.keystr(path[2:])
                    which = path[1].idx if path[0].idx == 0 else path[1].key
                    name = f"model argument {which}" if path[0].idx == 0 else which
                    _stored_at_random(f"{name}{at}", leaf)
            tables = [array for array, v in zip(arrays, varies, strict=True) if v]
            self.together = 1 if _neighbors_are_alike(tables) else RUN
        self.order = RowOrder(rng_key, self.num_rows, self.together)
        self.chunk = Chunk(list(map(jnp.asarray, arrays)), None, rest, varies)
        start = self.order.take(0, batch_rows)
        some = [
            array[start] if vary else array
            for array, vary in zip(self.chunk.arrays, varies, strict=True)
        ]
        self.first = put_together(some, rest)
        self.most = max(1, min(BATCHES, ROWS // batch_rows))

    def take(self, done: int, steps: int, size: int) -> tuple[int, Chunk]:
        """Return how many steps there are data for, and the data."""
        rows = np.zeros((size, self.batch_rows), "int32")
        count = steps * self.batch_rows
        rows.reshape(-1)[:count] = self.order.take(done * self.batch_rows, count)
        return steps, self.chunk._replace(rows=rows)


class Stream:
    """Every step gets the next batch of an iterator, by way of the host.

    Several batches go to the device in one piece. What is wrong with one of them waits
    in `problem`, as words and an exception or None, until the steps before it are done.
    """

    problem = None
    least = together = 1

    def __init__(
        self,
        batches: Iterable | Callable[[int], Iterable],
        num_rows: int,
        kwargs: dict,
    ):
        self.num_rows, self.given, self.read = num_rows, batches, 0
        self.kwargs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if _validate.is_array(leaf) else leaf, kwargs
        )
        self.shapes = self.structure = None
        try:
            self.batches = iter(batches(0) if callable(batches) else batches)
        except Exception as error:
            self.problem = f"batches: {type(error).__name__}: {error}", error
            return
        self.held = self._next(0)
        if self.held is None:
            return
        arrays, self.rest, self.varies = self.held
        arrays = list(map(np.array, arrays))
        self.held = arrays, self.rest, self.varies
        self.first = put_together(arrays, self.rest)
        self.shapes = [(array.shape, array.dtype) for array in arrays]
        moving = [a for a, v in zip(arrays, self.varies, strict=True) if v]
        lengths = sorted({len(array) for array in moving if array.ndim})
        if len(lengths) != 1:
            what = "batches: expected arrays with the same number of rows in a batch"
            self.problem = f"{what}, got {lengths or 'none'}", None
            return
        self.batch_rows = lengths[0]
        size = sum(array.nbytes for array in moving)
        self.most = max(1, min(BATCHES, BYTES // max(size, 1)))

    def _go_to(self, done: int) -> None:
        """Leave out the batches up to a step: a resumed run has used them."""
        if callable(self.given):
            self.batches = iter(self.given(done))
        else:
            for _ in range(done - self.read):
                next(self.batches, None)

    def _next(self, done: int) -> tuple | None:
        """Return the next batch taken apart, or None where there is a problem."""
        try:
            if done != self.read:
                self._go_to(done)
            batch = next(self.batches)
        except StopIteration:
            self.problem = f"batches: ended before step {done + 1}", None
            return None
        except Exception as error:  # whatever the reader of the data may raise
            what = f"{type(error).__name__}: {error}"
            self.problem = f"batches: raised {what} at step {done + 1}", error
            return None
        self.read = done + 1
        try:
            return self._alike(batch) or self._taken_apart(batch)
        except (TypeError, ValueError) as error:
            self.problem = f"batches: at step {done + 1}, {error}", error
            return None

    def _alike(self, batch: Any) -> tuple | None:
        """Take apart, in little time, a sound batch of arrays like the first one's."""
        leaves, structure = jax.tree.flatten(batch)
        if self.shapes is None or structure != self.structure:
            return None
        arrays = list(self.kept)
        for place, leaf in zip(self.places, leaves, strict=True):
            if not (
                type(leaf) in (np.ndarray, np.memmap)  # not those that hide numbers
                and (leaf.shape, leaf.dtype) == self.shapes[place]
                and leaf.dtype.kind in "fb"
                and np.isfinite(leaf).all()
            ):
                return None
            arrays[place] = leaf
        return arrays, self.rest, self.varies

    def _taken_apart(self, batch: Any) -> tuple[list, tuple, tuple[bool, ...]]:
        if isinstance(batch, dict):
            args, named = (), batch
        else:
            args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
            named = {}
        _validate.model_arguments(args, named)
        if not take_apart((args, named))[0]:
            raise ValueError(
                "expected a tuple or a dictionary of arrays, "
                f"got {type(batch).__name__} without any"
            )
        for leaf in jax.tree.leaves((args, named)):
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended):
                raise TypeError("expected arrays of numbers, got keys")
        if both := sorted(named.keys() & self.kwargs.keys()):
            raise ValueError(f"expected {both} in batches or in the call, got both")
        arrays, rest = take_apart((args, named | self.kwargs))
        marks = (
            jax.tree.map(_validate.is_array, (args, named)),
            jax.tree.map(lambda leaf: False, self.kwargs),
        )
        (args, named), kept = marks
        kinds = jax.tree.leaves((args, named | kept))
        full = put_together(arrays, rest)
        varies = tuple(
            kind
            for kind, leaf in zip(kinds, jax.tree.leaves(full), strict=True)
            if _validate.is_array(leaf)
        )
        leaves, structure = jax.tree.flatten(batch)
        if self.shapes is None and all(map(_validate.is_array, leaves)):
            self.structure = structure
            self.kept = [
                None if moves else array
                for array, moves in zip(arrays, varies, strict=True)
            ]
            self.places = [i for i, moves in enumerate(varies) if moves]
        elif self.shapes is not None:
            shapes = [(array.shape, array.dtype) for array in arrays]
            if shapes != self.shapes or rest != self.rest:
                raise ValueError(
                    f"expected arrays like those of the first batch, {self.shapes}, "
                    f"got {shapes}; all else must stay the same, too"
                )
        return arrays, rest, varies

    def take(self, done: int, steps: int, size: int) -> tuple[int, Chunk]:
        """Return how many steps there are data for, and the data."""
        whole = [
            np.empty((size, *shape), dtype) if varies else None
            for (shape, dtype), varies in zip(self.shapes, self.varies, strict=True)
        ]
        count = 0
        while count < steps and self.problem is None:
            batch, self.held = self.held or self._next(done + count), None
            if batch is None:
                break
            arrays, *_ = batch
            for pieces, array in zip(whole, arrays, strict=True):
                if pieces is not None:  # copied at once: readers may reuse their memory
                    pieces[count] = array
            count += 1
        if not count:
            return 0, None
        arrays = [
            array if pieces is None else jax.device_put(pieces)
            for pieces, array in zip(whole, arrays, strict=True)
        ]
        return count, Chunk(arrays, None, self.rest, self.varies)
