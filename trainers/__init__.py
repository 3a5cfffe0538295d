"""`Budget` in PyTorch loops, Lightning, transformers and Keras: predicts a run, meters it and stops it.

Imports `estimator.answer` and below, and the meters of `measure`.
"""
