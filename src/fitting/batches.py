"""Where the data of a step come from: rows of a table, or a stream.

Each class, and `fitting.arguments.AllRows`, has

- `first`: arguments and keyword arguments of the model at the first step,
- `moving`: those arrays among them that change from step to step, by name,
- `put(moving)`: the arguments with such arrays in their places,
- `take(done, steps)`: how many steps there are data for, and these data,
- `pick(data, i)`: the moving arrays of step `i` of the steps taken,
- `example`: such data, or their shapes,
- `most`: steps to take at once, at most, and `batch_rows` and `num_rows`, numbers of
  rows in a step and in all, or None.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitting.arguments import (
    AllRows,
    Options,
    has_numbers,
    is_array,
    is_key,
    named_leaves,
    refuse_cast,
    refuse_mask,
    shown,
)

SMALL = 2**17  # rows of a table that fast memory holds: it is shuffled row by row
NEIGHBORS = 1_024  # rows of a larger table that stay together: read at once
BATCHES = 512  # steps between two looks of the host, at most;
ROWS = 2**20  # fewer where their rows
BYTES = 2**22  # or their bytes would be more than these


def shapes_of(tables: dict, *rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and types of tables, with other numbers of rows."""
    return {
        name: jax.ShapeDtypeStruct(
            (*rows, *table.shape[1:]), jax.dtypes.canonicalize_dtype(table.dtype)
        )
        for name, table in tables.items()
    }


def _refuse_lists(name: str, value: Any) -> None:
    """Refuse what would be a constant and is meant to be a table."""
    columns = hasattr(value, "to_numpy")  # a data frame or one of its columns
    if columns or (isinstance(value, list) and value and np.ndim(value[0]) == 0):
        cure = ".to_numpy()" if columns else "np.asarray(...)"
        raise TypeError(
            f"{name}: expected an array, since rows are picked from it, got "
            f"{type(value).__name__}; {cure} makes one. A list that is a constant "
            "belongs into the model: functools.partial(model, name=[...])"
        )


