"""Deterministic simulation: the real engine on simulated servers, out of one seed (docs/simulation.md)."""
