"""Benchmark suites: every figure beside its peer or limit, measured in one run. ``itop bench`` finds and prints them.

A suite is a module with a ``SUITE``. Ratios hold where times do not: ours and the peer's way alternate, and medians are
compared.
"""
