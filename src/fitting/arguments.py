"""Arguments of helpers and of models: checks that name them, arrays and constants."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.infer import SVI

NEVER = np.iinfo("int32").max


def shown(value: Any) -> str:
    """Describe a value in one short phrase."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_array(value: Any) -> bool:
    """Return whether a value is an array of JAX or NumPy."""
    return isinstance(value, jax.Array | np.ndarray)


def shape_of(value: Any) -> jax.ShapeDtypeStruct:
    """Return shape and type of a value, known or traced."""
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))


def has_numbers(array: Any) -> bool:
    """Return whether an array can go to a device: no text, no dates, no objects."""
    return array.dtype.kind not in "OSUMm"


def refuse_mask(name: str, array: Any) -> None:
    """Refuse a masked array of NumPy, whose mask JAX would lose."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, got a masked array of NumPy; "
            "give its .filled(0) and its mask as two arrays, and use the mask in the "
            "model by numpyro.handlers.mask"
        )


def is_key(value: Any) -> bool:
    """Return whether a value is an array of typed JAX keys, or one such key."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def keys(name: str, value: Any) -> int | None:
    """Count the keys in `value`: None for a single one; refuse what is no key.

    Keys are made by `jax.random.key`; those of `jax.random.PRNGKey` are taken as well.
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name}: expected a key, got a traced value. This function cannot run "
            "inside jax.jit, jax.vmap or jax.grad; fit takes an array of keys instead, "
            "jax.random.split(key, 8), for eight runs at once"
        )
    typed = is_key(value)
    legacy = is_array(value) and value.dtype == np.uint32 and value.shape[-1:] == (2,)
    if not (typed or legacy):
        raise TypeError(
            f"{name}: expected a key made by jax.random.key(seed), got {shown(value)}"
        )
    runs = value.shape if typed else value.shape[:-1]
    if typed and runs and "rbg" in str(jax.random.key_impl(value)):
        warnings.warn(
            f"{name}: several runs by keys of {jax.random.key_impl(value)} are not "
            "those that each key makes alone, since JAX maps these keys in another "
            "way; keys of jax.random.key(seed) give the same runs",
            stacklevel=4,
        )
    if len(runs) > 1 or runs == (0,):
        raise ValueError(f"{name}: expected one key or a row of keys, got shape {runs}")
    return runs[0] if runs else None


def key(name: str, value: Any) -> jax.Array:
    """Return `value` if it is one key."""
    count = keys(name, value)
    if count is not None:
        raise ValueError(f"{name}: expected one key, got {count} keys")
    return value


def positive_int(name: str, value: Any, *, most: int | None = None) -> int:
    """Return `value` if it is a whole number of at least one, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected a whole number, got {shown(value)}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{name}: expected at most {most:,}, got {value:,}")
    return int(value)


def positive(name: str, value: Any, *, or_zero: bool = False) -> float:
    """Return `value` if it is a finite number above zero, or zero where allowed."""
    if isinstance(value, bool | str | bytes) or np.ndim(value) != 0:
        raise TypeError(f"{name}: expected one number, got {shown(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected one number, got {shown(value)}") from None
    if not (np.isfinite(number) and (number > 0 or (or_zero and number == 0))):
        least = "of at least" if or_zero else "above"
        raise ValueError(f"{name}: expected a finite number {least} 0, got {number}")
    return number


def share(name: str, value: Any) -> float:
    """Return `value` if it is a number from 0 to 1."""
    number = positive(name, value, or_zero=True)
    if number > 1:
        raise ValueError(f"{name}: expected a share, at most 1, got {number}")
    return number


def generator(name: str, value: Any) -> np.random.Generator:
    """Return `value` if it is a random generator of NumPy."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(
            f"{name}: expected np.random.default_rng(seed), got {shown(value)}"
        )
    return value


def finite_array(name: str, value: Any, *, ndim: int | None = None) -> np.ndarray:
    """Return `value` as a NumPy array if it is not empty and has no NaN or infinity."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "fiub" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected an array of numbers, got {shown(value)}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name}: expected {ndim} dimension(s), got {array.ndim} "
            f"(shape {array.shape})"
        )
    if array.size == 0:
        raise ValueError(f"{name}: expected data, got none (shape {array.shape})")
    if problem := not_finite(array):
        raise ValueError(f"{name}: expected finite numbers, got {problem}")
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name}: expected numbers without a mask, got {np.ma.count_masked(value)} "
            f"masked of {array.size}; leave them out, or give the mask as an array"
        )
    return array


