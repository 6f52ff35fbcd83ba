"""Tables on disk that are longer than memory, and loaders that stream them.

A loader is what `fit` takes as `batches`: a function of the number of batches already
used, which returns an endless iterator. It reads blocks of neighboring rows; their
order is new in each epoch and follows from a seed alone; rows left over at the end of a
block begin the next batch. The rows themselves must be stored in random order.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from benchmarks.shared.logistic_model import DIM, blocks

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


def _order(lengths: Sequence[int], seed: int, start: int) -> Iterator[tuple[int, int]]:
    """Yield numbers of blocks without end, and how many rows of each to pass over."""
    epoch, skip = divmod(start, sum(lengths))
    while True:
        for block in np.random.default_rng([seed, epoch]).permutation(len(lengths)):
            if skip < lengths[block]:
                yield int(block), skip
            skip = max(skip - lengths[block], 0)
        epoch += 1


def _one_ahead(read: Callable[[int], Pair], order: Iterator) -> Iterator[Pair]:
    """Read the next block in a thread while the caller uses the last one."""
    with ThreadPoolExecutor(1) as pool:
        block, skip = next(order)
        coming = pool.submit(read, block)
        for next_block, next_skip in order:
            pair = coming.result()
            coming = pool.submit(read, next_block)
            yield tuple(rows[skip:] for rows in pair)
            skip = next_skip


def _batches(blocks: Iterable[Pair], size: int) -> Iterator[Pair]:
    """Cut blocks into batches; what is left of one begins a batch with the next."""
    held, missing = [], size
    for x, y in blocks:
        for start in range(missing - size, len(y), size):
            rows = slice(max(start, 0), start + size)
            held.append((x[rows], y[rows]))
            missing -= len(held[-1][1])
            if not missing:
                joined = zip(*held, strict=True)
                yield held[0] if len(held) == 1 else tuple(map(np.concatenate, joined))
                held, missing = [], size


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

    def batches(first):
        order = _order(lengths, seed, first * batch_size)
        blocks = (tuple(a[skip:] for a in read(block)) for block, skip in order)
        return _batches(blocks, batch_size)

    return batches


def parquet_loader(path: Path, batch_size: int, seed: int = 0) -> Loader:
    """Stream a Parquet file, a row group at a time.

    Decoding takes as long as using the rows, so a thread decodes one group ahead. The
    file is mapped, and its pages are let go as in `map_loader`.
    """
    with path.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(mapped)))
    groups = range(file.metadata.num_row_groups)
    lengths = [file.metadata.row_group(group).num_rows for group in groups]

    def read(block):
        mapped.madvise(mmap.MADV_DONTNEED)
        table = file.read_row_group(block, columns=NAMES, use_threads=False)
        x = np.empty((len(table), DIM), "float32")
        for i, name in enumerate(NAMES[:-1]):
            x[:, i] = table[name].to_numpy()
        return x, table["y"].to_numpy()

    def batches(first):
        order = _order(lengths, seed, first * batch_size)
        return _batches(_one_ahead(read, order), batch_size)

    return batches
