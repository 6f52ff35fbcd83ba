"""The section of the page of results that shows what was measured on which device."""

from typing import Any

from report_text import NONE, origin, scaled, seconds, section, several, table

Facts = dict[str, Any]
DEVICES = {"cpu": "CPU", "gpu": "GPU"}


def accelerators(found: dict[str, Facts]) -> str:
    """Tell of the same code on several devices.

    Parameters
    ----------
    found : dict
        Facts by JAX's name of the backend, such as ``cpu``.

    Returns
    -------
    str
        Markdown; what was measured on each device stands side by side.
    """
    found = {DEVICES.get(name, name.upper()): facts for name, facts in found.items()}
    some = next(iter(found.values()))
    rows, batch = some["particles"][0]["rows"], some["batch_size"]
    missing = [f"a {name}" for name in DEVICES.values() if name not in found]
    kinds = (
        ("logistic", "rows", "bytes", "Logistic regression, all rows at each step."),
        ("network", "width", "flops", f"Network, {batch:,} rows at each step."),
        ("particles", "particles", "flops", f"Particles, on {rows:,} rows."),
    )
    return section(
        "CPU and GPU",
        "accelerators",
        "The same fits on whatever JAX computes on: a logistic regression with ever "
        "more rows, a Bayesian network with two hidden layers of ever more units, and "
        "ever more particles. "
        + (f"**Nothing was measured on {several(missing)}.**" if missing else ""),
        table(
            [_best(name, facts) for name, facts in found.items()],
            "accelerators",
            "What the devices do at best, as measured in the same run.",
        ),
        "No step is faster than one that does next to nothing, than its bytes pass "
        "through memory, or than its operations are done at the speed of a large "
        "product of matrices. The longest of the three is the estimate; the word "
        "beside it says which one it is. Exponentials, logarithms and random numbers "
        "count for nothing in it.",
        *(
            table(_side_by_side(found, kind, size, unit), label, caption)
            for kind, size, unit, caption in kinds
            for label in [f"accelerators-{kind}"]
        ),
        " ".join(_left_out(name, facts) for name, facts in found.items()),
        *map(origin, found.values()),
    )


def _best(name: str, facts: Facts) -> dict[str, str]:
    limits = facts["limits"]
    return {
        "device": name,
        "memory": scaled(facts["memory_bytes"], "B"),
        "a step, at least": seconds(limits["floor_seconds"]),
        "copy": scaled(limits["copied_bytes_per_second"], "B/s"),
        "sum": scaled(limits["summed_bytes_per_second"], "B/s"),
        "product of matrices": scaled(limits["flops_per_second"], "FLOP/s"),
    }


def _side_by_side(
    found: dict[str, Facts], kind: str, size: str, unit: str
) -> list[dict[str, str]]:
    """Return a row for each size, with columns for each device."""
    by_size: dict[int, dict[str, str]] = {}
    for name, facts in found.items():
        for each in facts[kind]:
            by_size.setdefault(each[size], {size: f"{each[size]:,}"}).update(
                _measured(name, each, unit)
            )
    blank = {key: NONE for row in by_size.values() for key in row}
    return [blank | row for _, row in sorted(by_size.items())]


def _measured(name: str, each: Facts, unit: str) -> dict[str, str]:
    estimated = f"{seconds(each['estimated_seconds'])}, {each['estimate_waits_for']}"
    rate = scaled(each[f"{unit}_per_second"], "B/s" if unit == "bytes" else "FLOP/s")
    return {
        f"{name}, measured": seconds(each["step_seconds"]),
        f"{name}, estimated": estimated,
        f"{name}, speed": rate,
    }


def _left_out(name: str, facts: Facts) -> str:
    """Say which sizes were left out on a device."""
    sizes = [
        f"{size} {each[size]:,}"
        for kind, size in (
            ("logistic", "rows"),
            ("network", "width"),
            ("particles", "particles"),
        )
        for each in facts[kind]
        if each["step_seconds"] is None
    ]
    if not sizes:
        return ""
    longest = facts["longest_step_seconds"]
    return f"Left out on the {name}, at over {longest} s a step: {several(sizes)}."
