"""Arrow shards: their schemas, an atomic writer, a memory-mapped and validating reader.

A stage opens a ``ShardFolder`` (reader.py), whose files shard_file.py maps or copies; it notices
pages that vanish from a map. What a file claims is checked before memory is allocated for it
(claims.py), and its columns when a record batch is first read (schema.py). arrow.py turns columns
into NumPy arrays and back; ``Instances`` (instances.py) are rows of instance shards in memory,
declared together with their columns, and objectives.py says which of these an objective has.
"""

# The codecs of Arrow IPC, for the buffers of a shard; ``shard_file.py`` passes the name to pyarrow.
COMPRESSIONS = ("none", "zstd", "lz4")
