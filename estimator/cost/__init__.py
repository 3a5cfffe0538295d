"""Workload x Profile -> Estimate: seconds and energy on one piece of hardware, with intervals.

Holds profiles, the time and power models, and the tables of hardware. Imports `trace` and below.
"""
