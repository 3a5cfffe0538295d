"""`joulecast check`: the budgets of a repository's models, in CI or before a commit."""
