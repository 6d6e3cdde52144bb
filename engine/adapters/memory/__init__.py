"""The twins of the other adapters in memory, for tests, simulations and examples."""
