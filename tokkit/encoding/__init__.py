"""The stage ``encode``: from a corpus to shards of token ids.

    encode.py          the stage: its plan, its tokenizer, its checks
    encode_config.py   its options
    encode_unit.py     one unit becomes a shard
    text_survey.py     warnings about what looks wrong in the text

A document is read by ``tokkit.corpus`` and encoded by ``tokkit.tokenizer``.
"""
