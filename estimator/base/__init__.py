"""What every other folder uses: errors, intervals, units, reading tables and writing files.

Imports nothing else of joulecast.
"""
