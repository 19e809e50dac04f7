"""From text to token ids: the encoder and the stage that writes token shards."""
