"""Sweeps: plan, launch, resume and summarize many runs of one command."""
