"""Run the commands on datasets.

inspect        treeline inspect
inspect_page   its page
inspect_folder where that is written
inspect_bands  what it finds out about bands
resplit        treeline split
repair         treeline verify --repair: what can be made again from what is whole
verify         treeline verify
convert        treeline convert
"""
