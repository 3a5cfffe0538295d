"""Where and when a run happens: PUE, carbon intensity, price, schedule and budgets.

Pure arithmetic, and one client of the Electricity Maps API. Imports `base` only.
"""
