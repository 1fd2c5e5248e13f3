"""Coverage of structured pruning: how many architectures can be halved in width, correctly.

Each architecture (toy size, random weights that are nowhere trivial) is asked to lose half the units of every group.
Success: the forward runs, the outputs have the same shapes, at least 25 % of the parameters are gone, and the result
is what the original gives with the removed channels masked. `lessen` checks this itself before it hands over a
model; here it is checked again, for everybody, in single precision.

    python benchmarks/structured_coverage.py [--quick] [--only NAME ...] [--without-peers]

Torch-Pruning gets the same list, the same inputs, an importance that drops every other channel, `num_heads` where it
must be told, the repairs of attention modules that its examples make, and the layers that make the outputs as
`ignored_layers`. What indices it removed is read off a second copy whose weights are their own positions.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from structured_configs import CONFIGS, build
from structured_nets import NETS
from structured_torch_pruning import analyse, prune
from torch import Tensor, nn

from lessen.models.groups import find_groups
from lessen.models.groups.trace import call, plain_eval, tensors
from lessen.models.surgery import Edit, shrink_with_edits
from lessen.models.surgery.cut import Cut, edits_of
from lessen.models.surgery.oracle import disagreement, masked_outputs

LIMIT = 20  # seconds for one architecture and one tool
QUICK = (
    "resnet_basic",
    "densenet",
    "shufflenet_v2",
    "mobilenet_v3",
    "unet",
    "lstm",
    "gpt_fused",
    "vit_timm",
    "bert",
    "gpt2",
    "llama",
    "t5",
    "swin",
    "wav2vec2",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported, in build()
warnings.simplefilter("ignore")
RESULTS = Path(__file__).parent / "results" / "structured_coverage.json"


class TooSlow(Exception):
    """The time for one architecture is over."""


def limited(work: Callable[[], dict]) -> dict:
    """Run `work`; a failure is a result too."""

    def over(*_: Any) -> None:
        raise TooSlow(f"more than {LIMIT} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT)
    try:
        return work()
    except Exception as error:  # peers fail in many ways
        first = (str(error).splitlines() or [""])[0]
        return {"ok": False, "note": f"{type(error).__name__}: {first[:160]}"}
    finally:
        signal.alarm(0)


def make(name: str) -> tuple[nn.Module, Any]:
    """The network with weights that hide nothing (no zero biases, no unit scales), and inputs."""
    torch.manual_seed(0)
    model, inputs = (NETS[name][0]().eval(), NETS[name][1]()) if name in NETS else build(name.removeprefix("hf_"))
    noise = torch.Generator().manual_seed(1)
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.ndim == 1:
            drawn = torch.rand(tensor.shape, generator=noise) * 0.2
            tensor.data.add_(drawn if "var" in path else drawn - 0.1)
    return model, inputs


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    with plain_eval(model):
        return tensors(call(model, inputs))


def verdict(before: nn.Module, after: nn.Module, inputs: Any) -> dict:
    """Runs, same shapes, at least a quarter gone."""
    shapes = [t.shape for t in run(before, inputs)] == [t.shape for t in run(after, inputs)]
    gone = 1 - count(after) / count(before)
    note = "" if shapes and gone >= 0.25 else ("other output shapes" if not shapes else f"{gone:.0%} gone")
    return {"ok": shapes and gone >= 0.25, "gone": gone, "note": note}


def ours(name: str) -> dict:
    """Half of every group."""
    model, inputs = make(name)
    start = time.perf_counter()
    grouping = find_groups(model, inputs)
    analysis = time.perf_counter() - start
    removals = {g.name: list(range(0, g.size, 2))[: g.size // 2] for g in grouping.groups}
    shrunk = shrink_with_edits(model, removals, inputs, grouping)
    expected, _ = masked_outputs(model, inputs, Cut(grouping.flow, edits_of(grouping, removals)))
    wrong = disagreement(run(shrunk.model, inputs), expected, 1e-4)
    found = verdict(model, shrunk.model, inputs)
    return {
        **found,
        "ok": found["ok"] and not wrong,
        "wrong": bool(wrong),
        "analysis": analysis,
        "form": shrunk.form,
        "reachable": grouping.reachable,
        "seconds": time.perf_counter() - start,
    }


def theirs(name: str) -> dict:
    """Torch-Pruning as its documentation says."""
    model, inputs = make(name)
    grouping = find_groups(model, inputs)
    pruned = copy.deepcopy(model)
    start = time.perf_counter()
    analysis = prune(pruned, inputs, grouping)
    seconds = time.perf_counter() - start
    found = {**verdict(model, pruned, inputs), "analysis": analysis, "seconds": seconds, "wrong": False}
    if found["ok"]:
        wrong = _judged(model, pruned, inputs, grouping)
        found = {**found, "wrong": bool(wrong), "ok": not wrong, "note": wrong}
    return found


def _judged(model: nn.Module, pruned: nn.Module, inputs: Any, grouping: Any) -> str:
    """Its result against the masked original; empty where it agrees or the oracle does not know this removal."""
    coded = copy.deepcopy(model)
    for p in coded.parameters():
        p.data = torch.arange(p.numel(), dtype=torch.float32).view(p.shape)
    prune(coded, inputs, grouping)
    old, edits = dict(model.named_parameters()), []
    for path, p in coded.named_parameters():
        for dim in range(p.ndim):
            if path in old and p.shape[dim] != old[path].shape[dim]:
                stride = old[path].stride(dim)
                kept = p.movedim(dim, 0).reshape(p.shape[dim], -1)[:, 0].long() // stride % old[path].shape[dim]
                edits.append(Edit(path, dim, tuple(kept.tolist())))
    cut = Cut(grouping.flow, edits)
    if {(e.path, e.dim): e.kept for e in edits} != {(e.path, e.dim): e.kept for e in cut.all_edits() if e.path in old}:
        return _judged_plainly(model, pruned, inputs, edits)
    return disagreement(run(pruned, inputs), masked_outputs(model, inputs, cut)[0], 1e-3)


def _judged_plainly(model: nn.Module, pruned: nn.Module, inputs: Any, edits: list[Edit]) -> str:
    """Zero the removed channels where they are made: enough where zero stays zero (convolutional networks)."""
    strange = (nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.ConvTranspose2d, nn.RNNBase)
    if any(isinstance(m, strange) for m in model.modules()) or not any(
        isinstance(m, nn.Conv2d) for m in model.modules()
    ):
        return ""
    masked = copy.deepcopy(model)
    named = dict(masked.named_parameters())
    for edit in edits:
        if edit.dim == 0:
            gone = [i for i in range(named[edit.path].shape[0]) if i not in edit.kept]
            named[edit.path].data.index_fill_(0, torch.tensor(gone), 0)
    return disagreement(run(pruned, inputs), run(masked, inputs), 1e-3)


def summary(who: str, found: dict[str, dict]) -> Iterator[dict]:
    """The rows named in the project's list of figures."""
    n = len(found)
    gone = [f.get("gone", 0.0) if f["ok"] else 0.0 for f in found.values()]
    times = [f["analysis"] for f in found.values() if "analysis" in f]
    figures = {
        "share": (sum(f["ok"] for f in found.values()) / n, "share"),
        "parameters_share": (statistics.mean(gone), "share"),
        "wrong": (sum(f.get("wrong", False) for f in found.values()), "architectures"),
        "seconds": (statistics.median(times) if times else None, "s, median of the analysis"),
    }
    for figure, (value, unit) in figures.items():
        yield {"who": who, "what": "all", "figure": figure, "value": value, "unit": unit, "n": n}


