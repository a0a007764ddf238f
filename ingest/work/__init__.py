"""Run an ingest: plan it, do its tasks here or on Ray, and sum it up.

run        an ingest from beginning to end
begun      what an ingest takes over from the one that it resumes
same_unit  whether added heights are read in the unit of those there
plan       the candidates of each shard and the shards of each task
schema     the schema of the dataset to make
task       one task of a worker: read candidates, check them, write shards
summary    the lines that an ingest prints when it is done
on_ray     tasks on Ray
"""
