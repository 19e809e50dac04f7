"""One model on several ranks: replicas whose gradients are averaged, or parts of one model.

    one rank    the model itself
    several     DistributedDataParallel: a replica each; gradients go while the backward pass runs
    fsdp        FSDP2: of each tensor a rank has 1/size, of weights, gradients and moments alike; a
                layer is put together when it is needed, and its gradient is summed and split

Both *average* gradients over ranks. A rank's loss is its sum over the whole batch's count, so what
is wanted is their sum: multiply the loss by ``world.size`` before the backward pass. With counts of
3 and 1 and losses of 6 and 4, the mean is 10 / 4: ranks give 2 * 6 / 4 and 2 * 4 / 4, whose average
is 2.5.

Parts of a model are gathered in fp32, and bf16 is left to autocast as on one rank: so numbers are
the same, where FSDP's own mixed precision would round biases and norms, and with them the logits.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tokkit.errors import UsageError
from tokkit.pretraining.models import Model
from tokkit.pretraining.world import World


def distribute(model: Model, world: World, *, fsdp: bool = False) -> nn.Module:
    """Make a model one of all ranks; all of them have drawn or read the same weights.

    To be called before the optimizer is built, since FSDP replaces parameters. Names of parameters
    are those of ``model``, which DistributedDataParallel wraps and FSDP changes in place.

    Returns:
        What is called with inputs.

    Raises:
        UsageError: where there is nothing to split among.
    """
    if world.size == 1:
        if fsdp:
            raise UsageError("--fsdp splits the model among processes, but there is only one")
        return model
    if not fsdp:
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    # By default the root's stay whole until the backward pass, which does not follow an evaluation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def compile_model(model: Model) -> None:
    """Have a model compiled when it is first called: in place, before it is distributed.

    Part by part, since all layers are one graph then, and between them there is nothing to fuse:
    ``medium``, of 8 layers, was compiled for a CPU in 22 seconds, and in 9 for a further shape, where
    the whole took 51 and 48 and was no faster then. Shapes are static, of which there are a few
    (see ``tokkit.pretraining.microbatches``).

    CUDA graphs are left out: they hide the time that launches take, and with 16,384 tokens a layer
    of BERT-base computes for about a millisecond, which is far more than its launches take; in
    exchange each shape would keep its activations. (By reckoning; not measured.)
    """
    for part in model.children():
        for module in part if isinstance(part, nn.ModuleList) else [part]:
            module.compile(dynamic=False)


@contextmanager
def accumulate(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Run a micro-batch; only the last of a step exchanges gradients.

    Under FSDP each pass through a layer is a collective, so all ranks must have the same number of
    micro-batches, be some of them empty.

    Args:
        model: as ``distribute`` gave it.
        is_last: of the step.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
    if isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors together on the CPU of rank 0; all ranks call it.

    Args:
        tensors: of a model or an optimizer, split or not.

    Returns:
        Rank 0: the whole tensors; copies only of what is split or elsewhere. Others: nothing.
    """
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    full = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_first:
            full[name] = whole.detach().cpu()
    return full


def split_tensors(full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse: give each rank its part of rank 0's tensors; all ranks call it.

    Args:
        full: whole tensors; what others than rank 0 give is not looked at.
        like: tensors of the same names, in the same order on all ranks, that lie as the result is
            to lie: such as a model's parameters.
    """
    parts = {}
    for name, model in like.items():
        if not dist.is_initialized():
            parts[name] = full[name].to(model.device)
            continue
        if dist.get_rank() == 0:
            whole = full[name].to(model.device, model.dtype).contiguous()
        else:
            whole = torch.empty(model.shape, dtype=model.dtype, device=model.device)
        dist.broadcast(whole, 0)
        if isinstance(model, DTensor):
            whole = distribute_tensor(
                whole, model.device_mesh, model.placements, src_data_rank=None
            )
        parts[name] = whole
    return parts
