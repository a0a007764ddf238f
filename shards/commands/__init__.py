"""Run the commands on datasets.

inspect        treeline inspect
inspect_page   its page
inspect_folder where that is written
inspect_bands  what it finds out about bands
resplit        treeline split
verify         treeline verify
convert        treeline convert
"""
