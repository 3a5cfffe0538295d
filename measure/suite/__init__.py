"""The calibration suite: which networks run, how steps and ops are timed, and when a round counts."""
