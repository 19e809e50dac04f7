"""One way of doing work: plan units, map a pure function over them, commit a manifest last.

    stage.py           ``run_stage``: what every stage does, from its plan to its manifest; the steps
                       of an array job
    stage_plan.py      its units, the file that keeps them, and which of them are done
    stage_config.py    the options that all stages share; the number of processors
    unit.py            a unit, and how a process runs one

Where units are done:

    local.py           in this process, or by one of the two below
    worker_pool.py     in processes of this machine
    ray.py             on a cluster
    copies.py          in a copy of this process, where memory would stay

What an output folder holds, and who may write it:

    spec.py            whether it may become what a stage describes: empty, unfinished, finished, another
    folder.py          its lock, signals, and what may not be an output
    receipts.py        .tokkit: the stage's statement, and a receipt for each finished unit
    manifest.py        the record of a finished folder; accounts.py counts what came in and was kept
    json_files.py      all of these are JSON, read by a schema
    command.py         the folder with what a recipe's shell command printed

Files and stores:

    files.py           files that are complete or absent, and the drafts that they are before
    mirrors.py         folders on object stores; object_store.py and requests.py speak to the stores

progress.py has the bars and log lines.
"""
