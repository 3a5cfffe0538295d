"""From what a user or a driver calls a device to its row: names, families, cloud machines, CPU models."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

from ..base.errors import HardwareError, UnknownHardwareError
from ..base.suggest import clipped
from ..base.tables import read_table
from .cpu_machines import cpu_machine
from .hardware import Hardware, default_user_file, shipped_hardware, user_file, user_hardware
from .machines import family, machine, near_machines

FIGURES_EXAMPLE = "`hardware` 'tflops=35,bandwidth=448,watts=150'"


_ANY_DEVICE = re.compile(r"(cpu|gpu|cuda|mps|rocm|xpu|tpu)s?(:\d+)?", re.IGNORECASE)  # what frameworks call a device


@dataclass(frozen=True, slots=True)
class Match:
    """The part that a name means. `note` says what was assumed; empty where the name is exact."""

    part: Hardware
    note: str = ""


def find_hardware(name: str, *, memory_gb: float | None = None) -> Hardware:
    """The part that `look_up` finds, without its note."""
    return look_up(name, memory_gb=memory_gb).part


def look_up(name: str, *, memory_gb: float | None = None) -> Match:
    """The part of that key, name or alias, on that cloud instance, or of that CPU model.

    Case, punctuation and vendors' filling words do not count. A name that several parts share means
    the first of them, and the note lists the others; `memory_gb`, where the device reports it, tells
    them apart. Raises UnknownHardwareError for a name that is in none of the tables.
    """
    if parts := _named(name):
        return _choose(name, parts, memory_gb)
    if found := _slice(name) or _virtual(name):
        return found
    if memory_gb is None and (
        found := _on_machine(name) or _on_cpu_machine(name) or _with_a_count(name) or _of_family(name)
    ):
        return found
    if cpu := _cpu_models().get(normalise(name)):
        return Match(cpu)
    close = near_names(name)
    hint = f"near names are {', '.join(close)}; " if close else ""
    if _ANY_DEVICE.fullmatch(name.strip()):
        hint = "name the part, as in rtx-4090 or epyc-7763 (`joulecast profiles` lists them); "
    raise UnknownHardwareError(
        f"unknown hardware {clipped(name)!r}: {hint}"
        f"give its figures ({FIGURES_EXAMPLE}), add its row to {user_file() or default_user_file()} "
        "(columns as in datasets/hardware.csv), or calibrate this machine with `measure`"
    )


def _choose(name: str, parts: tuple[Hardware, ...], memory_gb: float | None) -> Match:
    if memory_gb:
        # Drivers keep up to 7 % of the memory back for error correction.
        fits = [part for part in parts if not part.memory_gb or math.isclose(memory_gb, part.memory_gb, rel_tol=0.1)]
        if not fits:
            raise HardwareError(
                f"{name!r} reports {memory_gb:.3g} GB of memory, but {parts[0].key} has {parts[0].memory_gb:g} GB: "
                f"another board under the same name; add its row to {user_file() or default_user_file()}, "
                "or calibrate this machine with `measure`"
            )
        return Match(fits[0])
    first, *others = parts
    if first.is_users or not others:
        return Match(first)
    listed = ", ".join(part.key for part in others)
    return Match(first, f"{name} names several parts; this is {first.name} ({first.key}), the others are {listed}")


_MIG = re.compile(r"(?P<board>.+?)[\s-]+MIG[\s-]+(?P<slices>\d)g\.(?P<gb>\d+)gb(?:\+\w+)*", re.IGNORECASE)
_SLICES, _WHOLE = 8, 7  # of the memory, and of the multiprocessors in the largest instance
_SLICES_OF = {"a30": 4}
_SLICE_POWER_SPREAD = 1.5


def _slice(name: str) -> Match | None:
    """A Multi-Instance GPU as its driver names it, as in "NVIDIA A100-SXM4-40GB MIG 3g.20gb".

    An instance of n slices has n eighths of the multiprocessors (all in the largest) and the eighths of the memory, of
    its bandwidth and of L2 that hold its gigabytes.
    """
    found = _MIG.fullmatch(name.strip()) if len(name) <= _LONGEST else None
    parts = _named(found["board"]) if found else ()
    if found is None or not parts:
        return None
    board, count = parts[0], int(found["slices"])
    slices = _SLICES_OF.get(board.key, _SLICES)
    compute = 1.0 if count >= min(_WHOLE, slices) else count / slices
    memory = min(1.0, max(1, round(int(found["gb"]) / (board.memory_gb or math.inf) * slices)) / slices)
    text = f"{count}g.{found['gb']}gb"
    part = replace(
        board,
        key=f"{board.key}-mig-{text}",
        name=f"{board.name} MIG {text}",
        **{field: rate * compute for field in _COMPUTE if (rate := getattr(board, field)) is not None},
        bandwidth_gb_per_s=board.bandwidth_gb_per_s * memory,
        memory_gb=float(found["gb"]),
        l2_mb=board.l2_mb and board.l2_mb * memory,
        sms=board.sms and max(1, round(board.sms * compute)),
        cores=max(1, round(board.cores * compute)),
        power_w=board.power_w * max(compute, memory),
        idle_w=board.idle_w and board.idle_w * memory,
        power_spread=_SLICE_POWER_SPREAD,
        power_label="assumed",
        notes=(
            f"{name} has {compute:.3g} of the multiprocessors and {memory:.3g} of the memory of one {board.name}; its "
            "power is assumed to be the larger share of the board's",
        ),
    )
    return Match(part)


def _on_cpu_machine(name: str) -> Match | None:
    """The cores of a cloud machine without accelerators: a share of a CPU, or several."""
    found = cpu_machine(name)
    if found is None:
        return None
    cpu = find_hardware(found.part)
    share = found.cores / cpu.cores
    rates = ("bandwidth_gb_per_s", "power_w", "idle_w", *_COMPUTE)
    own = f"{found.costed_for}, costed as {cpu.name} of its generation," if found.costed_for else cpu.name
    part = replace(
        cpu,
        key=found.name.casefold(),
        name=f"{found.name} ({cpu.name})",
        cores=found.cores,
        aliases=(),
        **{field: rate * share for field in rates if (rate := getattr(cpu, field)) is not None},
        notes=(
            f"{found.name} has {found.cores} of the cores of {own} CPUs; its rates and watts are {share:.3g} times "
            "those of one CPU, in proportion to the cores",
        ),
    )
    return Match(part)


_COMPUTE = tuple(field for field in Hardware.__dataclass_fields__ if field.endswith("_tflops"))
_VIRTUAL = re.compile(r"(?:grid|nvidia)\s+(?P<board>.+?)(?P<large>d?)-(?P<gb>\d+)[cqab]", re.IGNORECASE)


def _virtual(name: str) -> Match | None:
    """A virtual GPU, as in "GRID A100D-80C" and "NVIDIA A40-48Q": a share of a board's memory; the rest is in turns."""
    found = _VIRTUAL.fullmatch(name.strip()) if len(name) <= _LONGEST else None
    parts = _named(found["board"]) if found else ()
    if found is None or not parts:
        return None
    memory_gb = float(found["gb"])
    fits = [part for part in parts if (part.memory_gb or 0.0) >= (80.0 if found["large"] else memory_gb)]
    board = (fits or parts)[0]
    part = replace(board, key=f"{board.key}-{found['gb']}gb-vgpu", memory_gb=memory_gb)
    return Match(part, f"{name} is a share of {board.name}; the figures are those of the whole board, alone on it")


