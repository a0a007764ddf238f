"""Store and fetch bytes: local disk and S3, ranges, a disk cache, checksums.

objects      URLs, local or remote; objects appear whole or not at all
patterns     names with wildcards, and the files that they match
copies       second places of objects in their storage
mapped       local files mapped into memory
s3           S3 as a file system, through boto3
gdal         GDAL's names and options for URLs
ranges       ranges of remote objects, in parallel, with counted retries
one_writer   only one command at a time writes into a folder
lease        how a folder on S3 is held
disk_cache   a local cache of fetched bytes
checksum     XXH3 of objects and of chips
regular      opening regular files alone
limits       how much of a file of strangers is read
json_text    JSON as plain values, within limits
json_marks   what a value of JSON must be besides its type
typed_json   JSON of ours as dataclasses: types, ranges, names
"""
