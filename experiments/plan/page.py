"""A plan as tables on the screen."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.console import say

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def show(plan: dict[str, Any], console: Console) -> None:
    """Shows who computes where, in how much memory, how many images, how long; warnings last."""
    console.print(_places(plan))
    console.print(_memory(plan["memory"]))
    for held in plan["memory"]["cards"]:
        of = plan["memory"]["of"]
        colour = "red" if held["bytes"] > of else "green"
        who = ", ".join(
            f"{held['roles'].count(role)} {role}" for role in dict.fromkeys(held["roles"])
        )
        console.print(
            f"together ({who}): [{colour}]{size(held['bytes'])}[/] of {size(of)}, "
            f"{escape(plan['memory']['whose'])}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    console.print(_bytes("in the machines' memory", plan["memory"]["host"]))
    console.print(_work(plan))
    if plan["hours"] is None:
        say(console, "how long that takes depends on the card: say --tflops, its peak in TFLOP/s")
    else:
        say(
            console,
            f"at {plan['tflops']:g} TFLOP/s, {plan['mfu']:.0%} of it used, one phase after another",
        )
    console.print(_bytes("on disk, at most", plan["disk"]))
    for warning in plan["warnings"]:
        say(console, f"warning: {warning}")


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in UNITS:
        if number < 1024 or unit == UNITS[-1]:
            return f"{number:.3g} {unit}"
        number /= 1024
    raise AssertionError("there is a last unit")


def operations(number: float) -> str:
    """FLOPs as people read them."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {unit}FLOP"
        number /= 1000
    return f"{number:.3g} EFLOP"


def duration(hours: float) -> str:
    """Returns hours, or less, in words."""
    if hours >= 0.1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 0.1 else f"{hours * 3600:.1f} s"


def _places(plan: dict[str, Any]) -> Table:
    table = _table(f"{plan['run']}: actors", "role", "actors", "CPUs each", "GPUs each", "labels")
    for place in plan["places"]:
        labels = ", ".join(f"{key}={value}" for key, value in place["labels"].items())
        cells = (f"{place['resources'].get(kind, 0):g}" for kind in ("CPU", "GPU"))
        table.add_row(place["role"], str(place["actors"]), *cells, escape(labels))
    table.caption = "all in this process (cluster.inline)" if plan["inline"] else None
    return table


def _memory(memory: dict[str, Any]) -> Table:
    table = _table(
        "memory of one " + ("GPU" if memory["device"] == "cuda" else "process") + ", by actor",
        "",
        "",
    )
    for role, need in memory["roles"].items():
        table.add_section()
        table.add_row(f"[bold]{role}[/]", f"[bold]{size(need['total'])}[/]")
        for name, number in need["lasting"].items():
            table.add_row(f"  {escape(name)}", size(number))
        for name, number in need["moments"].items():
            or_not = "  or " if len(need["moments"]) > 1 else "  "
            table.add_row(f"{or_not}{escape(name)}", size(number))
    return table


def _work(plan: dict[str, Any]) -> Table:
    table = _table("what is computed", "", "images", "work", "time")
    for name, flops in plan["flops"].items():
        table.add_row(name, "", operations(flops), "")
    table.add_section()
    drawn = dict(plan["images"])
    drawn["rollouts"] = drawn.pop("rounds")
    drawn["evaluation"] = drawn.get("evaluation", 0) + drawn.pop("samples", 0)
    for phase, flops in plan["work"].items():
        if phase == "all":
            table.add_section()
        count = f"{drawn[phase]:,}" if drawn.get(phase) else ""
        time = duration(plan["hours"][phase]) if plan["hours"] else ""
        table.add_row(phase, count, operations(flops), time)
    return table


def _bytes(title: str, rows: dict[str, int]) -> Table:
    table = _table(title, "", "")
    for name, number in rows.items():
        if number:
            table.add_row(escape(name), size(number))
    table.add_section()
    table.add_row("all", size(sum(rows.values())))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=escape(title), title_justify="left", show_header=bool(first or any(others)))
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
