"""`Budget` in PyTorch loops, Lightning, transformers and Keras: predicts, meters and stops a run under way.

Imports `estimator.answer` and below, and the meters of `measure`.
"""
