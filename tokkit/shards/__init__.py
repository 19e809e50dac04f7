"""Arrow shards: their schemas, an atomic writer, a memory-mapped and validating reader."""

# The codecs of Arrow IPC, for the buffers of a shard; ``shard_file.py`` passes the name to pyarrow.
COMPRESSIONS = ("none", "zstd", "lz4")
