"""The core: predicts what a training run costs, without running it.

Each folder imports only the folders listed before it: `base`, `sandbox` and `place`, `trace`, `cost` and `model`,
`fit`, `answer`. Nothing here imports `measure`, a surface (`trainers`, `check`, `report`) or `cli`.
"""