_LONGEST = 200  # characters of a name with a count
_TIMES = r"[\s_]*[x*\N{MULTIPLICATION SIGN}][\s_]*"
_COUNTED = re.compile(
    rf"(?:gpus?[\s_:-]+)?(?:(?P<before>\d{{1,4}}){_TIMES}(?P<part>.+)"
    rf"|(?P<name>.+?)(?:{_TIMES}|\s*:\s*)(?P<after>\d{{1,4}})|(?P<node>.+?)-(?P<trailing>\d{{1,4}})x)",
    re.I,
)


def _with_a_count(name: str) -> Match | None:
    counted = counted_part(name)
    if counted is None:
        return None
    match = _choose(counted.part, _named(counted.part), None)
    return Match(match.part, "; ".join(filter(None, (match.note, _count_note(name, counted.devices, match.part)))))


@dataclass(frozen=True, slots=True)
class Counted:
    """A part's name, and how many of it a machine has."""

    part: str
    devices: int


def counted_part(name: str) -> Counted | None:
    """Of names such as "8x A100", "A100 x 8", "a100:8", "gpu_8x_h100_sxm5", and GCP's "n1-standard-8 + T4"."""
    if len(name) > _LONGEST:
        return None
    text = name.rpartition("+")[2].strip() if re.match(r"\s*[a-z]\d[a-z]?-", name, re.I) else name.strip()
    counted = _COUNTED.fullmatch(text)
    inner = text if counted is None else (counted["part"] or counted["name"] or counted["node"]).strip()
    if inner == name.strip() or not _named(inner):
        return None
    return Counted(inner, 1 if counted is None else int(counted["before"] or counted["after"] or counted["trailing"]))


