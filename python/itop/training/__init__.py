"""Runs from their configuration to their report: the loop, recipes, checkpoints, instruments, experiments."""
