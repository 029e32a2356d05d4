"""What both sides share: messages, link, checkpoints, configuration, logs and the `loop` command. Never imports torch."""