def not_finite(array: np.ndarray, where: Any = True) -> str:
    """Count NaN and infinite numbers, and name the place of the first one."""
    bad = ~np.isfinite(array) & where
    if not bad.any():
        return ""
    first = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    place = f", the first at index {first}" if first else ""
    return f"{bad.sum()} NaN or infinite of {bad.size}{place}"


def one_of(name: str, value: Any, options: tuple[str, ...]) -> str:
    """Return `value` if it is one of `options`."""
    if value not in options:
        raise ValueError(
            f"{name}: expected one of {', '.join(map(repr, options))}, "
            f"got {shown(value)}"
        )
    return value


def parameters_of(model: Callable) -> dict[str, inspect.Parameter]:
    """Return a model's parameters by name, none where they cannot be found."""
    try:
        return dict(inspect.signature(model).parameters)
    except (TypeError, ValueError):
        return {}


def refuse_call(model: Callable, args: tuple, kwargs: dict, options: tuple) -> None:
    """Refuse keywords that neither a helper nor a model knows, and missing arguments.

    Parameters
    ----------
    model : callable
        NumPyro model; one inside of handlers takes what it is given.
    args, kwargs
        What it is called with.
    options : tuple of str
        The keywords of the helper.
    """
    try:
        signature = inspect.signature(model, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    known = signature.parameters
    takes_all = any(at.kind is at.VAR_KEYWORD for at in known.values())
    unknown = [name for name in kwargs if name not in known]
    if unknown and not takes_all:
        raise TypeError(
            f"{unknown[0]}: expected an option ({', '.join(options)}) or an argument "
            f"of the model ({', '.join(known) or 'it has none'}), got neither; is it "
            "misspelt?"
        )
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"model: expected what it is called with after params, got a call with "
            f"{error}. Give the same arguments as in the fit"
        ) from None


def named_leaves(
    model: Callable, args: tuple, kwargs: dict
) -> Iterator[tuple[str, Any]]:
    """Yield each leaf of a model's arguments with its name: ``y`` or ``d['x']``.

    The order is that of `jax.tree.leaves`.
    """
    known = list(parameters_of(model))
    for path, leaf in jax.tree_util.tree_leaves_with_path((args, kwargs)):
        if path[0].idx == 1:
            name = path[1].key
        else:
            at = path[1].idx
            name = known[at] if at < len(known) else f"argument {at}"
        yield f"{name}{jax.tree_util.keystr(path[2:])}", leaf


def column_in(model: Callable, args: tuple, kwargs: dict) -> str:
    """Name the first argument that is a data frame or a column of one."""
    for name, leaf in named_leaves(model, args, kwargs):
        if hasattr(leaf, "to_numpy"):
            kind = type(leaf).__name__
            return f"{name}: expected an array, got {kind}; .to_numpy() makes one"
    return ""


def faults(model: Callable, args: tuple, kwargs: dict) -> list[str]:
    """List the arguments of a model that hold NaN or infinite numbers."""
    found = []
    for name, leaf in named_leaves(model, args, kwargs):
        is_numbers = is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        if is_numbers and getattr(leaf, "is_fully_addressable", True):
            with np.errstate(over="ignore"):
                problem = not_finite(np.asarray(jnp.asarray(leaf)))
            if problem and not not_finite(np.asarray(leaf)):
                problem += " once in 32 bits (divide it by a power of ten)"
            if problem:
                found.append(f"{name} has {problem}")
    return found


class AllRows:
    """Every step gets the arguments as they are."""

    num_rows = batch_rows = problem = None
    most = 4_096  # steps between two looks of the host

    def __init__(self, args: tuple, kwargs: dict):
        self.first, self.moving, self.example = (args, kwargs), {}, None

    def put(self, moving: dict) -> tuple:
        """Return the arguments."""
        return self.first

    def take(self, done: int, steps: int) -> tuple[int, None]:
        """Return the number of steps: there are always data."""
        return steps, None

    def pick(self, data: None, i: jax.Array) -> dict:
        """Return nothing: no array changes."""
        return {}


