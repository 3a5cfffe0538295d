"""Request -> Answer: the application that every surface uses.

Loads and traces the model, predicts, applies the site, and compares with budgets. Imports all other folders of
`estimator` except `fit`.
"""
