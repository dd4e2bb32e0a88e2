"""Clipped gradients beside a step without privacy and three peers: time in one run, peak memory in fresh processes.

python benchmarks/gradients.py --rounds 5

One thread, processor time, small interleaved rounds, medians. Exit 1 where a wanted ratio is missed.
"""

import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from contestants import CONTESTANTS, ONE_ROW_EACH, Case, Denoiser, Step
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from report import Row, parser, publish

WANTED = {"lora": 1.10, "attention": 1.20, "everything": 1.40}
TRAINED = {
    "lora": lambda name: "lora_" in name,
    "attention": lambda name: ".attentions." in name,  # whole transformer blocks, as DP-LDM
    "everything": lambda name: True,
}
# The UNets of the research note: 6.1 M parameters, and 107 M with the widths of Stable Diffusion's first two levels.
SIZES = {
    "small": {
        "block_out_channels": (64, 128),
        "layers_per_block": 2,
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
    },
    "wide": {
        "block_out_channels": (320, 640),
        "layers_per_block": 1,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
}
TIMED = [  # size, trained, units, draws
    ("small", "lora", 16, 1),
    ("small", "attention", 16, 1),
    ("small", "everything", 16, 1),
    ("small", "attention", 4, 4),
]
TIMED_WIDE = [("wide", "lora", 4, 1), ("wide", "attention", 4, 1)]
MEASURED = {("small", "everything"): (4, 16), ("wide", "attention"): (1, 4)}


def make_case(size: str, trained: str, units: int, draws: int) -> Case:
    """16x16 latents, 77 words."""
    torch.manual_seed(0)
    rows, width = units * draws, SIZES[size]["cross_attention_dim"]
    inputs = (
        torch.randn(rows, 4, 16, 16),
        torch.randint(0, 1000, (rows,)),
        torch.randn(rows, 77, width),
        torch.randn(rows, 4, 16, 16),
    )

    def build() -> Denoiser:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            **SIZES[size],
        )
        if trained == "lora":
            unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        return Denoiser(unet)

    return Case(build, TRAINED[trained], inputs, draws)


def check_agreement(steps: dict[str, Step]) -> None:
    """All private contestants must have computed the same clipped sum, or their times mean nothing."""
    sums = {name: torch.cat([p.grad.flatten() for p in step()]) for name, step in steps.items() if name != "no privacy"}
    for name, found in sums.items():
        error = float((found - sums["ours"]).norm() / sums["ours"].norm())
        if error > 2e-3:  # ours clips 2^-10 inside C and cuts values to integers
            sys.exit(f"{name} found another clipped sum (relative error {error:.1e})")


def timed(size: str, trained: str, units: int, draws: int, rounds: int) -> list[Row]:
    """Seconds a step of every contestant, in interleaved rounds."""
    case = make_case(size, trained, units, draws)
    steps = {name: make(case) for name, make in CONTESTANTS.items() if draws == 1 or name not in ONE_ROW_EACH}
    steps["no privacy"]()
    check_agreement(steps)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    median = {name: statistics.median(measured) for name, measured in seconds.items()}
    title = f"{size}, {trained}, {units} units" + (f" x {draws} draws" if draws > 1 else "")
    return [Row(title, "CPU seconds a step", median["ours"], median[name], name) for name in steps if name != "ours"]


def peak(size: str, trained: str, units: int, name: str) -> float:
    """Peak MB of one step above what was there before it, in a fresh process whose freed memory goes back."""
    words = [sys.executable, __file__, "--peak", size, trained, str(units), name]
    found = subprocess.run(
        words, check=True, capture_output=True, text=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    )
    return float(found.stdout.split()[-1])


def print_peak(size: str, trained: str, units: int, name: str) -> None:
    """In the fresh process: a step of one unit warms up, then the high-water mark is reset."""
    CONTESTANTS[name](make_case(size, trained, 1, 1))()
    step = CONTESTANTS[name](make_case(size, trained, units, 1))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    step()
    print((_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def memory(size: str, trained: str) -> list[Row]:
    """Peaks at a small and a large batch, and what one more unit takes."""
    few, many = MEASURED[size, trained]
    names = [name for name in CONTESTANTS if name != "torch.func vmap"]
    low = {name: peak(size, trained, few, name) for name in names}
    high = {name: peak(size, trained, many, name) for name in names}
    each = {name: (high[name] - low[name]) / (many - few) for name in names}
    rows = []
    for units, found in ((few, low), (many, high)):
        title = f"{size}, {trained}, {units} units"
        rows += [Row(title, "peak MB of a step", found["ours"], found[name], name) for name in names[1:]]
    title = f"{size}, {trained}"
    return rows + [Row(title, "MB for one more unit", each["ours"], each[name], name) for name in names[1:]]


def missed(rows: list[Row]) -> list[str]:
    """Ratios above what was promised: the limit beside no privacy, 1 beside the peers."""
    late = []
    for row in rows:
        limit = WANTED[row.case.split(", ")[1]] if row.peer_name == "no privacy" else 1.0
        if row.metric == "CPU seconds a step" and row.ratio > limit:
            late.append(f"{row.case}: {row.ratio:.2f} of {row.peer_name}, wanted {limit}")
    return late


def main() -> None:
    """Measure, tabulate, and fail above a ratio that was promised."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--wide", action="store_true", help="the 107 M parameter UNet too")
    arguments.add_argument("--no-memory", action="store_true")
    arguments.add_argument("--peak", nargs=4, metavar=("SIZE", "TRAINED", "UNITS", "NAME"))
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # the peers' own, at every step
    if chosen.peak:
        size, trained, units, name = chosen.peak
        print_peak(size, trained, int(units), name)
        return
    rows = []
    for case in TIMED + (TIMED_WIDE if chosen.wide else []):
        rows += timed(*case, rounds=chosen.rounds)
    if not chosen.no_memory:
        for size, trained in MEASURED:
            rows += memory(size, trained) if size == "small" or chosen.wide else []
    publish("clipped gradients, one thread", rows, chosen.json)
    if missed(rows):
        sys.exit("above what was promised: " + "; ".join(missed(rows)))


if __name__ == "__main__":
    main()
