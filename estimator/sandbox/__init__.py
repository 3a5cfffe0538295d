"""Running the user's code: importing files, limiting time, cutting tracebacks, recording which files were opened.

Imports `base` only.
"""
