"""The encode stage: text in, token shards out."""
