"""Reading corpora: from the INPUTs of a command to batches of documents and their sentences.

    corpus_config.py   the options, FORMATS (what reads a format, and how a file of it is cut), and
                       the codes of languages
    sources.py         which files an INPUT is; asks file_systems.py about each
    formats.py         which format a file has; refusals.py what is not read
    units.py           which bytes, row groups or record batches are read as one piece
    readers.py         a unit as batches of documents, whatever its format
    sentences.py       where the sentences of documents end

A unit is read from bottom to top:

    file_systems.py    files of this machine; remote_files.py those behind a URI
    compression.py     decompression
    streams.py         the bytes of a unit, hashed and counted; stdin_parts.py cuts standard input
    text.py            documents of plain text, and lines
    records.py         JSON             csv_rows.py     CSV and TSV
    table_rows.py      Parquet and Arrow; table_files.py opens them
    table_limits.py    what of them takes too much memory
    documents.py       what all of them return: ``DocumentBatch``, cleaned

What to change to add a format: see formats.py; a compression: compression.py; a splitter of
sentences: sentences.py.
"""
