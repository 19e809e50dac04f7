"""Arrow shards: their schemas, an atomic writer, a memory-mapped and distrustful reader."""

COMPRESSIONS = ("none", "zstd", "lz4")  # of the buffers of a shard
