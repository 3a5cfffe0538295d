"""Ground truth: trains networks under energy meters and keeps the records.

Imports `estimator`; `estimator` never imports it.
"""