class Options(NamedTuple):
    """The arguments of a fit that its parts share, checked."""

    many: bool
    num_steps: int
    batch_size: int | None
    batches: Any
    num_rows: int | None
    every: int
    patience: int
    checkpoint: Any
    checkpoint_every: int  # NEVER without a checkpoint
    stable_update: bool
    forward_mode_differentiation: bool
    facts: tuple

    def going(self, run: Any) -> Any:
        """Return whether a run, or each of several, goes on."""
        return ~run.failed & (run.waited < self.patience)

    def steps_from(self, done: int, pace: int) -> int:
        """Return how many steps to take: a checkpoint ends a chunk."""
        left = self.checkpoint_every - done % self.checkpoint_every
        return min(pace, self.num_steps - done, left)

    def due(self, done: int) -> bool:
        """Return whether there should be a checkpoint after so many steps."""
        return done % self.checkpoint_every == 0

    def reasons(self, run: Any, otherwise: str) -> list[str]:
        """Return why each run ended."""
        found = []
        each = map(np.atleast_1d, (run.steps, run.waited, run.failed))
        for steps, waited, failed in zip(*each, strict=True):
            reason = "all steps done" if steps == self.num_steps else otherwise
            if waited >= self.patience:
                reason = f"no improvement in {self.patience} evaluations"
            found.append("not finite" if failed else reason)
        return found


