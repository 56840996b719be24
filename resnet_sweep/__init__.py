"""Compose, sweep and compare small-vision training runs."""
