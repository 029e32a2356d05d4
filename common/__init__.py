"""What both sides share: messages, link, checkpoints, configuration, logs, the `loop` command; never torch."""
