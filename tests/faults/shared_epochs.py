"""Sweeps whose jobs share epochs, and that are killed at random moments."""

from faults.sweep_kills import shared_epochs

__all__ = ["shared_epochs"]