class RowOrder:
    """The order in which endless epochs visit the rows of a table.

    Each epoch visits each row once. `together` rows that are neighbors in the table
    stay neighbors; their groups follow each other in random order. The order follows
    from key and epoch alone, so that a resumed run can start anywhere.
    """

    def __init__(self, rng_key: jax.Array, num_rows: int, together: int = 1):
        data = jax.random.key_data(rng_key) if is_key(rng_key) else rng_key
        self.words = np.asarray(data).ravel().tolist()
        self.num_rows = num_rows
        self.bounds = np.append(np.arange(0, num_rows, together), num_rows)
        self.epoch = None

    def _begin(self, epoch: int) -> None:
        """Put the groups in the order of an epoch."""
        generator = np.random.default_rng([*self.words, epoch])
        order = generator.permutation(len(self.bounds) - 1)
        self.first_rows = self.bounds[order]
        self.ends = np.cumsum(self.bounds[order + 1] - self.first_rows)
        self.epoch = epoch

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Return the rows at the places `start` to `stop` of the epoch."""
        groups = np.searchsorted(self.ends, [start, stop - 1], side="right")
        some = slice(groups[0], groups[1] + 1)
        ends = self.ends[some]
        begins = np.append(self.ends[groups[0] - 1] if groups[0] else 0, ends[:-1])
        shift = np.repeat(self.first_rows[some] - begins, ends - begins)
        rows = shift + np.arange(begins[0], ends[-1])
        return rows[start - begins[0] : stop - begins[0]]

    def take(self, position: int, count: int) -> np.ndarray:
        """Return `count` row numbers, the first of them at `position`."""
        rows = np.empty(count, "int32")
        filled = 0
        while filled < count:
            epoch, start = divmod(position + filled, self.num_rows)
            if epoch != self.epoch:
                self._begin(epoch)
            some = self._rows(start, min(start + count - filled, self.num_rows))
            rows[filled : filled + some.size] = some
            filled += some.size
        return rows


class RowArguments:
    """The arguments of a model, whose arrays are tables with the same rows."""

    def __init__(self, who: str, model: Callable, args: tuple, kwargs: dict):
        for i, value in enumerate(args):
            _refuse_lists(f"model argument {i}", value)
        for name, value in kwargs.items():
            _refuse_lists(name, value)
        self.leaves, self.tree = jax.tree.flatten((args, kwargs))
        self.names = [name for name, _ in named_leaves(model, args, kwargs)]
        self.tables = {}
        for name, leaf in zip(self.names, self.leaves, strict=True):
            _refuse_lists(name, leaf)  # the column of a data frame, in a dictionary
            if is_array(leaf) and leaf.ndim and not is_key(leaf):
                self.tables[name] = leaf
        for name, table in self.tables.items():
            refuse_mask(name, table)
            if not has_numbers(table):
                raise TypeError(
                    f"{name}: expected numbers, since its rows go to the device, got "
                    f"{shown(table)}. Give names numbers before: "
                    "np.unique(names, return_inverse=True)[1]"
                )
        lengths = {len(table) for table in self.tables.values()}
        if len(lengths) != 1 or lengths == {0}:
            found = [f"{name} of shape {t.shape}" for name, t in self.tables.items()]
            raise ValueError(
                f"{who}: expected arrays with the same number of rows as arguments of "
                f"the model, got {', '.join(found) or 'no array'}. What is not a table "
                "belongs into the model: functools.partial(model, name=array)"
            )
        self.num_rows = lengths.pop()

    def put(self, moving: dict) -> tuple:
        """Return the arguments with other rows in the place of the tables."""
        pairs = zip(self.names, self.leaves, strict=True)
        leaves = [moving.get(name, leaf) for name, leaf in pairs]
        return jax.tree.unflatten(self.tree, leaves)


class Tables(RowArguments):
    """Every step gets some rows of each array; the arrays stay on the device.

    A table of more than `SMALL` rows is copied in random order first, so that neighbors
    in it are as good as a random choice, however the rows were stored.
    """

    problem = None

    def __init__(
        self,
        model: Callable,
        args: tuple,
        kwargs: dict,
        batch_rows: int,
        order_keys: jax.Array,
        many: bool = False,
    ):
        super().__init__("batch_size", model, args, kwargs)
        self.batch_rows, self.stored, tables = batch_rows, self.tables, self.tables
        if batch_rows > self.num_rows:
            raise ValueError(
                f"batch_size: expected at most the {self.num_rows} rows, "
                f"got {batch_rows}"
            )
        refuse_cast(tables.items())
        spread = any(
            isinstance(table, jax.Array) and table.sharding.num_devices > 1
            for table in tables.values()
        )
        together = 1 if spread or self.num_rows <= SMALL else NEIGHBORS
        if together > 1:
            mixed = np.random.default_rng(0).permutation(self.num_rows)
            tables = {n: jnp.asarray(table)[mixed] for n, table in tables.items()}
        self.tables = {name: jnp.asarray(table) for name, table in tables.items()}
        self.many = many
        self.shape_of_runs = (len(order_keys),) if many else ()
        order_keys = order_keys if many else [order_keys]
        self.orders = [RowOrder(key, self.num_rows, together) for key in order_keys]
        self.most = max(1, min(BATCHES, ROWS // batch_rows))
        self.moving = self.rows_at(self.orders[0].take(0, batch_rows))
        self.first = self.put(self.moving)
        self.example = np.zeros((*self.shape_of_runs, self.most, batch_rows), "int32")

    def rows_at(self, rows: np.ndarray | jax.Array) -> dict[str, jax.Array]:
        """Return rows of each table."""
        return {
            name: table.at[rows].get(mode="promise_in_bounds")
            for name, table in self.tables.items()
        }

    def extremes(self, count: int) -> dict[str, np.ndarray]:
        """Return `count` rows, with the smallest and largest values of each column.

        Of a large table, every tenth or hundredth row is looked at.
        """
        found = [np.arange(count)]
        if not all(
            getattr(t, "is_fully_addressable", True) for t in self.stored.values()
        ):
            return self.moving  # spread over processes
        for table in self.stored.values():
            stride = -(-table.size // 2**22)
            some = np.asarray(table[::stride])
            if some.dtype.kind in "biuf":
                some = some.reshape(len(some), -1)
                ends = np.stack([some.argmin(axis=0), some.argmax(axis=0)], axis=-1)
                found.insert(-1, ends.ravel() * stride)
        rows = np.array(list(dict.fromkeys(np.concatenate(found).tolist()))[:count])
        return {name: jnp.asarray(table[rows]) for name, table in self.stored.items()}

    def take(self, done: int, steps: int) -> tuple[int, np.ndarray]:
        """Return the number of steps, and the row numbers of each (run and) step."""
        rows = np.zeros((len(self.orders), self.most, self.batch_rows), "int32")
        start, count = done * self.batch_rows, steps * self.batch_rows
        for one, order in zip(rows, self.orders, strict=True):
            one.reshape(-1)[:count] = order.take(start, count)
        return steps, rows if self.many else rows[0]

    def pick(self, rows: jax.Array, i: jax.Array) -> dict[str, jax.Array]:
        """Return the rows of a step of one run."""
        return self.rows_at(rows[i])


class Stream:
    """Every step gets the next batch of an iterator, by way of the host.

    Several batches go to the device in one piece. What is wrong with one of them waits
    in `problem`, as words and an exception or None, until the steps before it are done.
    """

    problem = None

    def __init__(
        self,
        model: Callable,
        batches: Iterable | Callable[[int], Iterable],
        num_rows: int,
        kwargs: dict,
    ):
        self.model, self.given, self.kwargs = model, batches, kwargs
        self.num_rows, self.read, self.known = num_rows, 0, None
        try:
            self.batches = iter(batches(0) if callable(batches) else batches)
        except Exception as error:  # whatever the reader of the data may raise
            self.problem = f"batches: {type(error).__name__}: {error}", error
            return
        self.held = self._next(0)
        if self.held is None:
            return
        self.moving = {name: np.array(array) for name, array in self.held.items()}
        self.held = self.moving  # copied: readers may reuse their memory
        self.first = self.put(self.moving)
        lengths = sorted({len(array) for array in self.moving.values() if array.ndim})
        if len(lengths) != 1:
            what = "batches: expected arrays with the same number of rows in a batch"
            self.problem = f"{what}, got {lengths or 'none'}", None
            return
        self.batch_rows = lengths[0]
        size = sum(array.nbytes for array in self.moving.values())
        self.most = max(1, min(BATCHES, BYTES // max(size, 1)))
        self.example = self._blank()

    def _blank(self) -> dict[str, np.ndarray]:
        """Return room for the batches of some steps."""
        return {
            name: np.zeros((self.most, *array.shape), array.dtype)
            for name, array in self.moving.items()
        }

    def _next(self, done: int) -> dict | None:
        """Return the arrays of the next batch, or None where there is a problem."""
        try:
            if done != self.read and callable(self.given):
                self.batches = iter(self.given(done))
            elif done != self.read:  # a resumed run has used these
                for _ in range(done - self.read):
                    next(self.batches, None)
            batch = next(self.batches)
        except StopIteration:
            self.problem = f"batches: ended before step {done + 1}", None
            return None
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            self.problem = f"batches: raised {what} at step {done + 1}", error
            return None
        self.read = done + 1
        try:
            return self._taken_apart(batch)
        except (TypeError, ValueError) as error:
            self.problem = f"batches: at step {done + 1}, {error}", error
            return None

    def _taken_apart(self, batch: Any) -> dict[str, np.ndarray]:
        """Return the arrays of a batch by name; refuse what is unlike the first one."""
        if isinstance(batch, dict):
            args, named = (), batch
        else:
            args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
            named = {}
        leaves, tree = jax.tree.flatten((args, named))
        leaves = [np.asarray(x) if isinstance(x, np.generic) else x for x in leaves]
        for leaf in leaves:
            refuse_mask("an array", leaf)
            if not is_array(leaf) or is_key(leaf) or not has_numbers(leaf):
                raise TypeError(
                    "expected a tuple or a dictionary of arrays of numbers, got "
                    f"{shown(leaf)}"
                )
            if leaf.dtype.kind in "iu" or not leaf.dtype.isnative:
                refuse_cast([("an array", leaf)])
        look = tree, [(leaf.shape, leaf.dtype) for leaf in leaves]
        if self.known is None:
            if both := sorted(named.keys() & self.kwargs.keys()):
                raise ValueError(f"expected {both} in batches or in the call, got both")
            if not leaves:
                raise ValueError(f"expected arrays, got {shown(batch)} without any")
            self.known = look
            self.names = [name for name, _ in named_leaves(self.model, args, named)]
        elif look != self.known:
            raise ValueError(
                "expected arrays like those of the first batch, "
                f"{self.known[0]} {self.known[1]}, got {look[0]} {look[1]}"
            )
        return dict(zip(self.names, leaves, strict=True))

    def put(self, moving: dict) -> tuple:
        """Return the arguments with the arrays of a batch."""
        leaves = [moving[name] for name in self.names]
        args, named = jax.tree.unflatten(self.known[0], leaves)
        return args, named | self.kwargs

    def take(self, done: int, steps: int) -> tuple[int, dict[str, jax.Array] | None]:
        """Return how many steps there are data for, and the data."""
        pieces, count = self._blank(), 0
        while count < steps and self.problem is None:
            at, held, self.held = done + count, self.held, None
            batch = held if held and at == 0 else self._next(at)  # a run may resume
            if batch is None:
                break
            for name, array in batch.items():
                pieces[name][count] = array
            count += 1
        return count, jax.device_put(pieces) if count else None

    def pick(self, data: dict, i: jax.Array) -> dict[str, jax.Array]:
        """Return the batch of a step."""
        return {
            name: array.at[i].get(mode="promise_in_bounds")
            for name, array in data.items()
        }


def source_of(
    model: Callable, args: tuple, kwargs: dict, options: Options, order_key: jax.Array
) -> AllRows | Tables | Stream:
    """Return where the data of a fit come from; refuse what cannot be."""
    if options.batch_size is not None:
        size, many = options.batch_size, options.many
        return Tables(model, args, kwargs, size, order_key, many)
    if options.batches is None:
        return AllRows(args, kwargs)
    source = Stream(model, options.batches, options.num_rows, kwargs)
    if source.problem is not None:
        raise ValueError(source.problem[0]) from source.problem[1]
    return source
