"""The command line, the connection to Ray, job submission, runs of one's own steps, and the demo.

Start at `cli`, which names the options and the function of each command.
"""
