"""What people have -> a dataset: chip pairs, whole scenes, and a synthetic landscape to try things on."""
