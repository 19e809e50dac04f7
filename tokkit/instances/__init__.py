"""From token shards to training instances: pairs of segments, packed and masked."""
