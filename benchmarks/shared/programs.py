"""Compiled programs that one benchmark keeps for itself while it runs."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def programs_kept() -> Iterator[None]:
    """Let JAX compile the same program once, in a folder that is gone afterwards."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]

    def use(values: Sequence) -> None:
        for name, value in zip(names, values, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX looks at the folder only once

    with tempfile.TemporaryDirectory() as folder:
        use([folder, 0.0])
        try:
            yield
        finally:
            use(before)
