"""Versions and device that a notebook runs on.

Only `device` imports JAX, so the rest works where JAX is missing.
"""

import os
import platform
from importlib import metadata

SHOWN = ("jax", "numpyro", "flax", "optax", "arviz")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package in `SHOWN`."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in SHOWN},
    }


def device() -> str:
    """Describe the device that JAX computes on, for example ``"CPU (2 cores)"``."""
    import jax

    devices = jax.devices()
    count = f", {len(devices)} devices" if len(devices) > 1 else ""
    if devices[0].platform == "cpu":
        return f"CPU ({cores()} cores{count})"
    return devices[0].device_kind + count


def print_versions() -> None:
    """Print the versions in one line and the device in a second."""
    print(" · ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"device: {device()}")


def cores() -> int:
    """Count the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
