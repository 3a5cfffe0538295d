"""Model and inputs -> Workload: the layers and ops of one training step.

A Workload describes the work; it holds no property of any hardware. Imports `sandbox` and `base`.
"""
