"""The machine's clock, and what processes tell each other and systemd."""
