"""Checks of arguments that every helper shares; each error names the argument."""

import mmap
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _shown(value: Any) -> str:
    """Describe a value in one short phrase."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def key(name: str, value: Any) -> jax.Array:
    """Return `value` if it is one typed JAX key, as `jax.random.key` makes it."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name}: expected a key made by jax.random.key(seed), got {_shown(value)}"
        )
    if value.shape != ():
        raise ValueError(f"{name}: expected one key, got {value.shape} keys")
    return value


def positive_int(name: str, value: Any, *, most: int | None = None) -> int:
    """Return `value` if it is a whole number of at least one, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected a whole number, got {_shown(value)}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{name}: expected at most {most:,}, got {value:,}")
    return int(value)


def positive(name: str, value: Any, *, or_zero: bool = False) -> float:
    """Return `value` if it is a finite number above zero, or zero where allowed."""
    if isinstance(value, bool | str | bytes) or np.ndim(value) != 0:
        raise TypeError(f"{name}: expected one number, got {_shown(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected one number, got {_shown(value)}") from None
    if not (np.isfinite(number) and (number > 0 or (or_zero and number == 0))):
        least = "of at least" if or_zero else "above"
        raise ValueError(f"{name}: expected a finite number {least} 0, got {number}")
    return number


def finite_array(name: str, value: Any, *, ndim: int | None = None) -> np.ndarray:
    """Return `value` as a NumPy array if it is not empty and has no NaN or infinity."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: expected an array of numbers, got {_shown(value)}"
        ) from None
    if array.dtype.kind not in "fiub" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected an array of numbers, got {_shown(value)}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name}: expected {ndim} dimension(s), got {array.ndim} "
            f"(shape {array.shape})"
        )
    if array.size == 0:
        raise ValueError(f"{name}: expected data, got none (shape {array.shape})")
    too_wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8
    if too_wide and not jax.config.jax_enable_x64:
        low, high = array.min(), array.max()
        if low < -(2**31) or high >= 2**32:
            raise ValueError(
                f"{name}: expected whole numbers that fit in 32 bits, "
                f"got {low} to {high}"
            )
    bad, first = not_finite(array)
    if bad:
        raise ValueError(
            f"{name}: expected finite numbers, got {bad} NaN or infinite "
            f"of {array.size}" + (f", the first at index {first}" if array.ndim else "")
        )
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name}: expected numbers without a mask, got {np.ma.count_masked(value)} "
            f"masked of {array.size}; leave them out, or give the mask as an array"
        )
    return array


def not_finite(array: np.ndarray) -> tuple[int, tuple[int, ...] | None]:
    """Count NaN and infinite numbers, and return the place of the first one.

    It goes piece by piece, so that a large array needs little memory more.
    """
    count, first = 0, None
    rows = np.atleast_1d(array)
    length = max(1, 2**22 // rows[0].size)
    for start in range(0, 0 if array.dtype.kind in "iub" else len(rows), length):
        bad = ~np.isfinite(rows[start : start + length])
        if bad.any():
            count += int(bad.sum())
            if first is None:
                place = np.unravel_index(bad.argmax(), bad.shape)
                first = start + int(place[0]), *map(int, place[1:])
        _let_go(array.base)
    return count, first


def _let_go(file: Any) -> None:
    """Give back the memory of what has been read of a mapped file.

    The system has the pages in its cache, but as long as they are mapped it counts them
    as memory of this process. Pages that can be changed might be lost, and stay.
    """
    is_read_only = isinstance(file, np.memmap) and file.mode == "r"
    if is_read_only and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        file._mmap.madvise(mmap.MADV_DONTNEED)


def one_of(name: str, value: Any, options: tuple[str, ...]) -> str:
    """Return `value` if it is one of `options`."""
    if value not in options:
        raise ValueError(
            f"{name}: expected one of {', '.join(map(repr, options))}, "
            f"got {_shown(value)}"
        )
    return value


def is_array(value: Any) -> bool:
    """Tell arrays, of JAX or NumPy, from all else."""
    return isinstance(value, jax.Array | np.ndarray)


def _is_numbers(value: Any) -> bool:
    """Tell lists of numbers, also nested ones, which JAX would take apart."""
    leaves = jax.tree.leaves(value) if isinstance(value, list) else []
    return bool(leaves) and all(isinstance(leaf, Number) for leaf in leaves)


def model_arguments(args: tuple, kwargs: dict) -> None:
    """Refuse empty arrays, NaN, lists and unhashable things as arguments of a model."""
    named = {f"model argument {i}": arg for i, arg in enumerate(args)} | kwargs
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value, _is_numbers):
            at = f"{name}{jax.tree_util.keystr(path)}"
            if is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
                continue  # keys
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                if not jnp.isfinite(leaf).all():  # parts of it lie in other processes
                    raise ValueError(f"{at}: expected finite numbers, got others")
            elif is_array(leaf) or isinstance(leaf, float):
                finite_array(at, leaf)
            elif type(leaf).__hash__ is None:
                cure = "; np.asarray(...) makes an array" if _is_numbers(leaf) else ""
                if hasattr(leaf, "to_numpy"):  # of a data frame
                    cure = "; .to_numpy() makes an array"
                raise TypeError(
                    f"{at}: expected an array, a number or another constant, "
                    f"got {type(leaf).__name__}{cure}"
                )
