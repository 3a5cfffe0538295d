"""The text of `--model` -> a model and its inputs.

Files, packages, Hugging Face configs, Keras models, datasets. Imports `trace` and below.
"""
