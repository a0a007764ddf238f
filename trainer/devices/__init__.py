"""Know devices and ranks: precision, sharding, time. Knows modules, not regressors.

ranks        the processes that train together
sharding     a module of which every rank holds a part
clock        where the time of an epoch goes
repeatable   repeatable arithmetic, and compilation
"""
