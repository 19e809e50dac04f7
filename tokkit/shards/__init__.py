"""Arrow shards: their schemas, an atomic writer, a memory-mapped and distrustful reader."""
