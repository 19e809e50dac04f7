"""What is in folders: facts and rows, checks, batches of a run, and reports.

The modules, by the command that they are for:

    inspect.py          ``tokkit inspect``: facts, and rows as text
      row_text.py         which rows, and what they look like
      run_summary.py      the facts of a run, and its curves as text
      replay.py           the batch of any step, as pretraining saw it
    token_text.py       ``tokkit tokenize``: how tokenizers cut a text; tokens as text
    verify.py           ``tokkit verify``: sizes, hashes, ids and accounts, checked again
    report/             ``tokkit report``: one HTML page
    folder_kinds.py     which kind a folder is of; what ``tokkit run`` notes in that of a recipe
    proposal.py         ``tokkit init``: what a recipe for a folder of text may begin with
"""
