"""What the course set out to reach, and whether it did.

A script compares each figure with its target and stores the comparison, a *case*:
`target` and `holds` make one. A `Goal` of the course gathers the cases of one kind; it
is reached if it is reached in all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Case = dict[str, Any]  # what `target` returns
Facts = dict[str, Any]  # what a JSON file holds
SIGNS = {"<=": "≤", ">=": "≥"}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def target(
    measured: float, *, at_most: float | None = None, at_least: float | None = None
) -> Case:
    """Compare a figure with its target, one of the two."""
    limit, sign = (at_most, "<=") if at_least is None else (at_least, ">=")
    met = measured <= limit if at_least is None else measured >= limit
    return {"measured": measured, "target": f"{sign} {limit:g}", "met": bool(met)}


def holds(found: bool) -> Case:
    """Record a yes/no result; the target is yes."""
    return {"measured": bool(found), "target": "yes", "met": bool(found)}


def say(targets: dict[str, Case]) -> None:
    """Print a line for each case."""
    print()
    for name, each in targets.items():
        met = "met" if each["met"] else "MISSED"
        print(f"{met:<7}{each['measured']!s:>10}  ({each['target']})  {name}")


def shown(value: float) -> str:
    """Show a number with three digits, a very small one as a power of ten."""
    if value and abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        raised = str(int(power)).translate(RAISED)
        return f"10{raised}" if digits == "1.0" else f"{digits} × 10{raised}"
    whole = value == round(value)
    return f"{value:g}" if whole else f"{value:#.3g}".rstrip(".")


@dataclass(frozen=True)
class Goal:
    """Something to reach, and the cases in which it was measured.

    Attributes
    ----------
    what : str
        What was measured, as the table says it.
    cases : dict
        Name of each case, and what `target` or `holds` returned for it.
    """

    what: str
    cases: dict[str, Case]

    @property
    def limit(self) -> str:
        """The target itself, as a reader would write it."""
        limits = {case["target"] for case in self.cases.values()}
        if len(limits) != 1:
            raise ValueError(f"{self.what}: expected one target, got {sorted(limits)}")
        sign, _, value = limits.pop().partition(" ")
        if not value:
            return sign
        return f"{SIGNS[sign]} {shown(float(value)) if float(value) < 1e-3 else value}"

    @property
    def missed(self) -> dict[str, Case]:
        """The cases in which it was not reached."""
        return {name: case for name, case in self.cases.items() if not case["met"]}

    @property
    def measured(self) -> str:
        """The figure, or the smallest and the largest of several."""
        found = [case["measured"] for case in self.cases.values()]
        if all(isinstance(value, bool) for value in found):
            if len(set(found)) == 1:
                return "yes" if found[0] else "no"
            return f"in {sum(found)} of {len(found)} cases"
        return " to ".join(dict.fromkeys([shown(min(found)), shown(max(found))]))

    @property
    def result(self) -> str:
        """Whether it was reached, in plain words."""
        if not self.missed:
            return "reached"
        some = len(self.missed) < len(self.cases)
        return "**reached in part**" if some else "**not reached**"

    def row(self) -> str:
        """Return its row of the table of goals."""
        cells = self.what, self.limit, self.measured, self.result
        return f"| {' | '.join(cells)} |"


def goals_table(course: Sequence[Goal]) -> str:
    """Return a table of goals as Markdown; its second line sets the widths."""
    head = "| what | to reach | measured | result |"
    rule = f"| :{50 * '-'} | :{9 * '-'} | :{25 * '-'} | :{16 * '-'} |"
    return "\n".join([head, rule, *(goal.row() for goal in course)])


def _stored(
    facts: Facts, has: str, name: Callable[[str], str] = lambda name: name
) -> dict[str, Case]:
    """Return the stored cases whose names contain some words, under short names."""
    return {name(k): case for k, case in facts["targets"].items() if has in k}


def _loops(facts: Facts, to: str, at_least: float) -> dict[str, Case]:
    short = facts["short_run"]
    runs = {facts["steps"]: facts, short["steps"]: short}
    return {
        f"{draws} draw{'s' * (draws != '1')}, {steps:,} steps": target(
            run[f"times_{to}"][f"fit_evaluated_{draws}_draws"], at_least=at_least
        )
        for steps, run in runs.items()
        if f"times_{to}" in run
        for draws in facts["test_log_scores"]
    }


def _frameworks(facts: Facts) -> dict[str, Case]:
    return {
        f"{model}, {ours} against {other}": target(ratio, at_least=1)
        for model, at in facts["models"].items()
        for ours, ratios in at["times_others"].items()
        for other, ratio in ratios.items()
    }


def _devices(facts: Facts) -> dict[str, Case]:
    return {
        name: target(fit["max_relative_difference"], at_most=1e-4)
        for name, fit in facts["eight_devices"].items()
        if "mesh" in fit
    }


def goals(results: Mapping[str, Facts]) -> list[Goal]:
    """Return all goals of the course.

    Parameters
    ----------
    results : dict
        The facts of each JSON file, by its name without ``.json``.

    Returns
    -------
    list of Goal
        In the order of the page of results.
    """
    loops, rows = results["loops"], results["rows"]
    streaming, resume = results["streaming"], results["resume"]
    prediction, processes = results["prediction"], results["processes"]
    few, many = (f"{n:,}" for n in rows["step_ratio"]["rows"])
    every = loops["evaluate_every"]
    apart = target(processes["max_relative_difference"], at_most=1e-4)
    parquet = _stored(streaming, "Parquet, ", lambda k: k.partition(":")[0][9:])
    named = {
        f"Steps per second of `fit`, validated every {every} steps, over those of a "
        "Python loop that looks at each step": _loops(loops, "python_loop", 12),
        "Steps per second of the same `fit` over those of a bare `lax.scan`": _loops(
            loops, "scan", 0.9
        ),
        "Steps per second of NumPyro over those of Pyro and of PyMC": _frameworks(
            results["frameworks"]
        ),
        f"Time of a minibatch step at {many} rows over that at {few}": _stored(
            rows, "a step at "
        ),
        "Rows per second streamed from a memory map over those from memory": _stored(
            streaming, "memory map, "
        ),
        "Rows per second streamed from Parquet over those from memory": parquet,
        "Peak memory of streaming, at ten times the rows": _stored(
            streaming, "peak memory"
        ),
        "Losses on eight devices: largest relative difference from one device": (
            _devices(results["devices"])
        ),
        "Losses on two processes: largest relative difference from one process": {
            "two processes": apart
        },
        "Killed and resumed: the same bits at the end as undisturbed": _stored(
            resume, "same bits"
        ),
        "Steps repeated after a kill, in checkpoint intervals": _stored(
            resume, "steps repeated"
        ),
        "Probabilities in batches of rows: the same bits as at once": (
            _stored(prediction, "in batches of rows: ")
        ),
        "Probabilities in batches of draws, too: largest difference": _stored(
            prediction, "in batches of draws, too"
        ),
        "Peak memory of predicting, at ten times the rows": _stored(
            prediction, "peak memory"
        ),
    }
    return [Goal(what, cases) for what, cases in named.items()]
