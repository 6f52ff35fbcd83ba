"""Arguments of models as compiled code wants them: arrays apart from constants."""

from typing import Any

import jax

from helpers import _validate


def take_apart(tree: Any) -> tuple[list[jax.Array], tuple]:
    """Part the arrays in arguments, to be traced, from all else, a constant."""
    leaves, treedef = jax.tree.flatten(tree)
    # With their types, since 1 == 1.0 == True and compiled code is looked up by value.
    constants = tuple(
        None if _validate.is_array(leaf) else (type(leaf), leaf) for leaf in leaves
    )
    return [leaf for leaf in leaves if _validate.is_array(leaf)], (treedef, constants)


def put_together(arrays: list[jax.Array], rest: tuple) -> Any:
    """Undo `take_apart`."""
    (treedef, constants), filled = rest, iter(arrays)
    leaves = [next(filled) if leaf is None else leaf[1] for leaf in constants]
    return jax.tree.unflatten(treedef, leaves)
