"""Tables on disk that are longer than memory, and loaders that stream them.

A loader is what `fit` takes as `batches`: a function of the number of batches already
used, which returns an endless iterator. It reads blocks of neighboring rows; their
order is new in each epoch and follows from a seed alone; rows left over at the end of a
block begin the next batch. The rows themselves must be stored in random order.
"""

import mmap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from logistic_model import DIM, blocks

BLOCK = 2**17  # rows of a block: 1 for each row group of a Parquet file
NAMES = [*(f"x{i}" for i in range(DIM)), "y"]
SCHEMA = pa.schema([pa.field(name, pa.float32(), nullable=False) for name in NAMES])

Pair = tuple[np.ndarray, np.ndarray]
Loader = Callable[[int], Iterator[Pair]]


def write_maps(folder: Path, num_rows: int) -> tuple[Path, Path]:
    """Write features and labels as two files that can be mapped."""
    paths = folder / "x.npy", folder / "y.npy"
    x = open_memmap(paths[0], "w+", "float32", (num_rows, DIM))
    y = open_memmap(paths[1], "w+", "float32", (num_rows,))
    start = 0
    for some_x, some_y in blocks(num_rows):
        stop = start + len(some_y)
        x[start:stop], y[start:stop] = some_x, some_y
        start = stop
    x.flush()
    y.flush()
    return paths


def write_parquet(folder: Path, num_rows: int) -> Path:
    """Write the same table as a Parquet file, a column for each feature.

    Written to be read fast: random digits can't be compressed, few values come twice,
    and none are missing. Parquet's defaults provide for all of that.
    """
    path = folder / "rows.parquet"
    plain = {"compression": "none", "use_dictionary": False}
    with pq.ParquetWriter(path, SCHEMA, **plain) as writer:
        held = []
        for some in blocks(num_rows):
            held.append(some)
            if sum(len(y) for _, y in held) >= BLOCK:
                writer.write_table(_columns(held), row_group_size=BLOCK)
                held = []
        if held:
            writer.write_table(_columns(held), row_group_size=BLOCK)
    return path


def _columns(pairs: Sequence[Pair]) -> pa.Table:
    x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return pa.table([pa.array(column) for column in (*x.T, y)], schema=SCHEMA)


def _stream(
    read: Callable[[int], Pair],
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    first: int,
) -> Iterator[Pair]:
    """Yield batches; the first of them would be number `first` of a new stream."""
    epoch, skip = divmod(first * batch_size, sum(lengths))
    held, missing = [], batch_size
    while True:
        for block in np.random.default_rng([seed, epoch]).permutation(len(lengths)):
            if skip >= lengths[block]:
                skip -= lengths[block]
                continue
            x, y = read(int(block))
            start, skip = skip, 0
            while start < len(y):
                stop = min(start + missing, len(y))
                held.append((x[start:stop], y[start:stop]))
                missing -= stop - start
                start = stop
                if not missing:
                    joined = zip(*held, strict=True)
                    yield (
                        held[0]
                        if len(held) == 1
                        else tuple(np.concatenate(parts) for parts in joined)
                    )
                    held, missing = [], batch_size
        epoch += 1


def map_loader(paths: Sequence[Path], batch_size: int, seed: int = 0) -> Loader:
    """Stream two mapped files: batches are slices, nothing is copied here.

    What has been read stays in the page cache of the system, which gives it up when
    memory is wanted, but it counts as memory of this process as long as it is mapped.
    So the pages are let go block by block.
    """
    x, y = (np.load(path, mmap_mode="r") for path in paths)
    starts = range(0, len(y), BLOCK)

    def read(block):
        for array in (x, y):
            array._mmap.madvise(mmap.MADV_DONTNEED)
        rows = slice(starts[block], starts[block] + BLOCK)
        # As plain arrays: to slice a memmap takes longer than to slice an array.
        return np.asarray(x)[rows], np.asarray(y)[rows]

    lengths = [min(BLOCK, len(y) - start) for start in starts]
    return partial(_stream, read, lengths, batch_size, seed)


def parquet_loader(path: Path, batch_size: int, seed: int = 0) -> Loader:
    """Stream a Parquet file, a row group at a time.

    One thread reads: the other cores are busy with the fit.
    """
    file = pq.ParquetFile(path)
    groups = range(file.metadata.num_row_groups)
    lengths = [file.metadata.row_group(group).num_rows for group in groups]

    def read(block):
        table = file.read_row_group(block, columns=NAMES, use_threads=False)
        x = np.empty((len(table), DIM), "float32")
        for i, name in enumerate(NAMES[:-1]):
            x[:, i] = table[name].to_numpy()
        return x, table["y"].to_numpy()

    return partial(_stream, read, lengths, batch_size, seed)