def options(
    rng_key: Any, svi: Any, model_args: tuple, model_kwargs: dict, **given: Any
) -> Options:
    """Check the arguments of a fit against each other; errors name the argument."""
    count = keys("rng_key", rng_key)
    if not isinstance(svi, SVI):
        raise TypeError(f"svi: expected numpyro.infer.SVI, got {type(svi).__name__}")
    if isinstance(svi.loss, type):
        name = svi.loss.__name__
        raise TypeError(f"svi: expected a loss such as {name}(), got the class {name}")
    optional = ["batch_size", "num_rows", "patience", "checkpoint_every"]
    for name in ("num_steps", "evaluate_every", *optional):
        if given[name] is not None or name not in optional:
            positive_int(name, given[name], most=NEVER)
    for name in ("progress_bar", "unchecked", "stable_update"):
        if not isinstance(given[name], bool | np.bool_):
            raise TypeError(f"{name}: expected True or False, got {shown(given[name])}")
    for name in sorted(parameters_of(svi.model)):
        if name in (*optional, "batches", "evaluate") and given[name] is not None:
            raise TypeError(
                f"{name}: both an option of fit and an argument of the model; bind the "
                f"model's own, functools.partial(model, {name}=...), in model and guide"
            )
    for name, needs in (
        ("patience", "evaluate"),
        ("checkpoint_every", "checkpoint"),
        ("num_rows", "batches"),
    ):
        if given[name] is not None and given[needs] is None:
            raise ValueError(
                f"{name}: expected None without {needs}, got {given[name]}"
            )
    evaluate, every = given["evaluate"], given["evaluate_every"]
    if evaluate is not None and not callable(evaluate):
        what = type(evaluate).__name__
        raise TypeError(
            f"evaluate: expected a function of parameters and a key, got {what}"
        )
    if given["batches"] is not None:
        _check_batches(
            given["batches"], given["batch_size"], given["num_rows"], model_args, count
        )
    often = given["checkpoint_every"] or -(-given["num_steps"] // 20)
    return Options(
        many=count is not None,
        num_steps=int(given["num_steps"]),
        batch_size=given["batch_size"],
        batches=given["batches"],
        num_rows=given["num_rows"],
        every=int(every),
        patience=NEVER if given["patience"] is None else int(given["patience"]),
        checkpoint=given["checkpoint"],
        checkpoint_every=NEVER if given["checkpoint"] is None else often,
        stable_update=given["stable_update"],
        forward_mode_differentiation=given["forward_mode_differentiation"],
        facts=(given["batch_size"], given["num_rows"], evaluate is not None and every),
    )


def _check_batches(
    batches: Any, batch_size: Any, num_rows: Any, args: tuple, count: int | None
) -> None:
    """Refuse options that contradict a stream of batches."""
    if batch_size is not None:
        raise ValueError(f"batch_size: expected None beside batches, got {batch_size}")
    if num_rows is None:
        raise ValueError("num_rows: expected the number of all rows, got None")
    if args:
        raise ValueError(
            f"batches: expected no positional arguments beside them, got {len(args)}"
        )
    if count is not None:
        raise ValueError(
            "rng_key: expected one key beside batches, since several runs would have "
            f"to share them, got {count} keys"
        )
    is_rows = is_array(batches) or (
        isinstance(batches, tuple) and all(map(is_array, batches))
    )
    if is_rows or not (callable(batches) or isinstance(batches, Iterable)):
        raise TypeError(
            "batches: expected an iterable of batches, or a function of the first step "
            f"that returns one, got {shown(batches)}. Arrays in memory are arguments "
            "of the model: fit(..., x, y, batch_size=...)"
        )


def _changed_by_cast(array: np.ndarray) -> np.ndarray:
    """Return what 32 bits make of those numbers of an array that they cannot hold."""
    target = jax.dtypes.canonicalize_dtype(array.dtype)
    if target == array.dtype or array.dtype.kind not in "iuf":
        return np.empty(0)
    limits = (np.finfo if array.dtype.kind == "f" else np.iinfo)(target)
    beyond = np.isfinite(array) & ((array < limits.min) | (array > limits.max))
    with np.errstate(over="ignore"):
        return array[beyond].astype(target)


def refuse_cast(named: Iterator[tuple[str, Any]], used: list | None = None) -> None:
    """Refuse numbers that JAX would change in silence: those beyond 32 bits.

    With `used`, arrays of a computation, numbers that do not occur there pass: such as
    identifiers that a model only counts.
    """
    for name, leaf in named:
        if not isinstance(leaf, np.ndarray):
            continue
        if leaf.dtype.kind == "f" and leaf.dtype.itemsize > 8:
            raise TypeError(
                f"{name}: expected numbers of at most 64 bits, got {leaf.dtype}; "
                f"{name}.astype('float64') mends it"
            )
        if not leaf.dtype.isnative:
            raise TypeError(
                f"{name}: expected numbers in this machine's byte order, got dtype "
                f"{leaf.dtype}; {name}.astype({leaf.dtype.newbyteorder('=').str!r}) "
                "mends it"
            )
        wrong = _changed_by_cast(leaf)
        if wrong.size and used is not None:
            of_kind = [np.asarray(c) for c in used if c.dtype == wrong.dtype]
            wrong = (
                wrong if any(np.isin(wrong, c).any() for c in of_kind) else wrong[:0]
            )
        if wrong.size:
            cure = (
                "divide it by a power of ten"
                if leaf.dtype.kind == "f"
                else ("of identifiers, use np.unique(..., return_inverse=True)[1]")
            )
            raise ValueError(
                f"{name}: expected numbers that fit in 32 bits, got {leaf.min()} to "
                f"{leaf.max()}, of which {wrong.size} would change; {cure}, or call "
                "jax.config.update('jax_enable_x64', True) first"
            )


def settled(tree: Any, arguments: Any) -> Any:
    """Return arrays with types and places that compiled code returns as they are.

    Without it, code is compiled again for what it returned: for a type that gives way
    to others (of a Python number), and for arrays on one device beside `arguments` on
    several.
    """

    def strong(leaf):
        weak = getattr(leaf, "weak_type", False) or not hasattr(leaf, "dtype")
        return lax.convert_element_type(leaf, jnp.result_type(leaf)) if weak else leaf

    tree = jax.tree.map(strong, tree)
    arrays = [x for x in jax.tree.leaves(arguments) if isinstance(x, jax.Array)]
    meshes = {x.sharding.mesh for x in arrays if isinstance(x.sharding, NamedSharding)}
    if len(meshes) != 1 or jax.process_count() > 1:
        return tree
    everywhere = NamedSharding(*meshes, PartitionSpec())

    def placed(leaf):
        spread = isinstance(leaf, jax.Array) and leaf.sharding.num_devices > 1
        return leaf if spread else jax.device_put(leaf, everywhere)

    return jax.tree.map(placed, tree)


def hoisted(
    function: Callable,
    *example: Any,
    given: Iterator[tuple[str, Any]] = (),
    level: int | None = None,
) -> Callable:
    """Compile a function; arrays that it closes over travel as arguments.

    `jax.jit` alone would write such arrays into the program, where millions of rows
    take long and much memory. Nothing is kept when the result goes out of scope.

    Parameters
    ----------
    function : callable
        Function of arrays and trees of arrays.
    *example
        Arguments to trace it with; later ones have the same shapes and types.
    given : iterator of (str, value)
        Named arrays that the user gave: refused where JAX would change their numbers.
    level : int, optional
        How thorough the compiler is: 0 where the result runs once or twice. With 1,
        random numbers compile in half of the time, and most code runs as fast.

    Returns
    -------
    callable
        The compiled function, with the traced program as its attribute `program`.
    """
    with np.errstate(over="ignore"):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
    refuse_cast(given, closed.consts)
    tree = jax.tree.structure(shape)
    # Arrays of JAX stay where they are: they may be spread over devices or processes.
    constants = [
        c if isinstance(c, jax.Array) else jax.device_put(c) for c in closed.consts
    ]

    options = None if level is None else {"xla_backend_optimization_level": level}

    @partial(jax.jit, compiler_options=options)
    def compiled(constants, leaves):
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(*leaves)

    def call(*arguments):
        return jax.tree.unflatten(tree, compiled(constants, jax.tree.leaves(arguments)))

    call.program = closed
    return call
