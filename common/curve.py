"""The picture of a run: mean reward and success by step, with the evaluations before and after."""

from __future__ import annotations

from pathlib import Path

from common.evaluation import parts_of
from common.figures import Figures, mean_lag


def draw(figures: Figures, target: Path) -> None:
    """Write a PNG of the learning curve."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and only the end of a demo needs it

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    steps = [event["step"] for event in figures.steps]
    picture, (reward, ratio) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    reward.plot(steps, [event["mean_reward"] for event in figures.steps], label="mean reward (training rollouts)")
    reward.plot(steps, [event["success_share"] for event in figures.steps], label="success (training rollouts)")
    last = max(steps, default=0)
    for label, event in sorted(figures.evaluations.items()):
        parts = parts_of(label)
        if parts is None:
            continue
        when, temperature, name = parts
        reward.plot(
            [0 if when == "before" else last],
            [event["tgc"]],
            marker="s" if name else "o" if temperature == "0" else "x",
            linestyle="none",
            color="gray" if name else "black",
            label=f"{name or 'held-out'} TGC, {when}, t{temperature}",
        )
    if figures.online:
        shares = [event["tgc"] for event in figures.online.values()]
        reward.plot(list(figures.online), shares, marker=".", label="dev TGC, on the way")
    reward.set_ylim(0, 1)
    reward.set_ylabel("share")
    reward.legend(fontsize="small")
    ratio.plot(steps, [mean_lag(event) for event in figures.steps], label="mean lag [versions]")
    ratio.plot(
        steps, [event["ratios"].get("clip_share", 0.0) for event in figures.steps], label="share of tokens clipped"
    )
    ratio.set_xlabel("policy version")
    ratio.legend(fontsize="small")
    picture.savefig(target, dpi=120)
    plt.close(picture)
