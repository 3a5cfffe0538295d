"""Functions of packages of GPU kernels, as the PyTorch code that computes the same.

FlashAttention, xformers, causal-conv1d and mamba-ssm call compiled kernels, which refuse tensors that are not on a
GPU. While a step is traced, each of these functions is its reference here, wherever it was imported to, so that the
listing does not depend on the packages that are installed.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Reference = Callable[..., Any]

_PACKAGES = ("flash_attn", "xformers", "causal_conv1d", "mamba_ssm")
"""Parts of the names of modules that define such functions; the hub's kernels carry a suffix (flash_attn2_a1b2)."""


@contextmanager
def with_references(model: nn.Module, scan: Callable[[str, Reference], Reference]) -> Iterator[None]:
    """While active, the packages' functions are their references; `scan` makes one op of a scan's."""
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        references = {id(function): made for function, made in _references(scan)}
        if references:
            for names in _namespaces(model):
                for name, value in list(names.items()):
                    if id(value) in references:
                        replaced.append((names, name, value))
                        names[name] = references[id(value)]
        yield
    finally:
        for names, name, value in reversed(replaced):
            names[name] = value


def _references(scan: Callable[[str, Reference], Reference]) -> Iterator[tuple[Any, Reference]]:
    """The functions of packages that are loaded, each with what stands for it."""
    for label, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or not any(package in label for package in _PACKAGES):
            continue
        for name, reference in {**_PLAIN, **_SCANS}.items():
            function = vars(module).get(name)
            if inspect.isfunction(function) and function.__name__ == name:
                made = _called_as(function, reference)
                yield function, scan(name, made) if name in _SCANS else made


def _called_as(function: Any, reference: Reference) -> Reference:
    """`reference` with the arguments of `function` by name."""
    signature, thread = inspect.signature(function), threading.get_ident()

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return reference(**given.arguments)

    return call


def _namespaces(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Where a function can be kept: in modules of Python and of the model."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            yield vars(module)
    for part in model.modules():
        yield vars(part)


# -- attention -------------------------------------------------------------------------------------


def _attention(
    q: Any,
    k: Any,
    v: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **rest: Any,
) -> Any:
    """Batch, positions, heads, width: as flash_attn_func."""
    query, key, value = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out = F.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale, enable_gqa=True
    )
    return _with_sums(out.transpose(1, 2), rest)


def _with_sums(out: Any, rest: dict[str, Any]) -> Any:
    """The output, with the sums of the scores where the function returns them; FlashAttention 4 always does."""
    if rest.get("return_attn_probs") or rest.get("return_softmax"):
        return out, out.new_empty(out.shape[:-1]), None
    return (out, out.new_empty(out.shape[:-1])) if "return_lse" in rest else out


def _of_qkv(qkv: Any, **rest: Any) -> Any:
    return _attention(*qkv.unbind(2), **rest)


def _of_kv(q: Any, kv: Any, **rest: Any) -> Any:
    return _attention(q, *kv.unbind(2), **rest)


def _packed(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: Any,
    max_seqlen_k: Any,
    dropout_p: float = 0.0,
    causal: bool = False,
    **rest: Any,
) -> Any:
    """Sequences of several lengths in one: tokens, heads, width."""
    flash = torch.ops.aten._flash_attention_forward
    longest = int(max_seqlen_q), int(max_seqlen_k)
    out = flash(q, k, v, cu_seqlens_q, cu_seqlens_k, *longest, dropout_p, causal, False)[0]
    return _with_sums(out, rest)


def _packed_of_qkv(qkv: Any, cu_seqlens: Any, max_seqlen: Any, **rest: Any) -> Any:
    q, k, v = qkv.unbind(1)
    return _packed(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **rest)


def _packed_of_kv(q: Any, kv: Any, **rest: Any) -> Any:
    return _packed(q, *kv.unbind(1), **rest)


def _efficient_attention(
    query: Any, key: Any, value: Any, attn_bias: Any = None, p: float = 0.0, scale: Any = None, **_: Any
) -> Any:
    """xformers': batch, positions, (groups,) heads, width; or without heads."""
    shape = query.shape
    if (lengths := getattr(attn_bias, "q_seqinfo", None)) is not None:
        of_keys = getattr(attn_bias, "k_seqinfo", lengths)
        q, k, v = (tensor.reshape(-1, *tensor.shape[2:]).flatten(1, -2) for tensor in (query, key, value))
        out = _packed(q, k, v, lengths.seqstart, of_keys.seqstart, lengths.max_seqlen, of_keys.max_seqlen, p)
        return out.reshape(*shape[:-1], value.shape[-1])
    parts = (part.unsqueeze(2) if part.dim() == 3 else part.flatten(2, -2) for part in (query, key, value))
    q, k, v = (part.transpose(1, 2) for part in parts)
    mask = attn_bias if isinstance(attn_bias, torch.Tensor) else None
    causal = "LowerTriangular" in type(attn_bias).__name__
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, is_causal=causal, scale=scale)
    return out.transpose(1, 2).reshape(*shape[:-1], value.shape[-1])


# -- convolutions and scans ------------------------------------------------------------------------


def _causal_conv(x: Any, weight: Any, bias: Any = None, activation: Any = None, **rest: Any) -> Any:
    """Batch, channels, positions; one filter for each channel."""
    channels, width = weight.shape
    positions = x.shape[-1]
    out = F.conv1d(x.to(weight.dtype), weight.unsqueeze(1), bias, padding=width - 1, groups=channels)
    out = out[..., :positions]
    out = (out if activation is None else F.silu(out)).to(x.dtype)
    return (out, x.new_empty(*x.shape[:-1], width - 1)) if rest.get("return_final_states") else out


