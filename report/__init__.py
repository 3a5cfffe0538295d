"""Answers as documents: the HTML page, figures, model cards, LaTeX, BibTeX and CSV."""
