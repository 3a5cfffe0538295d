"""Observations -> Profile: the regression, its features and its intervals.

Imports `cost` and below.
"""