def _selective_scan(u: Any, A: Any, return_last_state: bool = False, **_: Any) -> Any:  # noqa: N803
    """Of batch, channels, positions, with a state of A's width for each channel: a product with C at each position."""
    batch, channels, positions = u.shape
    states = A.shape[-1]
    torch.bmm(u.new_empty(batch * positions, channels, states), u.new_empty(batch * positions, states, 1))
    out = u.new_empty(u.shape)
    return (out, u.new_empty(batch, channels, states)) if return_last_state else out


def _chunk_scan(x: Any, B: Any, chunk_size: int, return_final_states: bool = False, **_: Any) -> Any:  # noqa: N803
    """Of batch, positions, heads, width: products within each chunk, and with the state between chunks."""
    batch, positions, heads, width = x.shape
    groups, states = B.shape[-2:]
    length = min(chunk_size, positions)
    chunks = batch * -(-positions // length)
    keys, values = x.new_empty(chunks * groups, length, states), x.new_empty(chunks * heads, length, width)
    torch.bmm(keys, keys.mT)
    torch.bmm(x.new_empty(chunks * heads, length, length), values)
    queries = x.new_empty(chunks * heads, length, states)
    torch.bmm(queries, torch.bmm(queries.mT, values))
    out = x.new_empty(x.shape)
    return (out, x.new_empty(batch, heads, width, states)) if return_final_states else out


def _mamba_inner(
    xz: Any,
    conv1d_weight: Any,
    conv1d_bias: Any,
    x_proj_weight: Any,
    delta_proj_weight: Any,
    out_proj_weight: Any,
    out_proj_bias: Any,
    A: Any,  # noqa: N803
    D: Any = None,  # noqa: N803
    delta_bias: Any = None,
    **_: Any,
) -> Any:
    """A whole block of Mamba after its first projection."""
    selective_scan_fn = sys.modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_fn
    x, z = xz.chunk(2, dim=1)
    x = _causal_conv(x, conv1d_weight.squeeze(1), conv1d_bias, "silu")
    rank, states = delta_proj_weight.shape[1], A.shape[-1]
    delta, b, c = F.linear(x.transpose(1, 2), x_proj_weight).split([rank, states, states], dim=-1)
    delta = F.linear(delta, delta_proj_weight).transpose(1, 2)
    scanned = selective_scan_fn(
        x, delta, A, b.transpose(1, 2), c.transpose(1, 2), D, z=z, delta_bias=delta_bias, delta_softplus=True
    )
    return F.linear(scanned.transpose(1, 2), out_proj_weight, out_proj_bias)


def _mamba2_inner(
    zxbcdt: Any,
    conv1d_weight: Any,
    conv1d_bias: Any,
    dt_bias: Any,
    A: Any,  # noqa: N803
    D: Any,  # noqa: N803
    chunk_size: int,
    activation: Any = "silu",
    rmsnorm_weight: Any = None,
    outproj_weight: Any = None,
    outproj_bias: Any = None,
    headdim: Any = None,
    ngroups: int = 1,
    **rest: Any,
) -> Any:
    """A whole block of Mamba-2 after its first projection."""
    mamba_chunk_scan_combined = sys.modules["mamba_ssm.ops.triton.ssd_combined"].mamba_chunk_scan_combined
    heads = A.shape[0]
    inner = heads * headdim if headdim is not None else D.numel()
    of_groups = (conv1d_weight.shape[0] - inner) // 2
    z, xbc, dt = zxbcdt.split([inner, inner + 2 * of_groups, heads], dim=-1)
    xbc = _causal_conv(xbc.transpose(1, 2), conv1d_weight, conv1d_bias, activation).transpose(1, 2)
    x, b, c = xbc.split([inner, of_groups, of_groups], dim=-1)
    states = of_groups // ngroups
    scanned = mamba_chunk_scan_combined(
        x.unflatten(-1, (heads, inner // heads)),
        dt,
        A,
        b.unflatten(-1, (ngroups, states)),
        c.unflatten(-1, (ngroups, states)),
        chunk_size,
        D=D,
        z=None if rmsnorm_weight is not None else z.unflatten(-1, (heads, inner // heads)),
        dt_bias=dt_bias,
        dt_softplus=True,
    ).flatten(-2)
    if rmsnorm_weight is not None:
        scanned = F.rms_norm(scanned * F.silu(z), (inner,), rmsnorm_weight)
    out = scanned if outproj_weight is None else F.linear(scanned, outproj_weight, outproj_bias)
    return (out, x.new_empty(x.shape[0], heads, inner // heads, states)) if rest.get("return_final_states") else out


_PLAIN: dict[str, Reference] = {
    "flash_attn_func": _attention,
    "flash_attn_qkvpacked_func": _of_qkv,
    "flash_attn_kvpacked_func": _of_kv,
    "flash_attn_varlen_func": _packed,
    "flash_attn_varlen_qkvpacked_func": _packed_of_qkv,
    "flash_attn_varlen_kvpacked_func": _packed_of_kv,
    "memory_efficient_attention": _efficient_attention,
    "causal_conv1d_fn": _causal_conv,
    "mamba_inner_fn": _mamba_inner,
    "mamba_split_conv1d_scan_combined": _mamba2_inner,
}
_SCANS: dict[str, Reference] = {
    "selective_scan_fn": _selective_scan,
    "mamba_chunk_scan_combined": _chunk_scan,
}
