"""Connect to Ray, and submit jobs.

submit       treeline submit
connection   the connection to Ray while a command runs
"""
