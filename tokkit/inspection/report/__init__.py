"""Reports: what is in folders, as one HTML page with pictures.

``report`` (report.py) finds what kind each folder is of, and asks the module of its kind for a
``Section``: figures as JSON values, and the markup that shows them. ``make_page`` (page.py) puts the
sections into page.html.

    tokenizer_section.py    with vocabulary_section.py and text_samples.py, texts to measure on
    tokens_section.py, instances_section.py
    run_section.py          with example_answers.py, what the model answers
    stages_section.py       a recipe's stages, its corpus, and folders that are unfinished
    markup.py, plots.py     elements, tables and tokens; pictures
"""
