"""What the course set out to reach, and what was measured: the first table of the page.

A bar, on the page a target, has one or more cases: it is reached if it is in all of
them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bars import bar
from report_text import NONE, SPACE, number, span, table

Case = dict[str, Any]  # as `bars.bar` returns it
Results = Mapping[str, dict[str, Any]]
SIGNS = {"<=": "≤", ">=": "≥"}


@dataclass(frozen=True)
class Bar:
    """Something to reach, and the cases in which it was measured.

    Attributes
    ----------
    what : str
        What was measured, as the table says it.
    cases : dict
        Name of each case, and what `bars.bar` or `bars.holds` say of it.
    why : str
        Why it may be missed in some cases.
    """

    what: str
    cases: dict[str, Case]
    why: str = ""

    @property
    def limit(self) -> str:
        """The bar itself, as a reader would write it."""
        limits = {case["bar"] for case in self.cases.values()}
        if len(limits) > 1:
            raise ValueError(f"{self.what}: expected one bar, got {sorted(limits)}")
        shown = "".join(limits) or NONE
        sign, _, value = shown.partition(" ")
        if not value:
            return shown
        power = float(value)
        shown = f"$10^{{{math.log10(power):.0f}}}$" if power < 1e-3 else value
        return f"{SIGNS[sign]}{SPACE}{shown}"

    @property
    def missed(self) -> dict[str, Case]:
        """The cases in which it was not reached."""
        return {name: case for name, case in self.cases.items() if not case["met"]}

    @property
    def measured(self) -> str:
        """The figure, or the least and the largest of several."""
        found = [case["measured"] for case in self.cases.values()]
        if not found:
            return NONE
        if not all(isinstance(value, bool) for value in found):
            return span(found)
        if len(found) == 1 or len(set(found)) == 1:
            return "yes" if found[0] else "no"
        return f"in {sum(found)} of {len(found)} cases"

    @property
    def verdict(self) -> str:
        """Whether it was reached, in plain words."""
        if not self.cases:
            return "not measured"
        if not self.missed:
            return "reached"
        some = len(self.missed) < len(self.cases)
        return "**reached in part**" if some else "**not reached**"

    def explained(self) -> str:
        """Say, of a bar that was not reached, where it was and where not."""

        def named(cases):
            return "; ".join(
                name
                if isinstance(case["measured"], bool)
                else f"{name} ({number(case['measured'])})"
                for name, case in cases.items()
            )

        reached = {k: case for k, case in self.cases.items() if k not in self.missed}
        how = "Reached in part" if reached else "Not reached"
        text = f"**{how}:** {self.what}, {self.limit}. "
        text += f"Missed with: {named(self.missed)}. "
        text += f"Reached with: {named(reached) if reached else 'none'}. "
        return (text + self.why).rstrip()


def _stored(facts: dict[str, Any], has: str, name: Callable[[str], str]) -> dict:
    """Return the bars of a JSON file whose names have some words, under short names."""
    return {name(k): case for k, case in facts["bars"].items() if has in k}


def _before(mark: str) -> Callable[[str], str]:
    return lambda name: name.partition(mark)[0]


def _loops(facts: dict[str, Any], to: str, at_least: float) -> dict[str, Case]:
    short = facts["short_run"]
    runs = {
        facts["steps"]: facts[f"times_{to}"],
        short["steps"]: short.get(f"times_{to}"),
    }
    return {
        f"{draws} draw{'s' * (draws != '1')}, {steps:,} steps": bar(
            times[f"fit_evaluated_{draws}_draws"], at_least=at_least
        )
        for steps, times in runs.items()
        if times
        for draws in facts["test_log_scores"]
    }


def _frameworks(facts: dict[str, Any]) -> dict[str, Case]:
    precision = {k: each["precision"] for k, each in facts["frameworks"].items()}
    return {
        f"{model}, {ours} ({precision[ours]}) against {other}": bar(ratio, at_least=1)
        for model, at in facts["models"].items()
        for ours, ratios in at["times_others"].items()
        for other, ratio in ratios.items()
    }


def _devices(facts: dict[str, Any]) -> dict[str, Case]:
    return {
        name.replace("/", ", split by "): bar(
            fit["max_relative_difference"], at_most=1e-4
        )
        for name, fit in facts["eight_devices"].items()
        if "mesh" in fit
    }


def all_bars(results: Results) -> list[Bar]:
    """Return all bars, in the order of the page.

    Parameters
    ----------
    results : dict
        The facts of each JSON file, by the name of its script without ``.py``.

    Returns
    -------
    list of Bar
        Those of what was not measured have no cases.
    """
    loops, rows = results["loops"], results["rows"]
    streaming, resume = results["streaming"], results["resume"]
    prediction, processes = results["prediction"], results["processes"]
    every, draws = loops["evaluate_every"], loops["draws_in_notebook"]
    many, few = (f"{n:,}" for n in reversed(rows["step_ratio"]["rows"]))
    apart = bar(processes["max_relative_difference"], at_most=1e-4)
    return [
        Bar(
            f"Steps per second of `fit`, validated every {every} steps (notebook 04: "
            f"with {draws} draws), over those of a Python loop that looks at each step",
            _loops(loops, "python_loop", 12),
        ),
        Bar(
            "Steps per second of the same `fit` over those of a bare `lax.scan`",
            _loops(loops, "scan", 0.9),
            "A validation with many draws costs as much as some steps.",
        ),
        Bar(
            "Steps per second of NumPyro over those of Pyro and of PyMC",
            _frameworks(results["frameworks"]),
        ),
        Bar(
            f"Time of a minibatch step at {many} rows over that at {few}",
            _stored(rows, "a step at ", lambda k: k.partition(f"{few}, ")[2]),
        ),
        Bar(
            "Rows per second streamed from a memory map over those from memory",
            _stored(streaming, "memory map, ", _before(":")),
        ),
        Bar(
            "Rows per second streamed from Parquet, which is decoded, over those from "
            "memory",
            _stored(
                streaming,
                "Parquet, ",
                lambda k: _before(":")(k.removeprefix("Parquet, ")),
            ),
            "Decoding a row takes longer than a step with one particle does with it.",
        ),
        Bar(
            "Peak memory of streaming, at ten times the rows",
            _stored(
                streaming, "peak memory", lambda k: k.replace("peak memory of ", "")
            ),
        ),
        Bar(
            "Losses on eight devices: largest relative difference from one device",
            _devices(results["devices"]),
        ),
        Bar(
            "Losses on two processes: the same from one process",
            {"over the network": apart},
        ),
        Bar(
            "Killed and resumed: the same bits at the end as undisturbed",
            _stored(resume, "same bits", _before(":")),
        ),
        Bar(
            "Steps repeated after a kill, in checkpoint intervals",
            _stored(resume, "steps repeated", _before(":")),
        ),
        Bar(
            "Predictions in batches of rows: the same bits as at once",
            _stored(prediction, "same bits", _before(":")),
        ),
        Bar(
            "Predictions in batches of draws, too: largest difference",
            _stored(prediction, "probabilities the same", _before(":")),
        ),
        Bar(
            "Peak memory of predicting, at ten times the rows",
            _stored(
                prediction, "peak memory", lambda k: k.removeprefix("peak memory of ")
            ),
        ),
    ]


def bars_table(results: Results) -> str:
    """Return the table of all bars, and a sentence for each that was not reached."""
    found = all_bars(results)
    rows = [
        {
            "what": each.what,
            "to reach": each.limit,
            "measured": each.measured,
            "result": each.verdict,
        }
        for each in found
    ]
    caption = (
        "What the course set out to reach, and what was measured: the least and the "
        "largest figure, where there are several cases. A target is reached if it is "
        "in all of them."
    )
    missed = [f"- {each.explained()}\n" for each in found if each.missed]
    return table(rows, "bars", caption) + "".join(missed)
