"""`joulecast sweep`: the cost of many candidates before any of them trains, alone and together.

Candidates (`candidates`) become jobs (`jobs`) that share a trace, which processes of an engine price (`engine`). A
journal (`journal`) keeps each result, so that a stopped sweep resumes where it was. `run` puts these together;
`ranking` finds the total, the cheapest candidates and the Pareto front. `objective` is `joulecast.Cost`.
"""
