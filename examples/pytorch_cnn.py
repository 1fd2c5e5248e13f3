"""A PyTorch network of one's own: int8 for a runtime, then the smallest file, then fewer channels with fine-tuning.

The network and the data are the demo's (a ResNet on Fashion-MNIST); put your own `nn.Module` and arrays in their place.
"""

import lessen
from lessen.demo import data
from lessen.demo.network import network

net, parts = network(), data.parts()

# One call: the smallest and fastest form that loses at most one point, as an ONNX file that runs on integers.
fast = lessen.compress(net, parts, "1%", using=[lessen.Uniform(8)], target="onnxruntime")
print(f"int8:   {fast.report.ratios.size:.1f}x smaller, {100 * fast.report.drop.value:+.2f} points lost")

# All options: the smallest file, half a point at most, the first convolution left alone.
small = lessen.Compression(net, parts, lessen.Budget(max_drop=0.5), "uniform,kmeans", "packed", skip=("stem.0",)).run(
    "packed"
)
print(f"packed: {small.report.ratios.size:.1f}x smaller, {100 * small.report.drop.value:+.2f} points lost")

# The packed file goes back into the original class.
same = lessen.load_into(network(), small.files["model.lessen"])
x, _ = data.part("test")
assert (same(x[:8]) - small.model(x[:8])).abs().max() < 1e-3

# One technique alone, in one line.
coarse = lessen.apply(net, lessen.Uniform(bits=3), (x[:300],))
print(f"3 bits: {int((coarse(x[:500]).argmax(1) == net(x[:500]).argmax(1)).sum())} of 500 answers unchanged")
