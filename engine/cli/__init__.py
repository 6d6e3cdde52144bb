"""Commands, and `bootstrap`, the only module that wires projections and adapters together."""
