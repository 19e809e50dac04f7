"""The training loop, ``Trainer.run``, and one step of it, ``Trainer.step``.

    before step n, if due    log │ evaluate │ save a checkpoint │ stop, or end
    step n                   batches │ forward, backward │ clip, update │ metrics

A step depends only on its number and the weights: the batch, its masks, dropout and the learning rate
are functions of the number, so there is no RNG state to save. A resumed run is bit-identical on a CPU
with the same number of threads; on a GPU the order of reductions varies. With ``--max-time`` the rate
depends on elapsed time, so runs are not reproducible.

Gradients are accumulated. Each loss is divided by the step's number of predictions and pairs over all
processes, so the number of micro-batches and processes makes no difference.

All processes of a run execute the same code. Only the first writes and logs.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from signal import Signals

import torch
from torch import nn
from torch.optim import Optimizer

from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.pretraining.models.dropout import key_step
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoint_writer import CheckpointWriter
from tokkit.pretraining.training.checkpoints import (
    Checkpoint,
    copy_checkpoint,
    load_newest_checkpoint,
    name_tensors,
    restore_tensors,
)
from tokkit.pretraining.training.device import (
    ScaledOptimizer,
    choose_precision,
    compute_losses,
    count_graphs,
    find_peak_flops,
    seed_torch,
)
from tokkit.pretraining.training.distributed import (
    ProcessGroup,
    accumulate,
    gather_tensors,
    shard_tensors,
)
from tokkit.pretraining.training.metrics import (
    MetricSums,
    StepMetrics,
    TrainingState,
    count_flops_per_token,
    sample_instances,
    total_loss,
)
from tokkit.pretraining.training.optimizers import clip_gradients, update_weights
from tokkit.pretraining.training.reporting import Reporter
from tokkit.pretraining.training.run_record import CHECKPOINTS, list_checkpoints
from tokkit.pretraining.training.schedule import Schedule
from tokkit.pretraining.training.stopping import StopRequest, find_agreed_signal, hold_signals

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains one model.

    Attributes:
        config: options of the run.
        schedule: decides what is due at which step.
        group: processes of the run.
        loaders: loader of each phase; a run without phases has one.
        prefetcher: prepares this process's batches.
        model: the model, with the names of weights that checkpoints and exports use.
        wrapped_model: ``model`` as distributed over processes; this is the one to call.
        optimizer: optimizer of its weights.
        state: step, tokens, elapsed time and best loss so far.
    """

    config: PretrainConfig
    schedule: Schedule
    group: ProcessGroup
    loaders: Sequence[Loader]
    prefetcher: Prefetcher
    model: Transformer
    wrapped_model: nn.Module
    optimizer: Optimizer
    state: TrainingState = field(default_factory=TrainingState)

    def __post_init__(self) -> None:
        """Initialize what changes during the run; nothing is resumed, logged or written yet."""
        self._scaled = ScaledOptimizer(self.optimizer, self.group, self.config.precision)
        self._resumed: Checkpoint | None = None
        self._writer: CheckpointWriter | None = None
        self._reporter: Reporter | None = None
        self._stop = StopRequest()
        self._started = 0.0  # clock reading at which elapsed time was 0
        self._last_save_step = self._logged_step = 0
        self._pending: deque[tuple[int, StepMetrics]] = deque()
        self._gradient_norm = 0.0  # of the last step, for its log line
        self._peak_flops: float | None = None  # of all devices together
        self._flops_per_token: Sequence[float] = ()  # in each phase, where the peak is known

    def resume(self) -> None:
        """Load the newest checkpoint if there is one; rank 0 reads and broadcasts it.

        A new run that continues another one starts from a copy of its checkpoint. A run of wsd that
        got more steps starts from the newest checkpoint without decay.
        """
        checkpoint, expected = None, name_tensors(self.model, self.optimizer)
        if self.group.is_first:
            folder, origin = self.config.output / CHECKPOINTS, self.schedule.origin
            if origin.checkpoint is not None and not list_checkpoints(folder):
                copy_checkpoint(Path(origin.checkpoint), folder, expected)
            checkpoint = load_newest_checkpoint(folder, expected, self.schedule.decay_start)
        data = self.group.broadcast(None if checkpoint is None else checkpoint.state)
        if data is None:
            return
        self.state = TrainingState.from_dict(data)
        if not self.group.is_first:
            self.state.interval = MetricSums()  # rank 0 has the sums of all processes
        parts = {
            file: shard_tensors({} if checkpoint is None else checkpoint.tensors[file], tensors)
            for file, tensors in expected.items()
        }
        restore_tensors(parts, self.state.num_updates, self.model, self.optimizer)
        self._scaled.restore(self.state.loss_scale)
        self._last_save_step = self._logged_step = self.state.step
        self._resumed = checkpoint and replace(checkpoint, tensors={})
        log.info("%s: resuming from step %d", self.config.output, self.state.step)

    def run(self) -> None:
        """Train until the schedule ends.

        Raises:
            Interrupted: after a signal; the current step is saved, or the message says why not.
            TokkitError: if a loss is no longer finite, or the last weights cannot be saved.
        """
        with ExitStack() as stack:
            self._stop = stack.enter_context(hold_signals())
            if self.group.is_first:
                self._prepare_to_write(stack)
            if not all(loader.num_held_out for loader in self.loaders):
                log.info(
                    "%s: no instances are held out, so nothing is evaluated; "
                    "build with a larger --eval-fraction to change that",
                    ", ".join(map(str, self.config.instances)),
                )
            self._started = time.monotonic() - self.state.elapsed
            while True:
                signal, self.state.elapsed = self._agree_on_signal_and_time()
                is_over = self.schedule.is_over(self.state.step, self.state.elapsed)
                self._log_if_due(is_over=is_over)
                loss = None
                if signal is None and self._is_evaluation_due(is_over=is_over):
                    with self._without_compiling():
                        loss = self._evaluate()
                    if loss is None:
                        continue  # a signal stopped it, and is handled above
                self._save_if_due(loss, is_over=is_over, is_stopping=signal is not None)
                if signal is not None:
                    self._raise_interrupted(signal)
                if is_over:
                    return
                with self._without_compiling():
                    self.step()
                if self._reporter is not None:
                    self._reporter.advance(self.state.step, self.state.elapsed)

    def step(self) -> None:
        """Take one step: batches, forward, backward, update, metrics."""
        started = time.perf_counter()
        config, state, group = self.config, self.state, self.group
        schedule, prefetcher = self.schedule, self.prefetcher
        starts = schedule.phase_starts(state.step, state.elapsed, state.phase_starts)
        state.phase_starts = starts
        state.learning_rate = schedule.rate(state.step, state.elapsed, state.phase)

        # Batches, and the counts of all processes together.
        batches = prefetcher.next_batches(state.phase, state.step - starts[-1])
        counts = [(batch.num_predicted, batch.num_pairs, batch.num_tokens) for batch in batches]
        num_predicted, num_pairs, num_tokens = group.sum([*map(sum, zip(*counts, strict=True))])
        num_instances = schedule.batch_sizes(state.phase).at(state.step - starts[-1])[1]
        key, first_row = key_step(config.seed, state.step), group.rank * num_instances // group.size
        on_device = [batch.to(group.device).key_dropout(key, first_row) for batch in batches]
        prefetcher.mark_copied()
        seed_torch(config.seed, f"dropout of {group.rank}", state.step)  # of attention on a GPU

        # Forward and backward.
        model, sums = self.wrapped_model, []
        for number, batch in enumerate(on_device, start=1):
            with accumulate(model, is_last=number == len(batches)):
                sums.append(compute_losses(model, batch, config.precision, group.device))
                loss = total_loss(sums[-1], num_predicted, num_pairs)
                # Gradients are averaged over processes, but their sum is needed.
                self._scaled.backward(loss * group.size)

        # Update.
        self._scaled.unscale()
        gradient_norm = clip_gradients(model, config.max_gradient_norm)
        update_weights(self._scaled, state.learning_rate)

        # Metrics, which on a GPU are read one step later, except before a log line: the next step is
        # running by then.
        self._pending.append((state.step, StepMetrics(batches, sums, gradient_norm)))
        decay_start = schedule.decay_start
        state.decay_start = None if state.step < (decay_start or 0) else decay_start
        state.instances += num_instances
        state.step += 1
        state.tokens += int(num_tokens)
        state.interval.waited += prefetcher.waited
        is_log_due = schedule.is_log_due(state.step, is_over=False)
        self.collect_metrics(num_pending=0 if is_log_due or group.device.type == "cpu" else 1)
        state.interval.seconds += time.perf_counter() - started

    def collect_metrics(self, *, num_pending: int = 0) -> None:
        """Add the metrics of all steps but the last ``num_pending`` to the interval's sums.

        Raises:
            TokkitError: if a loss is not finite.
        """
        while len(self._pending) > num_pending:
            step, metrics = self._pending.popleft()
            # The norm is the same in all processes, and not finite if any loss is not.
            if math.isfinite(norm := metrics.add_to(self.state.interval)):
                self._gradient_norm = norm
            elif self._scaled.can_shrink:
                self.state.skipped_steps += 1
            else:
                raise TokkitError(self._describe_divergence(step))

    def _log_if_due(self, *, is_over: bool) -> None:
        """Log the steps since the last line, with the rate and norm of the last step."""
        state, phase = self.state, self.state.phase
        is_due = self.schedule.is_log_due(state.step, is_over=is_over)
        if state.step == self._logged_step or not is_due:
            return
        self.collect_metrics()
        interval = state.interval.all_reduce(self.group.sum)
        self._logged_step, state.interval = state.step, MetricSums()
        if self._reporter is None:
            return
        seen, _ = self.loaders[phase].sizes.at(state.step - state.phase_starts[phase])
        flops = self._flops_per_token[phase] if self._flops_per_token else 0.0
        self._reporter.write(
            {
                "kind": "train",
                "step": state.step,
                **({"phase": phase} if self.config.phases else {}),
                "epoch": seen / self.loaders[phase].num_instances,
                **interval.means(self.model.config.objective),
                "learning_rate": state.learning_rate,
                "gradient_norm": self._gradient_norm,
                **({"skipped_steps": state.skipped_steps} if state.skipped_steps else {}),
                "tokens": state.tokens,
                **interval.speed(state.elapsed, flops, self._peak_flops),
            }
        )

    def _is_evaluation_due(self, *, is_over: bool) -> bool:
        state = self.state
        is_due = self.schedule.is_evaluation_due(state.step, is_over=is_over)
        has_held_out = self.loaders[state.phase].num_held_out > 0
        return is_due and has_held_out and state.evaluated_step != state.step

    def _evaluate(self) -> float | None:
        """Evaluate on the held-out instances, whose masks are the same at every evaluation.

        In each round every process gets one batch. If the last round has too few, the others run the
        model on another's batch and drop the result, because with FSDP all processes must call the
        model equally often.

        Returns:
            The loss, which is finite; None if a signal stopped the evaluation.
        """
        self.collect_metrics()
        state, group, sums = self.state, self.group, MetricSums()
        model, precision = self.wrapped_model, self.config.precision
        batches = self.prefetcher.held_out(state.phase)
        pending: deque[StepMetrics] = deque()
        with torch.no_grad():
            while round_batches := list(islice(batches, group.size)):
                if self._agree_on_signal_and_time()[0] is not None:
                    return None
                batch = round_batches[min(group.rank, len(round_batches) - 1)]
                losses = compute_losses(model, batch.to(group.device), precision, group.device)
                if group.rank < len(round_batches):
                    pending.append(StepMetrics([batch], [losses]))
                if len(pending) > 1:  # a GPU is already running the next batch
                    pending.popleft().add_to(sums)
        for metrics in pending:
            metrics.add_to(sums)
        sums = sums.all_reduce(group.sum)
        means = sums.means(self.model.config.objective) | {"perplexity": sums.perplexity}
        if not math.isfinite(loss := means["loss"]):
            fault = f"the held-out loss is not finite after step {state.step}"
            raise TokkitError(f"{self.config.output}: {fault}; {self._describe_saved()}")
        if self._reporter is not None:
            self._reporter.write({"kind": "eval", "step": state.step, **means})
        state.evaluated_step = state.step
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss = loss
        return loss

    def _save_if_due(self, loss: float | None, *, is_over: bool, is_stopping: bool) -> None:
        """Start writing a checkpoint; ``loss`` is the held-out loss if just evaluated."""
        state = self.state
        if state.step == self._last_save_step:
            return
        is_best = loss is not None and loss == state.best_loss
        if not self.schedule.is_checkpoint_due(
            state.step, is_over=is_over, is_stopping=is_stopping, is_best=is_best
        ):
            return
        self.collect_metrics()  # raises before weights that are not finite would be saved
        named = name_tensors(self.model, self.optimizer)
        tensors = {file: gather_tensors(named[file]) for file in named}
        interval = state.interval.all_reduce(self.group.sum)
        whole = replace(state, interval=interval, loss_scale=self._scaled.state)
        if self._writer is not None and self._reporter is not None:
            self._reporter.sync()
            self._writer.save(tensors, asdict(whole), loss=loss)
        self._last_save_step = state.step

    def _prepare_to_write(self, stack: ExitStack) -> None:
        """Open what only the first process writes: metrics and checkpoints."""
        config, peak = self.config, find_peak_flops(self.group.device)
        if peak is not None and choose_precision(config.precision, self.group.device) != "fp32":
            self._peak_flops = peak * self.group.size
            self._flops_per_token = [
                count_flops_per_token(self.model, sample_instances(loader))
                for loader in self.loaders
            ]
        self._reporter = stack.enter_context(Reporter(config, self.state, self.schedule.last_step))
        self._writer = stack.enter_context(
            CheckpointWriter(
                config.output / CHECKPOINTS,
                config.keep_checkpoints,
                self._resumed,
                kept_step=None if self.config.decay_from else self.schedule.decay_start,
            )
        )

    def _agree_on_signal_and_time(self) -> tuple[Signals | None, float]:
        """Return the signal that any process has received, and rank 0's elapsed seconds."""
        elapsed = time.monotonic() - self._started if self.group.is_first else 0.0
        *flags, elapsed = self.group.sum([*self._stop.flags, elapsed])
        return find_agreed_signal(flags), elapsed

    @contextmanager
    def _without_compiling(self) -> Iterator[None]:
        """Exclude the block from elapsed time if a graph is compiled in it."""
        graphs, started = count_graphs(), time.monotonic()
        yield
        if count_graphs() > graphs:
            self._started += time.monotonic() - started

    def _describe_divergence(self, step: int) -> str:
        output, starts = self.config.output, self.state.phase_starts
        # Another phase may have started since the step.
        phase = max(number for number, first in enumerate(starts) if first <= step)
        phase_option = f"--phase {phase} " if self.config.phases else ""
        return (
            f"{output}: the loss or its gradient is not finite at step {step} (show its batch with: "
            f"tokkit inspect {output} --replay {phase_option}--step {step - starts[phase]}); "
            f"{self._describe_saved()}"
        )

    def _describe_saved(self) -> str:
        """Return what is saved of a run that diverged, and the remedy; collective."""
        if self._writer is not None:
            self._writer.wait()
        saved = self.group.broadcast(self._writer and self._writer.describe_saved())
        return f"{saved}; lower --learning-rate and pass --overwrite to start again"

    def _raise_interrupted(self, signal: Signals) -> None:
        unsaved = ""
        if self._writer is not None:
            self._writer.wait()
            if (fault := self._writer.fault) is not None:
                unsaved = f", which is not saved ({fault}); {self._writer.describe_saved()}"
        self.group.barrier()  # the other processes are killed soon after the first one ends
        raise Interrupted(
            f"{self.config.output}: stopped by {signal.name} after step {self.state.step}{unsaved}; "
            f"run the same command again to resume",
            exit_status=128 + signal,
        )