def _count_note(name: str, count: float, part: Hardware) -> str:
    if count == 1:
        return f"{name} has one {part.name}"
    if count < 1:
        return f"{name} has a share ({count:g}) of one {part.name}; the figures are those of the whole"
    return f"{name} has {count:g} x {part.name}; the figures are for 1, unless another number of devices is given"


def _on_machine(name: str) -> Match | None:
    found = machine(name)
    if found is None:
        return None
    part = _named(found.part)[0]
    return Match(part, _count_note(name, found.count, part))


def _of_family(name: str) -> Match | None:
    """The part of a family of cloud machines; the one that most of them have where they differ."""
    machines = family(name)
    if not machines:
        return None
    key, *others = (part for part, _ in Counter(one.part for one in machines).most_common())
    part = _named(key)[0]
    *fewer, most = (f"{count:g}" for count in sorted({one.count for one in machines if one.part == key}))
    counts = f"{', '.join(fewer)} or {most}" if fewer else most
    note = f"{name} is a family of machines with {counts} x {part.name} ({key}); the figures are for 1"
    return Match(part, f"{note}; others of the family have {', '.join(others)}" if others else note)


_MARKS = re.compile(
    r"\((?:r|tm|c)\)|[®™]|@.*$|\b\d+-cores?(?: processor)?\b|\b\d+(?:st|nd|rd|th) gen\b"
    r"|\bw/ ?radeon \w+(?: graphics)?"
)
_FILLING = frozenset(
    re.findall(
        r"\w+",
        """nvidia geforce tesla intel core cpu processor amd instinct radeon apple gpu google cloud aws habana
        generation design with accelerator platinum gold silver bronze graphics lambda runpod coreweave azure colab
        kaggle""",
    )
)


def normalise(name: str) -> str:
    """The name without what vendors add around the part's own: "i74770" for the i7-4770's long form."""
    return "".join(_words(name)).replace("mobile", "laptop")


def _words(name: str) -> list[str]:
    # A trailing "+" tells parts apart (Xeon 8480+ and 8480).
    bare = _MARKS.sub(" ", name.casefold()).replace("+", "plus")
    return [word for word in re.findall(r"[a-z0-9]+", bare) if word not in _FILLING]


_SERIES = re.compile(
    r"(?:rtx|gtx|rx)(\d{4}.*)|(?:i[3579]|ryzen[3579]?|epyc|rtx)(\d{4,5}[a-z].*|a\d{4})"
    r"|(?:arc)([ab]\d{3})|(?:pro)(w\d{4})|(?:ascend)(910[a-z])|(?:tpu)(v\d[a-z]?)"
)


def _named(name: str) -> tuple[Hardware, ...]:
    """The user's parts of that name, then the shipped ones; the words' order counts only where it tells parts apart."""
    wanted = normalise(name)
    exact = (*_by_name(user_hardware()).get(wanted, ()), *_shipped_names().get(wanted, ()))
    return exact or _in_any_order().get(tuple(sorted(_words(name))), ())


