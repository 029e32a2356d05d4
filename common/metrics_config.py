"""The section `metrics`: where a process's figures are served, and who else gets those of metrics.jsonl."""

from __future__ import annotations

from pydantic import Field

from common.config import Section


class MetricsConfig(Section):
    """Figures of a running process. Both sides read it; metrics.jsonl is written in any case."""

    serve: bool = Field(
        default=True, description="whether /metrics (Prometheus) and /health are served over HTTP", examples=[False]
    )
    host: str = Field(
        default="127.0.0.1",
        description="address to serve them on; there is no password: another than loopback is for a closed network",
        examples=["10.0.0.1"],
    )
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="TCP port; 0 or one in use: a free one, written to exporters/NAME.json in the run's folder",
        examples=[9464],
    )
    tensorboard: bool = Field(
        default=False,
        description="whether the learner also writes the figures of metrics.jsonl for TensorBoard, to tensorboard/ in "
        "the run's folder (pip install loop-rl[tracking])",
        examples=[True],
    )
    wandb: str = Field(
        default="",
        description="project of Weights & Biases that the learner sends them to; empty: none; without a key or a "
        "network they are kept in wandb/ in the run's folder (pip install loop-rl[tracking])",
        examples=["loop"],
    )
