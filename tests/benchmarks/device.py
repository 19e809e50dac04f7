"""Everything that is measured on a GPU, in ten minutes: what it computes, what it can, what it does.

    python tests/benchmarks/device.py [--minutes 9] [--json FIGURES] [--tiny]

In this order, so that what is cut off at the end is worth least:

    correctness    attention over variable lengths against plain attention in fp64, dropout's share
    ceilings       matrix products of a step's shapes, copying, attention, a layer, plain and with Triton
    BERT           ``pretrain.py``: base, plain and with Triton's kernels, and its peer; a profile of each
    ModernBERT     ``pretrain.py``: base, 1,024 tokens, beside Ettin's published 296,000 tokens/s on an H100
    tests          those marked ``gpu``

Each part tells what it measured as soon as it has, and a part that fails costs no other. ``--tiny`` shows
in a minute what would be measured, on a device that computes nothing, too.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring, pretrain
from benchmarks.measuring import write
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tokkit.pretraining.models import attention
from tokkit.pretraining.models.bert import Layer
from tokkit.pretraining.models.dropout import key_sequences
from tokkit.pretraining.models.transformer import Inputs, ModelConfig

Rates = dict[str, float]
HALF = torch.bfloat16
HEADS, SIZE, WIDTH, INNER = 12, 64, 768, 3072  # of BERT-base
LENGTHS = (128, 512)
TESTS = ("compiled", "model", "checkpoint", "pretrain", "data/test_prefetcher")


def make_inputs(lengths: Sequence[int], *, dropout: bool = False) -> Inputs:
    """Return sequences on the GPU, of which nothing is predicted."""
    sizes = torch.tensor(lengths)
    ends = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    rows = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    positions = torch.arange(len(rows)) - ends[rows]
    none = torch.zeros(0, dtype=torch.int64)
    inputs = Inputs(
        input_ids_N=none,
        token_type_ids_N=none,
        position_ids_N=positions.cuda(),
        row_ids_N=rows.cuda(),
        cu_seqlens=ends.int().cuda(),
        predicted_positions_M=none,
        labels_M=none,
        pair_labels_S=none,
        max_seqlen=max(lengths),
    )
    if not dropout:
        return inputs
    keys = key_sequences(1, 0, len(lengths), torch.device("cuda"))
    return inputs._replace(dropout_keys=keys)


def time_calls(function: Callable[[], Any], number: int) -> float:
    """Return the seconds of a call, of which many are launched one after the other."""
    for _ in range(3):
        function()
    rounds = []
    for _ in range(3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(number):
            function()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - started) / number)
    return statistics.median(rounds)


class Device:
    """Measures one device.

    Args:
        num_tokens: of a batch.
        number: calls that are timed together.
    """

    def __init__(self, num_tokens: int, number: int) -> None:
        self._num_tokens = num_tokens
        self._number = number

    def check(self) -> Rates:
        """Compare attention over variable lengths with plain attention in fp64."""
        inputs = make_inputs([1, 128, 0, 77, 5, 128, 0, 0, 64])
        num_tokens = len(inputs.row_ids_N)
        torch.manual_seed(1)
        x = torch.randn(num_tokens, 3, HEADS, SIZE, device="cuda", dtype=HALF)
        gradient = torch.randn(num_tokens, HEADS, SIZE, device="cuda", dtype=HALF)
        figures = {}
        for name, causal, window in (
            ("full", False, None),
            ("causal", True, None),
            ("window", False, (16, 16)),
        ):
            found = []
            for dtype in (torch.float64, HALF):
                qkv = x.to(dtype, copy=True).requires_grad_()
                y = attention.attend(qkv, inputs, 0.0, causal=causal, window=window)
                torch.autograd.backward(y, gradient.to(dtype))
                assert qkv.grad is not None
                found.append(torch.cat([y.flatten(), qkv.grad.flatten()]).double())
            error = (found[1] - found[0]).norm() / found[0].norm()
            figures[f"error of {name} attention (below 0.01)"] = error.item()
        values = x.clone()
        values[:, 2] = 1  # then the output is the share that is kept, divided by 0.9
        dropping = make_inputs([128] * 4, dropout=True)
        kept = attention.attend(values[:128].repeat(4, 1, 1, 1), dropping, 0.1, causal=False)
        figures["mean with dropout in attention (1)"] = kept.float().mean().item()
        return figures

    def products(self) -> Rates:
        """Return operations per second of matrix products."""
        shapes = {"8192 x 8192 x 8192": (8192, 8192, 8192)}
        for name, rows, columns in (
            ("qkv", WIDTH, 3 * WIDTH),
            ("output", WIDTH, WIDTH),
            ("up", WIDTH, INNER),
            ("down", INNER, WIDTH),
        ):
            shapes[name] = (self._num_tokens, rows, columns)
            shapes[f"gradient of {name}'s weight"] = (columns, self._num_tokens, rows)
        figures = {}
        for name, (m, k, n) in shapes.items():
            a = torch.randn(m, k, device="cuda", dtype=HALF)
            if name.startswith("gradient"):
                a = a.t().contiguous().t()
            b = torch.randn(k, n, device="cuda", dtype=HALF)
            seconds = time_calls(partial(torch.mm, a, b), self._number)
            figures[f"TFLOP/s of {name}"] = 2 * m * n * k / seconds / 1e12
        return figures

    def copies(self) -> Rates:
        """Return bytes per second that are read and written."""
        source = torch.empty(self._num_tokens << 14, device="cuda", dtype=torch.uint8)
        target = torch.empty_like(source)
        seconds = time_calls(lambda: target.copy_(source), self._number)
        return {"TB/s copied": 2 * source.numel() / seconds / 1e12}

    def attentions(self) -> Rates:
        """Return milliseconds of attention, forward and backward."""
        figures: Rates = {}
        for length in LENGTHS:
            number = self._num_tokens // length
            for prob in (0.0, 0.1):
                inputs = make_inputs([length] * number, dropout=True)
                shape = (number * length, 3, HEADS, SIZE)
                qkv = torch.randn(shape, device="cuda", dtype=HALF, requires_grad=True)

                def attend(qkv: Tensor = qkv, prob: float = prob) -> Tensor:
                    return attention.attend(qkv, inputs, prob, causal=False)  # noqa: B023  called at once

                name = f"attention of {length}, dropout {prob}"
                figures |= self._time_both(name, attend, qkv)
        return figures

    def rivals(self) -> Rates:
        """Return milliseconds of cuDNN's attention over full rows."""
        figures: Rates = {}
        for length in LENGTHS:
            number = self._num_tokens // length
            parts = torch.randn(3, number, HEADS, length, SIZE, device="cuda", dtype=HALF)
            parts.requires_grad_()

            def attend_rows(parts: Tensor = parts) -> Tensor:
                q, k, v = parts.unbind()
                with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                    return scaled_dot_product_attention(q, k, v, dropout_p=0.1)

            figures |= self._time_both(f"cuDNN's, of {length}, dropout 0.1", attend_rows, parts)
        return figures

    def layers(self) -> Rates:
        """Return operations per second of a compiled layer and of one of Triton's kernels."""
        length = LENGTHS[0]
        inputs = make_inputs([length] * (self._num_tokens // length), dropout=True)
        x = torch.randn(len(inputs.row_ids_N), WIDTH, device="cuda", dtype=HALF, requires_grad=True)
        gradient = torch.randn_like(x)
        figures = {}
        for prob in (0.0, 0.1):
            shape = ModelConfig.from_preset(
                "base", vocab_size=30_522, max_seq_length=length, dropout=prob
            )
            flops = 6 * len(x) * (shape.count_layer_weights() / 12 + 2 * WIDTH * length)
            for kernels in ("compiled", "Triton"):
                layer = Layer(shape).cuda()
                if kernels == "Triton":
                    from tokkit.pretraining.models.fused import FusedLayer

                    layer.__class__ = FusedLayer
                layer.compile(dynamic=True)

                def step(layer: Layer = layer) -> None:
                    with torch.autocast("cuda", HALF):
                        y = layer(x, inputs)
                    torch.autograd.backward(y, gradient)
                    layer.zero_grad(set_to_none=True)

                seconds = time_calls(step, self._number)
                name = f"TFLOP/s of a layer, {kernels}, dropout {prob}"
                figures[name] = flops / seconds / 1e12
        return figures

    def _time_both(self, name: str, function: Callable[[], Tensor], leaf: Tensor) -> Rates:
        """Return milliseconds of a function of a tensor, and of its gradient."""
        forward = time_calls(function, self._number)
        y = function()
        gradient = torch.randn_like(y)

        def differentiate() -> object:
            return torch.autograd.grad(y, leaf, gradient, retain_graph=True)

        backward = time_calls(differentiate, self._number)
        return {f"ms of {name}": 1e3 * forward, f"ms of {name}, backward": 1e3 * backward}


def run_tests(seconds: float) -> Rates:
    """Run the tests marked ``gpu``."""
    folder = Path(__file__).resolve().parent.parent / "pretraining"
    files = [folder / (name if "/" in name else f"test_{name}") for name in TESTS]
    command = ["-m", "pytest", "-m", "gpu", "-n0", "-q", "--show-capture=no"]
    ended = subprocess.run(
        [sys.executable, *command, *(file.with_suffix(".py") for file in files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    write("\n".join(ended.stdout.splitlines()[-20:]))
    return {"exit status of the tests marked gpu": float(ended.returncode)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--tiny", action="store_true", help="show what would be measured")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device")
    deadline = time.monotonic() + 60 * options.minutes
    device = Device(*((1024, 1) if options.tiny else (65_536, 20)))
    steps = ["--steps", "3" if options.tiny else "50", "--profile"]
    if options.tiny:
        steps += ["--micro-batch-tokens", "4096", "--num-tokens", "100000"]

    def train(share: float, *more: str) -> Rates:
        minutes = max(0.0, share * (deadline - time.monotonic()) / 60)
        own = [] if options.json is None else ["--json", f"{options.json}.{more[0].strip('-')}"]
        pretrain.main([*steps, *more, *own, "--minutes", str(minutes)])
        return {}

    parts: dict[str, Callable[[], Rates]] = {
        "correctness": device.check,
        "matrix products": device.products,
        "copies": device.copies,
        "attention": device.attentions,
        "cuDNN's attention": device.rivals,
        "layer": device.layers,
        "BERT-base": lambda: train(0.65, "--presets", "base", "--lengths", "128,512"),
        "ModernBERT-base": lambda: train(
            0.7, "--architecture", "modernbert", "--presets", "base", "--lengths", "1024"
        ),
        "tests": lambda: run_tests(max(1.0, deadline - time.monotonic())),
    }
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    write(f"{figures['device']}; torch {torch.__version__}")
    failed = 0
    for name, measure in parts.items():
        started = time.monotonic()
        try:
            found = measure()
        except Exception as error:  # noqa: BLE001  it must not cost the other parts
            write(f"{name}: FAILED: {type(error).__name__}: {error}"[:500])
            failed += 1
            continue
        figures[name] = found | {"seconds": time.monotonic() - started}
        measuring.write_json(options.json, figures)
        write(f"{name} ({figures[name]['seconds']:.0f} s)")
        for what, figure in found.items():
            write(f"  {what:<56}{figure:>12.4g}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
