"""Tokenizers: loading, saving, identifying them, and encoding text with them.

``load_tokenizer`` (tokenizer.py) returns a ``Tokenizer``, from any kind of file:

    hub_names.py            a name on the Hugging Face Hub becomes a folder
    loading.py              which file of a folder counts, and what it says
    conversion.py           which class of transformers reads it; what only transformers can convert
    tekken.py               mistral-common's file
    sentencepiece_model.py  what a ``.model`` says, also with the ids of another vocabulary
    definitions.py          the object of a ``tokenizer.json``, which all become but sentencepiece's
    special_tokens.py       roles such as ``cls``, their spellings, and sentences with masks
    file_checks.py          limits of size, and the validity of vocabularies
    saving.py               the files that tokkit and transformers load

``Encoder`` (encoder.py) gives token ids and word starts, by a kernel or by the tokenizer's library:

    segments.py             texts cut at added tokens and normalized
    text_normalizer.py      a normalizer as steps (normalizer_steps.py) by rules (character_rules.py)
    wordpiece_model.py      tables for a kernel, or what no kernel knows: characters.py, and a trie
    bpe_model.py            splitter.py, made of split_pattern.py, and bpe_tables.py
    metaspace_bpe_model.py  of metaspace_vocabulary.py and bpe_tables.py
    unigram_model.py        scores, and a trie
    library_encoder.py      the library, a window of text at a time; library_calls.py ends its calls
    encoded.py              what encoders return
    tokenizer_cache.py      tokenizers and tables on disk, for the next process
"""
