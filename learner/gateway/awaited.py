"""In words, what the next step's groups wait for (stage 5). Pure: the index and the rule come in, a line goes out."""

from __future__ import annotations

import itertools

from learner.gateway.draw import RolloutConfig
from learner.gateway.index import Index


def missing_groups(config: RolloutConfig, index: Index, refilled: int) -> str:
    """What a step still lacks that had `refilled` groups replaced; empty when nothing."""
    lacking = config.groups_per_step - index.count("train", "ready")
    if lacking <= 0:
        return ""
    carried = len(index.carried())
    started = itertools.islice((group for group in index.opened() if not group.carried), 2)
    shown = ", ".join(f"{g.group_id} ({g.task_id}) has {len(g.survivors)} of {len(g.members)}" for g in started)
    kind = " with signal" if refilled < config.refill_most else ""
    told = f"; {refilled} without signal were replaced, {config.refill_most} may be" if refilled else ""
    told += f"; {carried} carried over besides" if carried else ""
    return f"{lacking} group{'s' if lacking > 1 else ''}{kind}" + (f": {shown}" if shown else "") + told
