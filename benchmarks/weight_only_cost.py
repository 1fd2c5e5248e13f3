"""What 4-bit rounding of a language model of 124 million parameters costs: seconds and memory.

The network has the shape of GPT-2 (12 blocks, width 768, vocabulary 50,257) and random weights; calibration is 32
windows of 512 random tokens. Each way runs in a process of its own, on as many threads as torch takes
(OMP_NUM_THREADS). `peak_bytes` is the process's peak of resident memory above what it held with the network loaded,
`model_bytes` the network itself.

    python benchmarks/weight_only_cost.py [--quick] [--ways alone,in_turn]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import common
import torch
from torch import Tensor, nn

from lessen import Uniform
from lessen.bench import Bench, realize
from lessen.in_turn import realize_in_turn
from lessen.models import Layer, Trace
from lessen.plan import Treatment
from lessen.statistics import collect
from zoo.nets import CharacterGPT

NAME, WHAT = "weight_only_cost", "gpt2-shaped, 124 M"
WAYS = {"alone": "lessen/alone", "in_turn": "lessen"}


class Tied(nn.Module):
    """Without the last norm's product with the vocabulary: it is not rounded and would only cost memory."""

    def __init__(self, width: int, depth: int, context: int) -> None:
        super().__init__()
        self.gpt = CharacterGPT(50_257, context, width, depth, width // 64)
        self.gpt.head = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gpt(tokens)


def measured(way: str, quick: bool) -> dict[str, float]:
    """Seconds and bytes of one way, in this process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Tied(128, 2, 64).eval() if quick else Tied(768, 12, 512).eval()
    tokens = torch.randint(50_257, (32, 64 if quick else 512), generator=torch.Generator().manual_seed(0))
    linears = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear)}
    layers = tuple(Layer(f"{n}.weight", "linear", m.weight.detach()) for n, m in linears.items())
    treatments = {x.name: Treatment(Uniform(4, 128)) for x in layers}
    batches = [(b,) for b in tokens.split(8)]
    before, started, cpu = _resident(), time.perf_counter(), time.process_time()
    statistics = collect(net, layers, batches, fisher=0) if way == "alone" else {}
    bench = Bench(net, Trace(layers, (), 1.0, None), statistics)
    made = realize(bench, treatments) if way == "alone" else realize_in_turn(bench, treatments, batches)
    assert len(made.codings) == len(layers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu, "peak_bytes": peak - before,
        "model_bytes": sum(p.numel() * 4 for p in net.parameters()), "threads": torch.get_num_threads(),
    }  # fmt: skip


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def rows_of(way: str, quick: bool) -> list[common.Row]:
    """One way, in a process of its own."""
    asked = [sys.executable, __file__, "--measure", way, *(["--quick"] if quick else [])]
    got = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    who, threads = WAYS[way], f"{got['threads']} threads"
    units = {"seconds": "s", "cpu_seconds": "s", "peak_bytes": "bytes", "model_bytes": "bytes"}
    return [common.row(who, f"{WHAT}, {way}", k, got[k], unit, note=threads) for k, unit in units.items()]


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "a network of 7 M parameters, most of them its vocabulary")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--measure", help="one way, in this process; prints JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure, options.quick)))
        return
    for way in options.ways.split(","):
        started = time.perf_counter()
        rows = rows_of(way, options.quick)
        seconds = time.perf_counter() - started
        common.show(rows)
        common.keep(options, NAME, rows[0]["what"], rows, seconds)


if __name__ == "__main__":
    main()
