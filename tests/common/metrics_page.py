"""The tables of common/docs/metrics.md, from the code. Renew: PYTHONPATH=. python tests/common/metrics_page.py"""

from pathlib import Path

import actor.gauges
import learner.gateway.gauges
import learner.gateway.step_counts
from common.measures import rows

FILE = Path(__file__).resolve().parents[2] / "common" / "docs" / "metrics.md"
MARK = "<!-- what follows is made from the tables in the code: PYTHONPATH=. python tests/common/metrics_page.py -->\n"


def tables():
    """All below the mark."""
    parts = {
        "Learner: how the run stands\n\nThe same that `loop status` shows.": learner.gateway.gauges.OF_STATUS,
        "Learner: what steps came to\n\nFrom `metrics.jsonl`.": learner.gateway.step_counts.MEASURES,
        "Actor": actor.gauges.MEASURES,
    }
    return "".join("\n".join(("", f"## {heading}", "", *rows(table), "")) for heading, table in parts.items())


if __name__ == "__main__":
    above = FILE.read_text(encoding="utf-8").split(MARK)[0]
    FILE.write_text(above + MARK + tables(), encoding="utf-8")