def analysis_times(peer: str, rounds: int = 5) -> Iterator[dict]:
    """Processor time of the graph analysis alone, tools interleaved, best of `rounds`, on networks of real size."""
    import transformers

    models = {
        "resnet50": (
            transformers.ResNetForImageClassification(transformers.ResNetConfig()).eval(),
            {"pixel_values": torch.randn(1, 3, 224, 224)},
        ),
        "bert_base": (
            transformers.BertForSequenceClassification(transformers.BertConfig()).eval(),
            {"input_ids": torch.randint(0, 1000, (1, 32))},
        ),
    }
    for what, (model, inputs) in models.items():
        tools = {
            "lessen": lambda m=model, x=inputs: find_groups(m, x),
            peer: lambda m=model, x=inputs: analyse(m, x),
        }
        times: dict[str, list[float]] = {who: [] for who in tools}
        for _ in range(rounds):
            for who, tool in tools.items():
                start = time.process_time()
                tool()
                times[who].append(time.process_time() - start)
        for who, seconds in times.items():
            yield {
                "who": who,
                "what": what,
                "figure": "analysis_seconds",
                "value": min(seconds),
                "unit": "s of one core",
                "n": rounds,
                "low": min(seconds),
                "high": max(seconds),
            }


def save_times(peer: str, path: Path) -> None:
    """The times of the analysis anew; every other row stays as it was."""
    record, more = json.loads(path.read_text()), list(analysis_times(peer))
    record["rows"] = [r for r in record["rows"] if r["figure"] != "analysis_seconds"] + more
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    record["parts"] = record.get("parts", {}) | {"analysis_seconds": {"command": "--times", "commit": commit}}
    path.write_text(json.dumps(record, indent=1))
    print(*more, sep="\n")


