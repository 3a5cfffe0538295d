"""`joulecast check`: compares every model of a repository with its budget, in CI or before a commit."""
