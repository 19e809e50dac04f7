"""Training vocabularies: the stage ``train``, from a corpus to a tokenizer folder.

    train.py             the stage: is there anything to do; count, learn, write
    train_config.py      its options
    counting.py          counts the words of a corpus, unit by unit, and merges the counts
    word_counter.py      the words of texts, within bounded memory
    word_counts.py       words and counts: in memory, as sorted runs on disk, as files of text
    drawn_documents.py   which documents are drawn: a sample, and those held out
    trainers.py          learns a vocabulary; unigram_trainer.py by sentencepiece
    measure.py           describes a vocabulary, and measures it on held-out text
    training_record.py   ``training.json``, the record of a finished folder

To add a model, add it to ``MODELS`` in train_config.py, a splitter to word_counter.py, and a trainer
to ``learn`` in trainers.py.
"""
