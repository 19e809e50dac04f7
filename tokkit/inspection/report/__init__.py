"""Reports: what is in folders, as one HTML page with pictures.

``report`` (report.py) finds what kind each folder is of, asks the module of its kind for a
``Section``, which is figures as JSON values and the markup that shows them, and puts the sections into
page.html.

    report.py               also a recipe's stages, its corpus, and folders that are unfinished
    tokenizer_section.py    with text_samples.py, texts to measure on
    tokens_section.py, instances_section.py
    run_section.py          with example_answers.py, what the model answers
    markup.py, plots.py     elements, tables and tokens; pictures
"""
