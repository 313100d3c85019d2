"""What a campaign proved, as text."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.campaign.episode import Outcome


BILLED = ("needed", "paid", "saved", "lost", "lost_calls", "continued_calls", "repeated_answers")
SAID = ("continued", "saved", "retries", "duplicates", "empty")


def render_report(outcomes: Sequence[Outcome], seconds: float) -> str:
    """The table of faults, and what they cost. All of it was checked before.

    After one that is not counted as recovered nothing was left to do.
    """
    faults = [fault for outcome in outcomes for fault in outcome.injected]
    injected = Counter(fault.kind for fault in faults)
    times: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        if fault.recovered_s is not None:
            times[fault.kind].append(fault.recovered_s)
    lines = [f"{'fault':46} {'injected':>8} {'recovered':>9} {'median s':>8} {'worst s':>8}"]
    for kind in sorted(injected):
        mine = times[kind]
        median = (
            f"{statistics.median(mine):8.2f} {max(mine):8.2f}" if mine else f"{'-':>8} {'-':>8}"
        )
        lines.append(f"{kind:46} {injected[kind]:8d} {len(mine):9d} {median}")
    lines.append(f"{'all':46} {len(faults):8d} {sum(map(len, times.values())):9d}")
    stopping = [f.recovered_s for f in faults if f.stops and f.recovered_s is not None]
    if stopping:
        lines.append(
            f"from a fault that stops the work to the next new token: "
            f"median {statistics.median(stopping):.2f} s, worst {max(stopping):.2f} s"
        )
    return "\n".join([*lines, *_costs(outcomes), f"{len(outcomes)} runs in {seconds:.0f} s"])


def _costs(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for mode in sorted({outcome.mode for outcome in outcomes}):
        mine = [outcome for outcome in outcomes if outcome.mode == mode]
        said = ", ".join(f"{sum(o.run_counts[name] for o in mine)} {name}" for name in SAID)
        if not mine[0].bill.is_counted:
            needed = sum(outcome.bill.needed for outcome in mine)
            lines.append(f"{mode}: {needed} tokens needed; the runs say: {said}")
            continue
        total = {name: sum(getattr(outcome.bill, name) for outcome in mine) for name in BILLED}
        lines.append(
            f"{mode}: {total['needed']} tokens needed, {total['paid']} generated, "
            f"{total['saved']} saved, {total['lost']} lost; {total['continued_calls']} calls "
            f"continued, {total['lost_calls']} lost in flight, {total['repeated_answers']} answered "
            f"but not journaled, {sum(outcome.shared_again for outcome in mine)} finished calls made "
            "again by two workers that shared them"
        )
        refused = sum(outcome.refused + outcome.cut for outcome in mine)
        lines.append(f"{'':4}{refused} answers refused or broken; the runs say: {said}")
    return lines