def save(
    found: dict[str, dict[str, dict]], seconds: float, path: Path, more: list[dict], before: dict | None = None
) -> None:
    """Everything so far, in one piece or not at all; `before` is the record that some rows are put into."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = [row for who, results in found.items() if results for row in summary(who, results)]
    rows += [
        {
            "who": who,
            "what": what,
            "figure": "halved",
            "value": int(f["ok"]),
            "unit": "",
            "n": 1,
            **{k: v for k, v in f.items() if k != "ok"},
        }
        for who, results in found.items()
        for what, f in results.items()
    ]
    rows += more
    record = {
        "command": " ".join(["python", "benchmarks/structured_coverage.py", *sys.argv[1:]]),
        "commit": commit,
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": _versions(),
        "seconds": seconds,
        "rows": rows,
    }
    if before is not None:
        what = " ".join(sys.argv[1:])
        parts = before.get("parts", {}) | {what: {"command": what, "commit": commit}}
        record |= {"command": before["command"], "commit": before["commit"], "parts": parts}
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1))
    part.replace(path)


def known(record: dict) -> tuple[dict[str, dict[str, dict]], list[dict]]:
    """What a file of results holds by tool and architecture, and the rows of the times."""
    found: dict[str, dict[str, dict]] = {}
    for row in record["rows"]:
        if row["figure"] == "halved":
            told = {k: v for k, v in row.items() if k not in ("who", "what", "figure", "value", "unit", "n")}
            found.setdefault(row["who"], {})[row["what"]] = {"ok": bool(row["value"]), **told}
    return found, [r for r in record["rows"] if r["figure"] == "analysis_seconds"]


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "torch-pruning", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def main() -> None:
    """Run ours and theirs, one architecture after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", help="only these; the other rows of the file stay as they are")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--times", action="store_true", help="only the time of the analysis, into the file there is")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clash = {n: f"hf_{n}" for n in CONFIGS if n in NETS}
    names = [*NETS, *(clash.get(n, n) for n in CONFIGS)]
    names = list(options.only or (QUICK if options.quick else names))
    peer = f"torch-pruning {_versions()['torch-pruning']}"
    if options.times:
        save_times(peer, options.out)
        return
    found: dict[str, dict[str, dict]] = {"lessen": {}, peer: {}}
    more, before = list[dict](), None
    if options.only and options.out.is_file():
        before = json.loads(options.out.read_text())
        found, more = known(before)
    start = time.perf_counter() - (before["seconds"] if before else 0.0)
    for name in names:
        found["lessen"][name] = limited(lambda name=name: ours(name))
        if not options.without_peers:
            found.setdefault(peer, {})[name] = limited(lambda name=name: theirs(name))
        print(
            f"{name:18s}", "   ".join(_line(results[name]) for results in found.values() if name in results), flush=True
        )
        save(found, time.perf_counter() - start, options.out, more, before)
    if not (options.quick or options.only or options.without_peers):
        more = list(analysis_times(peer))
        save(found, time.perf_counter() - start, options.out, more)
        print(*more, sep="\n")
    for who, results in found.items():
        if results:
            print(who, {r["figure"]: r["value"] for r in summary(who, results)})


def _line(f: dict) -> str:
    mark = "ok   " if f["ok"] else ("WRONG" if f.get("wrong") else "fails")
    form, note = f.get("form", ""), f.get("note", "")[:60]
    return f"{mark} {f.get('gone', 0):4.0%} gone {f.get('analysis', 0):6.2f} s {form:6s} {note}"


if __name__ == "__main__":
    main()
