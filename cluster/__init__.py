"""The command line, the connection to Ray, job submission, and the demo that joins all stages.

Start at `cli`, which names the options and the function of each command.
"""
