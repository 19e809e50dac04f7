"""Reading corpora: work units, readers of every format, sentences."""
