"""``tokkit pretrain``: from instance folders to a trained model that ``transformers`` loads.

    pretrain.py           the stage: whether there is anything to do, and which processes do it
    pretrain_config.py    its options
    families.py           the architectures: objectives and sizes, without torch
    data/                 from instance folders to batches; independent of architectures and processes
    models/               one file per architecture, what they share, their Hugging Face names, files
    training/             the loop and everything around it; independent of architectures

A run, from top to bottom: ``pretrain`` (pretrain.py) finds out which run the folder holds and starts
the ranks; ``train`` (training/train_model.py) opens batches, model and optimizer, resumes, trains and
exports; ``Trainer.run`` (training/loop.py) decides what happens between two steps. A step is
``Trainer.step``, which calls

    1  Schedule.phase_starts, rate             training/schedule.py      phase and learning rate
    2  Prefetcher.next_batches                 data/prefetcher.py        micro-batches, made in a thread:
         Loader.training_instances             data/loader.py              which instances, and masks
           InstanceReader.gather               data/instance_reader.py     from memory-mapped shards
         Buffers.lay_out                       data/batches.py             concatenated into tensors
    3  ProcessGroup.sum                        training/distributed.py   counts of the whole batch
    4  Transformer.forward                     models/transformer.py     layers, then losses
         attend, TokenLoss                     models/attention.py, loss.py
    5  total_loss, backward                    training/metrics.py       gradients; torch exchanges them
    6  clip_gradients, update_weights          training/optimizers.py
    7  StepMetrics.add_to                      training/metrics.py       one step later on a GPU

and between steps ``Reporter.write`` (training/reporting.py), ``Trainer._evaluate``,
``CheckpointWriter.save`` (training/checkpoint_writer.py), and the signals of training/stopping.py.

What to change to add

    an architecture          a file next to models/bert.py; see models/transformer.py
    an optimizer             BUILDERS in training/optimizers.py; OPTIMIZERS in pretrain_config.py
    a rule for checkpoints   Schedule.is_checkpoint_due in training/schedule.py
    an option of a phase     Phase in data/loader_config.py
    a metric                 MetricSums in training/metrics.py; it is logged, plotted and resumed
    an option                its field in pretrain_config.py; OPTIONS_OUTSIDE_KEY in
                             training/run_plan.py if the weights do not depend on it
    a column of instances    see shards/schema.py
    a launcher               detect_launcher in training/launch_info.py
"""