@cache
def _in_any_order() -> dict[tuple[str, ...], tuple[Hardware, ...]]:
    """The shipped parts by the sorted words of their names: "H100 80GB SXM5" is the H100 SXM5 80GB."""
    parts: dict[tuple[str, ...], list[Hardware]] = {}
    for part in shipped_hardware():
        for words in dict.fromkeys(tuple(sorted(_words(text))) for text in (part.key, part.name, *part.aliases)):
            parts.setdefault(words, []).append(part)
    parts.pop((), None)
    return {words: tuple(found) for words, found in parts.items()}


@cache
def _shipped_names() -> dict[str, tuple[Hardware, ...]]:
    return _by_name(shipped_hardware())


def _by_name(table: Iterable[Hardware]) -> dict[str, tuple[Hardware, ...]]:
    """The parts of each normalised name, in the table's order."""
    exact: dict[str, list[Hardware]] = {}
    for part in table:
        for name in dict.fromkeys(normalise(text) for text in (part.key, part.name, *part.aliases)):
            exact.setdefault(name, []).append(part)
    exact.pop("", None)
    names = {name: tuple(parts) for name, parts in exact.items()}
    for name, parts in exact.items():  # "4090", "7900 XTX", "A6000", "13900K", "B580"
        if short := _SERIES.fullmatch(name):
            names.setdefault(next(filter(None, short.groups())), tuple(parts))
    return names


def near_names(name: str) -> list[str]:
    """Keys of parts whose names contain the wanted one, then machine types and parts that are spelt alike.

    Where the name tells the vendor or the kind, parts of others are left out.
    """
    names, wanted = {**_shipped_names(), **_by_name(user_hardware())}, normalise(name)
    is_alike = _of_its_kind(name)
    inside = [known for known in names if wanted and (known.startswith(wanted) or wanted in known)]
    close = difflib.get_close_matches(wanted, names, n=20, cutoff=0.65)
    keys = [[part.key for known in group if is_alike(part := names[known][0])] for group in (inside, close)]
    return list(dict.fromkeys((*keys[0], *near_machines(name), *keys[1])))[:4]


_VENDOR_WORDS = (
    ("NVIDIA", r"nvidia|geforce|quadro|tesla|grid|jetson|[rg]tx"),
    ("AMD", r"amd|radeon|instinct|epyc|ryzen|threadripper|gfx"),
    ("Intel", r"intel|xeon|core|arc|celeron|pentium"),
    ("Apple", r"apple"),
)
_KIND_WORDS = (("gpu", r"geforce|quadro|tesla|radeon rx|instinct|gpu|[rg]tx"), ("cpu", r"epyc|xeon|ryzen|core|cpu"))


def _of_its_kind(name: str) -> Callable[[Hardware], bool]:
    vendor = next((vendor for vendor, words in _VENDOR_WORDS if re.search(rf"\b(?:{words})", name, re.I)), None)
    kind = next((kind for kind, words in _KIND_WORDS if re.search(rf"\b(?:{words})", name, re.I)), None)
    return lambda part: vendor in (None, part.vendor) and kind in (None, part.kind)


@cache
def _cpu_models() -> dict[str, Hardware]:
    """The CPUs of `cpus.csv`, by normalised name."""
    models = {}
    for row in read_table("cpus.csv"):
        models[normalise(row["name"])] = Hardware(
            key=re.sub(r"[^a-z0-9]+", "-", row["name"].casefold()).strip("-"),
            name=row["name"],
            vendor=row["vendor"],
            kind="cpu",
            year=int(row["year"]),
            fp32_tflops=int(row["cores"]) * float(row["base_ghz"]) * float(row["flop_per_cycle"]) / 1000,
            tf32_tflops=None,
            fp16_tflops=None,
            bf16_tflops=None,
            memory_gb=None,
            bandwidth_gb_per_s=float(row["bandwidth_gb_per_s"]),
            power_w=float(row["power_w"]),
            idle_w=None,
            cores=int(row["cores"]),
            aliases=(),
            source=f"{row['source']}; FP32 computed from cores, base clock and FLOP per cycle of its generation, "
            "bandwidth that of its generation's memory",
        )
    return models
